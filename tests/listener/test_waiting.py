"""Waiting for coroutine receivers on loops of every state: no server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sqlalchemy_watch.errors import ListenerError
from sqlalchemy_watch.listener import waiting as module
from sqlalchemy_watch.listener.waiting import Coroutine, Waiting

Begin = Callable[[], Awaitable[Any]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOP_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOOP_GRACE_SECONDS", 0.05)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@contextmanager
def running(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """The loop, in a thread of its own."""
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def run(waiting: Waiting, begin: Begin, loop: asyncio.AbstractEventLoop | None = None) -> BaseException | None:
    (outcome,) = waiting.run([Coroutine(begin, begin, loop)])
    return outcome


async def nothing() -> None:
    pass


async def fail() -> None:
    raise ValueError("no")


async def be_cancelled() -> None:
    raise asyncio.CancelledError


def test_what_a_coroutine_raises_is_returned(loop: asyncio.AbstractEventLoop) -> None:
    waiting = Waiting(loop)
    with running(loop):
        outcomes = waiting.run([Coroutine(begin, begin, None) for begin in (nothing, fail, be_cancelled, nothing)])
    assert [type(outcome).__name__ for outcome in outcomes] == ["NoneType", "ValueError", "CancelledError", "NoneType"]
    assert not waiting.was_cut_short


def test_coroutines_run_side_by_side(loop: asyncio.AbstractEventLoop) -> None:
    arrived = asyncio.Event()

    async def wait() -> None:
        await arrived.wait()

    async def arrive() -> None:
        arrived.set()

    with running(loop):
        assert Waiting(loop).run([Coroutine(begin, begin, None) for begin in (wait, arrive)]) == [None, None]


def test_without_a_loop_or_on_a_closed_one_a_coroutine_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    assert "was not running" in str(run(Waiting(), nothing))
    closed = asyncio.new_event_loop()
    closed.close()
    assert "is closed" in str(run(Waiting(loop), nothing, closed))


def test_on_a_loop_that_stands_still_a_coroutine_fails_and_never_begins(loop: asyncio.AbstractEventLoop) -> None:
    waiting, called = Waiting(loop), list[int]()

    async def call() -> None:
        called.append(1)

    outcome = run(waiting, call)
    assert isinstance(outcome, ListenerError)
    assert "does not run, though it is not closed" in str(outcome)
    assert "test_waiting" in str(outcome)
    with running(loop):
        assert run(waiting, nothing) is None  # it runs again: so it is used again
    assert called == []
    assert not waiting.was_cut_short


def test_a_loop_that_stood_still_is_not_waited_for_again(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting(loop)
    assert isinstance(run(waiting, nothing), ListenerError)
    monkeypatch.setattr(module, "LOOP_GRACE_SECONDS", 600)
    assert isinstance(run(waiting, nothing), ListenerError)


def test_a_loop_may_stand_still_for_a_moment(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOP_GRACE_SECONDS", 600)
    waiting, outcomes = Waiting(loop), list[Any]()
    thread = threading.Thread(target=lambda: outcomes.append(run(waiting, nothing)))
    thread.start()
    thread.join(0.1)
    assert outcomes == []
    with running(loop):
        thread.join(10)
    assert outcomes == [None]


def test_a_coroutine_whose_loop_stops_in_the_middle_fails_and_is_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    waiting, ended = Waiting(loop), list[str]()
    begun = threading.Event()

    async def stop_the_loop() -> None:
        loop.call_soon(loop.stop)
        begun.set()
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    assert "does not run" in str(run(waiting, stop_the_loop))
    thread.join()
    with running(loop):
        assert run(waiting, nothing) is None
    assert ended == ["cancelled"]


def test_stop_ends_the_waiting_and_what_has_not_begun_never_does(loop: asyncio.AbstractEventLoop) -> None:
    waiting, called = Waiting(loop), list[int]()

    async def call() -> None:
        called.append(1)

    waiting.stop()
    waiting.stop()
    assert run(waiting, call) is None
    assert waiting.was_cut_short
    with running(loop):
        assert asyncio.run_coroutine_threadsafe(nothing(), loop).result(10) is None
    assert called == []


def test_after_stop_there_is_a_last_time_that_stop_does_not_end(loop: asyncio.AbstractEventLoop) -> None:
    waiting = Waiting(loop)
    waiting.stop()
    waiting.extend(600)
    waiting.stop()  # late: the thread was faster
    assert not waiting.is_over
    with running(loop):
        assert run(waiting, lambda: asyncio.sleep(0.05)) is None
    assert not waiting.was_cut_short
    waiting.extend(0.0)
    assert waiting.is_over


def test_the_last_time_ends_for_a_coroutine_that_never_does(loop: asyncio.AbstractEventLoop) -> None:
    waiting = Waiting(loop)
    waiting.extend(0.05)
    tasks: list[Any] = []

    async def wait_for_ever() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(600)

    with running(loop):
        assert run(waiting, wait_for_ever) is None
        loop.call_soon_threadsafe(tasks[0].cancel)
    assert waiting.was_cut_short


def test_a_task_that_is_waited_for_is_known(loop: asyncio.AbstractEventLoop) -> None:
    waiting, found = Waiting(loop), list[bool]()

    async def look() -> None:
        found.append(waiting.is_for(asyncio.current_task()))
        found.append(await loop.create_task(look_from_another()))

    async def look_from_another() -> bool:
        return waiting.is_for(asyncio.current_task())

    with running(loop):
        assert run(waiting, look) is None
    assert found == [True, False]
    assert not waiting.is_for(None)
