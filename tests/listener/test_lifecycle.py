"""The listener's own signals: coroutines are waited for, and no receiver keeps anything from the others."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest
from postgres import needs_logical_messages
from sqlalchemy import Engine
from support import end_listeners, insert, wait_until

from sqlalchemy_watch import Listener, ListenerError, wire

from .conftest import MakeListener

Client = psycopg.Connection[Any]


class Reload:
    """An object whose call is a coroutine."""

    def __init__(self, journal: list[Any], go_on: asyncio.Event) -> None:
        self._journal, self._go_on = journal, go_on

    async def __call__(self, listener: Any, **details: Any) -> None:
        await self._reload("object")

    async def _reload(self, name: str) -> None:
        self._journal.append(f"{name} begins")
        await self._go_on.wait()
        self._journal.append(f"{name} ends")

    async def method(self, listener: Any, **details: Any) -> None:
        await self._reload("method")

    def plain(self, listener: Any, **details: Any) -> Any:
        return self._reload("plain")


@pytest.mark.parametrize("kind", ["object", "method", "plain"])
def test_events_wait_for_a_coroutine_that_reloads(engine: Engine, client: Client, User: Any, kind: str) -> None:
    journal: list[Any] = []

    async def store(sender: Any, event: Any) -> None:
        journal.append(event.identity[0])

    def note(sender: Any, event: Any) -> None:
        journal.append(-event.identity[0])

    async def main() -> None:
        go_on = asyncio.Event()
        reload = Reload(journal, go_on)
        receiver = {"object": reload, "method": reload.method, "plain": reload.plain}[kind]
        User.watch.inserted.connect(store)
        User.watch.inserted.connect(note)
        listener = Listener(engine, User)
        listener.resync.connect(receiver)
        async with listener:
            await asyncio.to_thread(end_listeners, client)
            while not journal:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(insert, client, "users", 1)
            await asyncio.sleep(0.05)
            go_on.set()
            await listener.catch_up_async()

    asyncio.run(main())
    assert journal == [f"{kind} begins", f"{kind} ends", -1, 1]


def test_connected_and_disconnected_are_waited_for_in_the_order_of_events(
    engine: Engine, client: Client, User: Any
) -> None:
    journal: list[Any] = []

    async def note(name: str) -> None:
        journal.append(f"{name} begins")
        await asyncio.sleep(0.02)
        journal.append(f"{name} ends")

    async def on_connected(listener: Any) -> None:
        await note("connected")

    async def on_disconnected(listener: Any, error: Any) -> None:
        await note("disconnected")

    async def on_resync(listener: Any, reason: str) -> None:
        await note("resync")

    async def main() -> None:
        listener = Listener(engine, User)
        listener.connected.connect(on_connected)
        listener.disconnected.connect(on_disconnected)
        listener.resync.connect(on_resync)
        async with listener:
            await asyncio.to_thread(end_listeners, client)
            await asyncio.to_thread(wait_until, client, lambda: len(journal) == 8)

    asyncio.run(main())
    names = ("connected", "disconnected", "connected", "resync")
    assert journal == [f"{name} {what}" for name in names for what in ("begins", "ends")]


def test_a_coroutine_that_raises_keeps_nothing_from_the_others(
    engine: Engine, client: Client, User: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reasons: list[str] = []

    async def fail(listener: Any, reason: str) -> None:
        raise ValueError("no database")

    async def note(listener: Any, reason: str) -> None:
        reasons.append(reason)

    def note_as_well(listener: Any, reason: str) -> None:
        reasons.append(reason)

    async def main() -> None:
        listener = Listener(engine, User)
        for receiver in (fail, note, note_as_well):
            listener.resync.connect(receiver)
        async with listener:
            await asyncio.to_thread(end_listeners, client)
            await asyncio.to_thread(wait_until, client, lambda: len(reasons) == 2)
            await listener.catch_up_async()

    asyncio.run(main())
    assert "fail of the listener failed" in caplog.text
    assert "no database" in caplog.text


def test_a_coroutine_without_a_loop_is_told_of_and_the_listener_goes_on(
    engine: Engine, client: Client, User: Any, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def reload(listener: Any, reason: str) -> None: ...

    User.watch.inserted.connect(recorder)
    listener = Listener(engine, User)
    listener.resync.connect(reload)
    with listener:
        end_listeners(client)
        wait_until(client, lambda: listener.stats().resyncs)
        insert(client, "users", 1)
        listener.catch_up()
    assert recorder.heard() == [("inserted", (1,))]
    assert "inside a running loop" in caplog.text


def test_a_coroutine_whose_loop_stopped_or_closed_does_not_hold_the_listener(
    engine: Engine, client: Client, User: Any, recorder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def reload(listener: Any, reason: str) -> None: ...

    async def start() -> None:
        listener.start()

    User.watch.inserted.connect(recorder)
    listener = Listener(engine, User)
    listener.resync.connect(reload)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    try:
        for number, state in ((1, "does not run"), (2, "is closed")):
            end_listeners(client)
            wait_until(client, lambda number=number: listener.stats().resyncs == number)  # type: ignore[misc]
            insert(client, "users", number)
            listener.catch_up()
            assert recorder.events[-1].identity == (number,)
            assert state in caplog.text
            loop.close()
    finally:
        listener.stop()


def test_stop_does_not_wait_for_a_coroutine_that_never_ends(engine: Engine, client: Client, User: Any) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def reload(listener: Any, reason: str) -> None:
            begun.set()
            await asyncio.sleep(600)

        listener = Listener(engine, User)
        listener.resync.connect(reload)
        async with listener:
            await asyncio.to_thread(end_listeners, client)
            await asyncio.wait_for(begun.wait(), 20)
        assert [t.name for t in threading.enumerate() if t.name.startswith("sqlalchemy-watch")] == []

    asyncio.run(main())


def test_a_coroutine_may_stop_the_listener(engine: Engine, client: Client, User: Any) -> None:
    async def main() -> bool:
        stopped = asyncio.Event()

        async def stop(listener: Any, error: Any) -> None:
            listener.stop()
            stopped.set()

        listener = Listener(engine, User)
        listener.disconnected.connect(stop)
        listener.start()
        await asyncio.to_thread(end_listeners, client)
        await asyncio.wait_for(stopped.wait(), 20)
        return listener.running

    assert asyncio.run(main()) is False


def test_a_coroutine_that_would_wait_for_itself_is_told_so(engine: Engine, client: Client, User: Any) -> None:
    async def main() -> list[str]:
        refused: list[str] = []
        later: list[asyncio.Task[None]] = []

        async def catch_up(sender: Any, **details: Any) -> None:
            with pytest.raises(ListenerError) as raised:
                await listener.catch_up_async()
            refused.append(str(raised.value))
            later.append(asyncio.create_task(listener.catch_up_async()))

        User.watch.inserted.connect(catch_up)
        listener = Listener(engine, User)
        listener.resync.connect(catch_up)
        async with listener:
            await asyncio.to_thread(end_listeners, client)
            await asyncio.to_thread(wait_until, client, lambda: refused)
            await asyncio.to_thread(insert, client, "users", 1)
            await listener.catch_up_async()
            await asyncio.gather(*later)
        return refused

    refused = asyncio.run(main())
    assert len(refused) == 2
    assert all("would wait for itself" in words for words in refused)


@needs_logical_messages
def test_a_groups_events_wait_for_a_coroutine_that_reloads_and_are_not_acknowledged_before(
    client: Client, Order: Any, durable: MakeListener
) -> None:
    journal: list[Any] = []

    def note(sender: Any, event: Any) -> None:
        journal.append(event.identity[0])

    async def main() -> None:
        release = asyncio.Event()

        async def reload(listener: Any, reason: str) -> None:
            journal.append("begins")
            await release.wait()
            journal.append("ends")

        Order.watch.inserted.connect(note)
        prefix = wire.DURABLE_PREFIX + Order.watch.inserted.details.channel
        unreadable = f"""SELECT pg_logical_emit_message(true, '{prefix}', '{{"v": 99}}')"""
        listener = durable()
        listener.resync.connect(reload)
        async with listener:
            await asyncio.to_thread(client.execute, unreadable)
            await asyncio.to_thread(wait_until, client, lambda: journal == ["begins"])
            await asyncio.to_thread(insert, client, "orders", 1)
        assert journal == ["begins"]  # cut short: so it is told of again
        release.set()
        again = durable()
        again.resync.connect(reload)
        async with again:
            await again.catch_up_async()

    asyncio.run(main())
    assert (journal.count("begins"), journal.count("ends"), journal[-1]) == (2, 2, 1)
