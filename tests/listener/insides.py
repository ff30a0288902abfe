"""Insides of a running listener that tests look at where nothing else tells."""

from __future__ import annotations

from typing import Any

from sqlalchemy_watch import Listener


def inbox_of(listener: Listener) -> Any:
    """Return the inbox of the dispatch thread."""
    return _run_of(listener)._inbox


def gate_of(listener: Listener) -> Any:
    """Return the gate in front of receivers."""
    return _run_of(listener)._gate


def dispatcher_of(listener: Listener) -> Any:
    """Return the object whose thread calls receivers."""
    return _run_of(listener)._dispatcher


def source_of(listener: Listener) -> Any:
    """Return the object whose thread reads."""
    return _run_of(listener)._source


def log_known_to(listener: Listener) -> Any:
    """Return the server's log, as a durable listener has seen it; None where it has not."""
    return _run_of(listener)._source._before.log


def own_channel_of(listener: Listener) -> str:
    """Return the channel that nobody else can know."""
    name: str = _run_of(listener)._source._own_channel
    return name


def _run_of(listener: Listener) -> Any:
    assert listener._run is not None
    return listener._run
