"""Fixtures for pytest: `watch_events` in tests that roll back, and `watch_listener` in tests that commit.

The package is imported within them: every pytest run of the environment loads this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sqlalchemy_watch.testing import Capture, Expecting


@pytest.fixture
def watch_connection() -> Any:
    """Override it: the `Connection` of a test, in the transaction that is rolled back."""
    pytest.fail(
        "watch_events needs a fixture watch_connection, which returns the test's Connection in the transaction that is "
        "rolled back: see the documentation of sqlalchemy-watch, 'Testing'"
    )


@pytest.fixture
def watch_engine() -> Any:
    """Override it: the engine of tests that commit."""
    pytest.fail("watch_listener needs a fixture watch_engine, which returns the Engine of the test's database")


@pytest.fixture
def watch_targets() -> Any:
    """Override it: what is watched, a declarative base or a list of targets."""
    pytest.fail("watch_events and watch_listener need a fixture watch_targets, which returns your declarative base")


@pytest.fixture
def watch_events(request: pytest.FixtureRequest, watch_connection: Any, watch_targets: Any) -> Iterator[Capture]:
    """The events of the test's transaction, which is rolled back: call `watch_events.deliver()`."""
    from sqlalchemy_watch.testing import Capture

    if hasattr(watch_connection, "sync_connection"):
        pytest.fail(
            "watch_events takes a Connection, watch_connection returned an AsyncConnection: in a fixture that is a "
            "coroutine, return await Capture.create(connection, Base), of sqlalchemy_watch.testing"
        )
    capture = Capture(watch_connection, *_targets(watch_targets))
    failed = request.session.testsfailed
    yield capture
    capture.on_commit = False  # whatever comes is another test's
    if request.session.testsfailed == failed and not capture.has_delivered and capture.has_undelivered:
        warnings.warn(
            "the test has changed watched rows, and nothing was delivered: call watch_events.deliver(), or set "
            "watch_events.on_commit = True",
            stacklevel=1,
        )


@pytest.fixture
def watch_listener(watch_engine: Any, watch_targets: Any) -> Iterator[Expecting]:
    """A listener for tests that commit: `with watch_listener.expect(Order.watch.inserted) as events:`."""
    from sqlalchemy_watch import Listener
    from sqlalchemy_watch.testing import Expecting

    with Listener(watch_engine, *_targets(watch_targets)) as listener:
        yield Expecting(listener)


def _targets(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)
