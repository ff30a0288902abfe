"""A declaration is refused with a reason, or heard: whatever its names, options and hierarchy.

Forty of them are tried, the same in every run; `WATCH_TEST_DECLARATIONS=2000` tries as many others.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from postgres import VERSION
from sqlalchemy import Engine
from support import resync_reasons

from sqlalchemy_watch import ConfigurationError, Listener, status
from sqlalchemy_watch.declaring.filing import watches_in
from sqlalchemy_watch.declaring.targets import watches_of
from sqlalchemy_watch.functions.body import function_body
from sqlalchemy_watch.wire import DURABLE_SINCE

from .declarations import Heard, Oracle, Plan, declare, plans

COUNT = int(os.environ.get("WATCH_TEST_DECLARATIONS", "40"))

pytestmark = [pytest.mark.server, pytest.mark.sqlalchemy, pytest.mark.timeout(60 + COUNT)]


@settings(
    max_examples=COUNT,
    derandomize=COUNT <= 40,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(plans())
def test_a_declaration_is_refused_with_a_reason_or_heard(
    engine: Engine, client: psycopg.Connection[Any], plan: Plan
) -> None:
    try:
        metadata, signals = declare(plan)
    except ConfigurationError as error:
        event("refused")
        if len(str(error)) < 30:
            raise AssertionError("no reason is given") from error
        return
    event("heard")
    assert _texts(metadata) == _texts(declare(plan)[0])
    with client.transaction():
        client.execute('CREATE SCHEMA IF NOT EXISTS "Ünder %s ""schema"""')
    metadata.create_all(engine)
    try:
        assert {item.state for item in status(engine, metadata)} == {"installed"}
        problems = [problem for item in status(engine, metadata) for problem in item.problems]
        assert [words for words in problems if not (VERSION < DURABLE_SINCE and "durable delivery" in words)] == []
        with Listener(engine, metadata) as listener:
            reasons = resync_reasons(listener)
            heard: list[Heard] = []
            for class_, collection in zip(("Parent", "Child"), signals, strict=False):
                for signal in collection:
                    signal.connect(_receiver(class_, heard), weak=False)
            expected = Oracle(plan).write(client)
            listener.catch_up()
        assert reasons == []
        event(f"{min(len(heard), 10)} events or more" if heard else "no event")
        assert Counter(heard) == Counter(expected)
    finally:
        metadata.drop_all(engine)
    assert watches_in(metadata)


def _texts(metadata: Any) -> dict[tuple[str, str], str]:
    return {(w.table_key, w.label): function_body(w) for w in watches_of(metadata)}


def _receiver(class_: str, heard: list[Heard]) -> Any:
    def hear(sender: Any, event: Any) -> None:
        name = sender.__name__ if isinstance(sender, type) else "Parent"
        heard.append((f"{class_}.{event.label}", name, event.identity or ()))

    return hear
