"""`Listener.run()`: a program that does nothing else."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from postgres import Cluster
from sqlalchemy import Engine

from sqlalchemy_watch import Listener, ListenerError

from . import programs


@pytest.fixture
def url(cluster: Cluster, database: str) -> str:
    return cluster.url(database, "psycopg")


def test_it_returns_after_a_signal_and_gives_the_handlers_back(url: str) -> None:
    code = """
    import signal
    numbers = (signal.SIGINT, signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: None)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        listener = Listener(engine, Base)
        listener.connected.connect(lambda sender: os.kill(os.getpid(), number), weak=False)
        listener.run()
        print(listener.running, [signal.getsignal(number) for number in numbers] == before, listener.healthy())
    """
    assert programs.run(url, code) == "False True False\nFalse True False"


def test_a_listener_that_runs_already_is_stopped_in_the_same_way(url: str) -> None:
    code = """
    import signal
    listener = Listener(engine, Base)
    @User.watch.inserted.connect
    def end(sender, event):
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
    with listener:
        insert(1)
        listener.run()
        print(heard, listener.running)
    """
    assert programs.run(url, code) == "[1] False"


def test_it_returns_when_somebody_else_stops_the_listener(url: str) -> None:
    code = """
    listener = Listener(engine, Base)
    listener.connected.connect(lambda sender: listener.stop(), weak=False)
    listener.run()
    print(listener.running)
    """
    assert programs.run(url, code) == "False"


def test_coroutine_receivers_run_in_the_main_thread(url: str) -> None:
    code = """
    import asyncio, signal
    listener = Listener(engine, Base)
    @User.watch.inserted.connect
    async def end(sender, event):
        await asyncio.sleep(0)
        print(threading.current_thread() is threading.main_thread(), flush=True)
        os.kill(os.getpid(), signal.SIGINT)
    @listener.connected.connect
    def write(sender):
        insert(1)
    listener.run()
    """
    assert programs.run(url, code) == "True"


def test_a_wrong_setting_that_is_found_at_start_is_raised_and_the_handlers_are_given_back(url: str) -> None:
    code = """
    import signal
    from sqlalchemy_watch import ConfigurationError, Watch
    before = signal.getsignal(signal.SIGTERM)
    targets = [Base]
    class Wrong(Listener):
        def start(self, *args, **kwargs):
            raise ConfigurationError("wrong")
    try:
        Wrong(engine, Base).run()
    except ConfigurationError as error:
        print(error, signal.getsignal(signal.SIGTERM) == before)
    """
    assert programs.run(url, code) == "wrong True"


def test_in_another_thread_it_is_refused_with_the_remedy(engine: Engine, User: Any) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            Listener(engine, User).run()
        except ListenerError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "only the main thread gets signals: call run() there, or start() and stop()" in str(raised[0])


def test_in_a_running_loop_it_is_refused_with_the_remedy(engine: Engine, User: Any) -> None:
    async def run() -> None:
        Listener(engine, User).run()

    with pytest.raises(ListenerError, match="async with listener"):
        asyncio.run(run())
