"""The pytest plugin, in pytest runs of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from postgres import Cluster

ROOT = Path(__file__).parent.parent.parent

MODELS = """
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_watch import Watched
import os

engine = create_engine(os.environ["DATABASE_URL"])

class Base(DeclarativeBase):
    pass

class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = ("inserted",)
    id: Mapped[int] = mapped_column(primary_key=True)

class Payment(Watched, Base):
    __tablename__ = "payments"
    __watch__ = ("inserted",)
    __watch_delivery__ = "durable"
    id: Mapped[int] = mapped_column(primary_key=True)
"""

CONFTEST = """
import pytest
from sqlalchemy.orm import Session
from models import Base, engine

@pytest.fixture(scope="session", autouse=True)
def tables():
    Base.metadata.create_all(engine)

@pytest.fixture
def watch_connection():
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()

@pytest.fixture
def session(watch_connection):
    with Session(watch_connection, join_transaction_mode="create_savepoint") as session:
        yield session

@pytest.fixture
def watch_targets():
    return Base

@pytest.fixture
def watch_engine():
    return engine
"""


class Suite:
    """A test suite of a user's."""

    def __init__(self, path: Path, url: str) -> None:
        self._path = path
        self._environment = {**os.environ, "DATABASE_URL": url, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}"}

    def run(self, tests: str, *options: str, conftest: str = CONFTEST) -> subprocess.CompletedProcess[str]:
        for name, content in (("models.py", MODELS), ("conftest.py", conftest), ("test_it.py", tests)):
            (self._path / name).write_text(content)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pytest_sqlalchemy_watch", *options]
        return subprocess.run(
            command, cwd=self._path, env=self._environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def suite(tmp_path: Path, cluster: Cluster, database: str) -> Suite:
    return Suite(tmp_path, cluster.url(database, "psycopg"))


def test_events_of_tests_that_roll_back_and_of_tests_that_commit(suite: Suite) -> None:
    done = suite.run("""
from models import Order, Payment, engine
from sqlalchemy.orm import Session
from sqlalchemy_watch import ConfigurationError
import pytest

def test_rolls_back(session, watch_events):
    session.add(Order(id=1))
    session.commit()
    (event,) = watch_events.deliver()
    assert event.identity == (1,)
    assert watch_events.of(Order.watch.inserted) == [event]

def test_and_again(session, watch_events):
    session.add(Order(id=1))
    session.commit()
    assert len(watch_events.deliver()) == 1

def test_commits(watch_listener):
    for number in range(100, 110):  # what is committed before the block is none of its events
        with Session(engine) as session, session.begin():
            session.add(Order(id=number))
        with watch_listener.expect(Order.watch.inserted, count=0):
            pass
    with watch_listener.expect(Order.watch.inserted) as events:
        with Session(engine) as session, session.begin():
            session.add(Order(id=2))
    assert events[0].identity == (2,)
    with pytest.raises(AssertionError, match="0 events, and 1 were expected"):
        with watch_listener.expect(Order.watch.inserted):
            pass
    with watch_listener.expect(Order.watch.inserted, count=None) as events:
        pass
    assert events == []
    with pytest.raises(ConfigurationError, match="the listener does not hear it"):
        with watch_listener.expect(Payment.watch.inserted):
            pass
""")
    assert "3 passed" in done.stdout, done.stdout


def test_a_test_that_delivers_nothing_is_warned_of(suite: Suite) -> None:
    done = suite.run("""
from models import Order

def test_forgets(session, watch_events):
    session.add(Order(id=1))
    session.commit()

def test_changes_nothing(session, watch_events):
    pass

def test_fails_for_another_reason(session, watch_events):
    session.add(Order(id=1))
    session.commit()
    assert False
""")
    assert "1 failed, 2 passed, 1 warning" in done.stdout, done.stdout
    assert "call watch_events.deliver(), or set watch_events.on_commit = True" in done.stdout


def test_a_test_that_fails_leaves_nothing_behind(suite: Suite) -> None:
    tests = """
from models import Order
from sqlalchemy import text

def test_fails(session, watch_events):
    session.add(Order(id=1))
    session.commit()
    raise ValueError

def test_breaks_the_transaction(session, watch_connection, watch_events):
    watch_connection.execute(text("SELECT nothing"))

def test_is_interrupted(session, watch_events):
    session.add(Order(id=1))
    session.flush()
    raise KeyboardInterrupt
"""
    done = suite.run(tests)
    assert "2 failed" in done.stdout, done.stdout
    assert "KeyboardInterrupt" in done.stdout
    again = suite.run("""
from models import engine
from sqlalchemy import text

def test_functions():
    with engine.connect() as connection:
        bodies = connection.scalars(text("SELECT prosrc FROM pg_proc WHERE proname LIKE 'watch_%'")).all()
    assert len(bodies) == 2
    assert not any("pg_temp" in body for body in bodies)
""")
    assert "1 passed" in again.stdout, again.stdout


def test_missing_fixtures_are_named(suite: Suite) -> None:
    done = suite.run("def test_it(watch_events): pass\ndef test_other(watch_listener): pass", conftest="")
    assert "watch_events needs a fixture watch_connection" in done.stdout
    assert "watch_listener needs a fixture watch_engine" in done.stdout


def test_an_asynchronous_connection_gets_the_remedy(suite: Suite) -> None:
    done = suite.run("""
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from models import engine

@pytest.fixture
def watch_connection():
    return create_async_engine(engine.url).connect()

def test_it(watch_events): pass
""")
    assert "return await Capture.create(connection, Base)" in done.stdout, done.stdout


def test_a_plugin_that_is_merely_installed_imports_nothing_and_breaks_nothing(suite: Suite) -> None:
    tests = (
        "import sys\ndef test_it(): assert 'sqlalchemy_watch' not in sys.modules and 'sqlalchemy' not in sys.modules"
    )
    for options in ((), ("-n", "2"), ("-p", "no:pytest_sqlalchemy_watch")):
        done = suite.run(tests, *options, conftest="")
        assert "1 passed" in done.stdout, done.stdout
