"""Fork, exit and Ctrl-C, each in processes of their own: no hang, no traceback, no thread left over."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from support import wait_until

from .programs import FORKED, Program, run

LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch' AND datname = %s"


@pytest.fixture
def url(cluster: Cluster, database: str) -> str:
    return cluster.url(database, "psycopg")


@contextmanager
def surviving_child(program: Program) -> Iterator[None]:
    """The child of a program that prints its id: whatever becomes of the parent, it lives until the block ends."""
    child = int(program.line())
    try:
        yield
        os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, signal.SIGKILL)
        program.finish()


def test_fork_leaves_the_parents_listener_alone_and_the_child_has_its_own(url: str) -> None:
    output = run(
        url,
        """
        listener = Listener(engine, User, heartbeat_interval=0.1, heartbeat_timeout=1)
        listener.start()
        insert(1)
        listener.catch_up()
        assert heard == [1]
        child = os.fork()
        if child == 0:
            assert not listener.running
            assert threading.active_count() == 1
            insert(2)
            own = Listener(engine, User)
            with own:
                insert(3)
                own.catch_up()
            assert heard == [1, 3], heard
            heard.clear()
            with listener:  # the inherited one starts anew
                insert(4)
                listener.catch_up()
            assert heard == [4], heard
            sys.exit(0)  # with all that an interpreter does at its end
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        time.sleep(0.3)  # some heartbeats
        insert(5)
        listener.catch_up()
        assert heard == [1, 2, 3, 4, 5], heard
        assert listener.stats().reconnects == 0
        listener.stop()
        print("done")
        """,
    )
    assert output == "done"


def test_a_forked_child_says_once_that_the_parents_listeners_do_not_run_there(url: str) -> None:
    program = Program(
        url,
        """
        listener, another, stopped = Listener(engine, User), Listener(engine, User), Listener(engine, User)
        stopped.start()
        stopped.stop()
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        with listener, another:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.wait()
        print(child)
        """,
    )
    status, child, errors = program.finish()
    assert status == 0, errors
    assert errors.splitlines() == [f"{FORKED} ({child}): start one here if it is to hear"]


def test_coroutine_receivers_run_on_the_loop_of_the_child(url: str) -> None:
    output = run(
        url,
        """
        import asyncio

        later = []

        async def receive(sender, event):
            later.append(event.identity[0])

        User.watch.inserted.connect(receive)
        listener = Listener(engine, User)

        async def hear(id):
            listener.start()
            insert(id)
            await listener.catch_up_async(5)

        loop = asyncio.new_event_loop()  # goes on to be there, as a server's does
        loop.run_until_complete(hear(1))
        child = os.fork()
        if child == 0:
            asyncio.run(hear(2))
            listener.stop()
            os._exit(later != [1, 2])
        else:
            ended = loop.run_until_complete(asyncio.wait_for(loop.run_in_executor(None, os.waitpid, child, 0), 10))
            assert ended == (child, 0)
            loop.run_until_complete(listener.catch_up_async(5))
            loop.run_until_complete(loop.shutdown_default_executor())
            listener.stop()
            print(later)
        loop.close()
        """,
    )
    assert output == "[1, 2]"


def test_workers_of_a_preloading_server_each_hear_everything(url: str) -> None:
    output = run(
        url,
        """
        listener = Listener(engine, User)
        listener.start()
        ready, go = os.pipe(), os.pipe()
        workers = []
        for number in range(4):
            workers.append(os.fork())
            if workers[-1] == 0:
                with Listener(engine, User) as own:
                    os.write(ready[1], b"x")
                    os.read(go[0], 1)
                    own.catch_up()
                assert heard == list(range(1, 21)), heard
                os._exit(0)  # as gunicorn's workers may end
        for _ in workers:
            os.read(ready[0], 1)
        for id in range(1, 21):
            insert(id)
        os.write(go[1], b"xxxx")
        assert [os.waitpid(worker, 0)[1] for worker in workers] == [0] * 4
        listener.catch_up()
        assert heard == list(range(1, 21)), heard
        print(listener.stats().reconnects)
        """,
    )
    assert output == "0"


def test_child_does_not_keep_a_dead_parents_session_open(
    url: str, database: str, client: psycopg.Connection[Any]
) -> None:
    # Nobody would read it, and the server would hold the NOTIFY queue of the whole cluster for it.
    program = Program(
        url,
        """
        listener = Listener(engine, User)
        listener.start()
        print(fork_idle_child(), flush=True)
        time.sleep(60)
        """,
    )
    with surviving_child(program):
        assert client.execute(LISTENERS, [database]).fetchone() == (1,)
        program.process.kill()
        wait_until(client, f"SELECT ({LISTENERS}) = 0", database, seconds=5)


def test_child_forked_while_the_listener_connects_does_not_keep_its_session_open(
    url: str, database: str, client: psycopg.Connection[Any]
) -> None:
    # LISTEN is in force by then, and a second descriptor of the socket is open, to cut it with.
    program = Program(
        url,
        """
        from sqlalchemy_watch.catalog import problems

        looking, forked = threading.Event(), threading.Event()

        def look(connection, *asked):
            looking.set()
            forked.wait()
            return []

        problems.describe_problems = look
        listener = Listener(engine, User)
        threading.Thread(target=listener.start, daemon=True).start()
        looking.wait()
        child = fork_idle_child()
        forked.set()
        insert(1)
        came.wait()  # the parent's goes on
        print(child, flush=True)
        time.sleep(60)
        """,
    )
    with surviving_child(program):
        assert client.execute(LISTENERS, [database]).fetchone() == (1,)
        program.process.kill()
        wait_until(client, f"SELECT ({LISTENERS}) = 0", database, seconds=5)


@needs_logical_messages
def test_child_does_not_keep_a_dead_parents_slot_active(url: str, client: psycopg.Connection[Any], group: str) -> None:
    # Another consumer would stand by for as long as wal_sender_timeout.
    program = Program(
        url,
        f"""
        class Order(Watched, Base):
            __tablename__ = "orders"
            __watch__ = ("inserted",)
            __watch_delivery__ = "durable"
            id: Mapped[int] = mapped_column(primary_key=True)

        Base.metadata.create_all(engine)
        listener = Listener(engine, Order, durable={group!r})
        listener.start()
        print(fork_idle_child(), flush=True)
        time.sleep(60)
        """,
    )
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
    with surviving_child(program):
        assert client.execute(active, [group]).fetchone() == (True,)
        program.process.kill()
        wait_until(client, f"SELECT NOT ({active})", group, seconds=5)


@pytest.mark.parametrize(
    "ending",
    [
        "pass",
        "sys.exit(0)",
        "listener.stop(); listener.stop()",
        "listener.stop(); listener.start(); insert(2); listener.catch_up(); assert heard == [1, 2]",
        "threading.Thread(target=listener.stop).start()",
        "import gc; del listener; gc.collect()",
    ],
)
def test_interpreter_ends_at_once_and_silently(url: str, ending: str) -> None:
    code = f"""
    listener = Listener(engine, User)
    listener.start()
    insert(1)
    listener.catch_up()
    print(time.time(), flush=True)
    {ending}
    """
    began = float(run(url, code).split()[0])
    assert time.time() - began < 3


@pytest.mark.parametrize("where", ["sender", "coroutine", "batches"])
def test_interpreter_ends_while_receivers_are_at_work(url: str, where: str) -> None:
    receivers = {
        "sender": """
            @User.watch.inserted.connect
            def work(sender, event):
                began.set()
                time.sleep(0.2)
        """,
        "coroutine": """
            import asyncio
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, daemon=True).start()
            async def work(sender, event):
                began.set()
                await asyncio.sleep(60)
            async def connect():
                User.watch.inserted.connect(work)
            asyncio.run_coroutine_threadsafe(connect(), loop).result()
        """,
        "batches": """
            @User.watch.inserted.batches(max_wait=60).connect
            def work(sender, events):
                pass
            User.watch.inserted.connect(lambda sender, event: began.set())
        """,
    }
    program = """
    Listener(engine, User).start()
    for id in range(1, 100):
        insert(id)
    began.wait()
    print("end", flush=True)
    """
    code = "began = threading.Event()\n" + textwrap.dedent(receivers[where]) + textwrap.dedent(program)
    assert run(url, code) == "end"


def test_stop_from_a_receiver_leaves_no_thread(url: str) -> None:
    output = run(
        url,
        """
        listener = Listener(engine, User)
        stopped = threading.Event()

        @User.watch.inserted.connect
        def stop(sender, event):
            listener.stop()
            stopped.set()

        listener.start()
        insert(1)
        stopped.wait()
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(5)
        print(threading.active_count())
        """,
    )
    assert output == "1"


@pytest.mark.parametrize("moment", ["listening", "starting"])
def test_ctrl_c_ends_the_program(cluster: Cluster, url: str, moment: str) -> None:
    program = Program(
        url,
        """
        import socket
        if "starting" in MOMENT:
            silent = socket.create_server(("127.0.0.1", 0))
            engine = create_engine(engine.url.set(port=silent.getsockname()[1]))
            accepted = []

            def accept():
                accepted.append(silent.accept()[0])
                print("ready", flush=True)

            threading.Thread(target=accept, daemon=True).start()
        try:
            listener = Listener(engine, User)
            with listener:
                print("ready", flush=True)
                while True:  # a signal right before a sleep does not end that sleep
                    time.sleep(0.1)
        except KeyboardInterrupt:
            print("interrupted", listener.running, flush=True)
        if "starting" in MOMENT:
            for each in (silent, *accepted):
                each.close()
        """.replace("MOMENT", repr(moment)),
    )
    assert program.line() == "ready"
    program.process.send_signal(signal.SIGINT)
    assert program.finish(8) == (0, "interrupted False", "")


def test_ctrl_c_that_does_not_end_a_wait_is_noticed_by_start_all_the_same(url: str) -> None:
    # As one that comes right before the wait, it is taken where that is not interrupted: in another thread.
    output = run(
        url,
        """
        import signal, socket

        class Attempts(logging.Handler):
            def emit(self, record):
                failed.set()

        def interrupt():
            while True:
                starting.acquire()
                failed.clear()
                failed.wait()
                os.kill(os.getpid(), signal.SIGINT)

        starting, failed = threading.Semaphore(0), threading.Event()
        logging.getLogger("sqlalchemy_watch").addHandler(Attempts())
        threading.Thread(target=interrupt, daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # here, and in the listener's threads
        deaf = socket.socket()
        deaf.bind(("127.0.0.1", 0))
        engine = create_engine(engine.url.set(port=deaf.getsockname()[1]))
        seconds = []
        for _ in range(5):
            listener = Listener(engine, User)
            began = time.monotonic()
            try:
                starting.release()
                listener.start(timeout=20)
            except KeyboardInterrupt:
                seconds.append(time.monotonic() - began)
            assert not listener.running
        deaf.close()
        assert len(seconds) == 5
        assert max(seconds) < 5, seconds
        print("done")
        """,
    )
    assert output == "done"


def test_suspended_process_comes_back(url: str, client: psycopg.Connection[Any]) -> None:
    # Longer than the heartbeat's timeout; what had arrived meanwhile is read before anything is given up.
    program = Program(
        url,
        """
        listener = Listener(engine, User, heartbeat_interval=0.1, heartbeat_timeout=0.2)
        listener.start()
        insert(1)
        came.wait()
        came.clear()
        print("ready", flush=True)
        assert came.wait(10)
        listener.catch_up()
        print(heard)
        """,
    )
    assert program.line() == "ready"
    program.process.send_signal(signal.SIGSTOP)
    client.execute("SELECT pg_sleep(0.6)")
    client.execute("INSERT INTO users VALUES (2)")
    program.process.send_signal(signal.SIGCONT)
    assert program.finish()[:2] == (0, "[1, 2]")


def test_descriptors_beyond_1024_will_do(url: str) -> None:
    output = run(
        url,
        """
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1500)]
        with Listener(engine, User, heartbeat_interval=0.1) as listener:
            assert listener._run._source._keeper._descriptor > 1024
            insert(1)
            listener.catch_up()
            time.sleep(0.3)
            assert listener.stats().reconnects == 0
        print(heard)
        """,
    )
    assert output == "[1]"


def test_no_descriptors_left_is_no_end(url: str) -> None:
    output = run(
        url,
        """
        import resource
        logging.getLogger("sqlalchemy_watch").addHandler(logging.NullHandler())
        logging.getLogger("sqlalchemy_watch").propagate = False
        listener = Listener(engine, User)
        gone, back = threading.Event(), threading.Event()
        listener.disconnected.connect(lambda *a, **k: gone.set())
        listener.resync.connect(lambda *a, **k: back.set())
        with listener, engine.connect() as connection:
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 256), hard))
            files = []
            while True:
                try:
                    files.append(os.open(os.devnull, os.O_RDONLY))
                except OSError:
                    break
            pids = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sqlalchemy-watch'"
            connection.execute(text(pids))
            assert gone.wait(5)
            time.sleep(0.3)
            for file in files:
                os.close(file)
            assert back.wait(10)
        print("back")
        """,
    )
    assert output == "back"
