"""The limit of queries, over the ways in which psycopg waits: no server."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any, cast

import pytest

from sqlalchemy_watch.listener.server.deadline import Unanswered, limit_queries


class Waiting:
    """Waits as a connection does, and resumes with the given words where nothing comes."""

    word = 0

    def wait(self, generator: Generator[int, int, str]) -> str:
        next(generator)
        try:
            while True:
                time.sleep(0.01)
                generator.send(self.word)
        except StopIteration as end:
            return cast(str, end.value)


class WaitingAsPsycopg3210(Waiting):
    """Its loop in C resumes as if there were something to read."""

    word = 1


def answered_after(resumptions: int) -> Generator[int, int, str]:
    for _ in range(resumptions):
        yield 1
    return "answer"


@pytest.fixture(params=[Waiting, WaitingAsPsycopg3210])
def waiting(request: pytest.FixtureRequest) -> Any:
    return request.param()


def limited(waiting: Any, seconds: float, stopping: threading.Event | None = None) -> Any:
    limit_queries(waiting, seconds, stopping)
    return waiting


def test_an_answer_in_time(waiting: Any) -> None:
    assert limited(waiting, 10.0).wait(answered_after(3)) == "answer"


def test_no_answer(waiting: Any) -> None:
    with pytest.raises(Unanswered, match=r"within 0\.05 s"):
        limited(waiting, 0.05).wait(answered_after(1_000))


def test_stopped_meanwhile(waiting: Any) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(Unanswered, match="stopped"):
        limited(waiting, 10.0, stopping).wait(answered_after(1_000))


def test_an_answer_that_was_there_while_the_process_was_suspended(waiting: Any) -> None:
    def answered_late() -> Generator[int, int, str]:
        yield 1
        time.sleep(0.05)
        return "answer"

    assert limited(waiting, 0.01).wait(answered_late()) == "answer"
