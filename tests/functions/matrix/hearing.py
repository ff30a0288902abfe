"""Runs statements, and writes down as what events real listeners hear them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import psycopg
from listener.conftest import drop_slots
from postgres import VERSION, Cluster
from psycopg import sql
from sqlalchemy import Engine, create_engine

from sqlalchemy_watch import Event, Listener
from sqlalchemy_watch.listener.dispatch import resyncs
from sqlalchemy_watch.wire import DURABLE_SINCE

from .declarations import HOSTILE_SCHEMA, Variant, declare

#: Made before the tables of the matrix.
BEFORE = (
    sql.SQL("CREATE SCHEMA garage"),
    sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(HOSTILE_SCHEMA)),
    sql.SQL("CREATE TABLE vips AS SELECT 2 AS id"),
)


#: Rows are to stay where they are, since statements write them, and so are heard, in the order in which they lie.
WITHOUT_VACUUM = """
DO $$ DECLARE name regclass; BEGIN
  FOR name IN SELECT tgrelid FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid WHERE relkind = 'r' LOOP
    EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', name);
  END LOOP;
END $$
"""

#: Empties the tables that parts before have written.
AFRESH = """
DO $$ DECLARE names text; BEGIN
  SELECT string_agg(DISTINCT tgrelid::regclass::text, ', ') INTO names FROM pg_trigger
    JOIN pg_class ON pg_class.oid = tgrelid WHERE relkind = 'r' AND pg_relation_size(tgrelid) > 0;
  IF names IS NOT NULL THEN
    PERFORM set_config('sqlalchemy_watch.muted', 'on', true);
    EXECUTE format('TRUNCATE %s RESTART IDENTITY CASCADE', names);
  END IF;
END $$
"""

#: Seconds that a listener may take, however busy the machine is.
PATIENCE = 100.0

#: Characters of a text that is written out.
LONG_TEXT = 60


class Resync(NamedTuple):
    """In the place of an event."""

    reason: str


class Step(NamedTuple):
    """A statement, or several, and the lines of JSON that tell what was heard of it by one route."""

    name: str
    lines: list[str]


class Hearing:
    """A database with the tables of the matrix, in one variant, and a listener for each route."""

    def __init__(self, cluster: Cluster, database: str, variant: Variant) -> None:
        self.variant = variant
        self._cluster, self._database = cluster, database
        self._stack = ExitStack()
        #: What each listener has heard since the last part, by route, with the signal.
        self._heard: dict[str, list[tuple[str, Event[Any]] | Resync]] = {}
        #: The steps of the present part.
        self._names: list[str] = []

    def __enter__(self) -> Hearing:
        stack = self._stack
        self.engine: Engine = create_engine(self._cluster.url(self._database, "psycopg"))
        stack.callback(self.engine.dispose)
        self.client: psycopg.Connection[Any] = stack.enter_context(self._cluster.connect(self._database))
        for statement in BEFORE:
            self.client.execute(statement)
        base, models = declare(self.variant)
        base.metadata.create_all(self.engine)
        self.client.execute(WITHOUT_VACUUM)
        for model in models:
            for signal in model.watch:
                signal.connect(self._receiver(signal.name))
        # Each resync comes in its place, however many there are.
        seconds, resyncs.RESYNC_SECONDS = resyncs.RESYNC_SECONDS, 0.0
        stack.callback(setattr, resyncs, "RESYNC_SECONDS", seconds)
        stack.callback(drop_slots, self._cluster, self._database)
        group = f"group_{self._database}"
        self._listeners = {
            route: Listener(self.engine, base, durable=group if route == "logged" else None, heartbeat_timeout=PATIENCE)
            for route in self.variant.routes
            if route == "notified" or VERSION >= DURABLE_SINCE
        }
        self._heard = {route: [] for route in self._listeners}
        for route, listener in self._listeners.items():
            listener.resync.connect(self._resync_receiver(route))
            stack.enter_context(listener)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _receiver(self, signal: str) -> Any:
        def hear(sender: Any, event: Event[Any]) -> None:
            route = next(route for route, listener in self._listeners.items() if listener is event.listener)
            self._heard[route].append((signal, event))

        return hear

    def _resync_receiver(self, route: str) -> Any:
        return lambda listener, reason: self._heard[route].append(Resync(reason))

    def can_hear(self, part: str) -> bool:
        """Return True if the server has what the part is about."""
        if part == "merge":
            return VERSION >= 15
        if part == "names_that_differ_in_case_alone":
            return self._has_icu()
        return True

    def _has_icu(self) -> bool:
        try:
            with self.client.transaction(force_rollback=True):
                self.client.execute("CREATE COLLATION own (provider = icu, locale = 'und')")
        except psycopg.errors.FeatureNotSupported:
            return False
        return True

    def hear(self, part: Callable[[Hearing], Any]) -> dict[str, list[Step]]:
        """Run a part of the matrix; return its steps as each route has heard them."""
        self.client.execute(AFRESH)
        try:
            with self._cluster.connect(self._database) as reader, reader.transaction():
                # As long as somebody may see them, the server leaves old rows where they are.
                reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                reader.execute("SELECT count(*) FROM pg_class")
                part(self)
        finally:
            self.catch_up()
            names, self._names = self._names, []
            heard, self._heard = self._heard, {route: [] for route in self._listeners}
        return {
            route: [Step(name, _shown(own)) for name, own in zip(names, _by_step(items), strict=True)]
            for route, items in heard.items()
        }

    # For the parts.

    def run(self, name: str, *statements: str) -> None:
        """Run a step of statements, in one transaction."""
        with self.step(name) as client, client.transaction():
            self.prepare(*statements)

    @contextmanager
    def step(self, name: str) -> Iterator[psycopg.Connection[Any]]:
        """What is written in the block, over this connection or another one, is a step."""
        yield self.client
        self._names.append(name)
        self.client.execute("INSERT INTO public.steps DEFAULT VALUES")

    def catch_up(self) -> None:
        """Wait until all is heard that was written."""
        for listener in self._listeners.values():
            listener.catch_up(PATIENCE)

    def prepare(self, *statements: str) -> None:
        """Run statements that are no step of their own."""
        for statement in statements:
            self.client.execute(statement.encode())


def _by_step(heard: list[tuple[str, Event[Any]] | Resync]) -> list[list[Any]]:
    """Split what was heard at the rows that end a step."""
    steps: list[list[Any]] = [[]]
    for item in heard:
        if isinstance(item, tuple) and item[0] == "StepEnd.inserted":
            steps.append([])
        else:
            steps[-1].append(item)
    rest = steps.pop()
    assert rest == [], f"heard behind the last step: {rest}"
    return steps


def _shown(heard: list[tuple[str, Event[Any]] | Resync]) -> list[str]:
    """The lines of events; transactions are numbered within the step."""
    transactions: dict[int, int] = {}
    lines = []
    for item in heard:
        if isinstance(item, Resync):
            fields: dict[str, Any] = {"resync": item.reason}
        else:
            signal, event = item
            fields = _fields(signal, event, transactions.setdefault(event.txid, len(transactions) + 1))
        lines.append(json.dumps(_abridged(fields), default=_spelled, separators=(",", ":")))
    return lines


def _spelled(value: Any) -> str:
    """Return a value that JSON has not, with its type."""
    return f"{type(value).__name__} {value}"


def _abridged(value: Any) -> Any:
    """Return the value with a digest in place of each long text."""
    if isinstance(value, dict):
        return {name: _abridged(each) for name, each in value.items()}
    if isinstance(value, str) and len(value) > LONG_TEXT:
        digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()[:8]
        return f"{value[:4]}... ({len(value)}, {digest})"
    return value


def _fields(signal: str, event: Event[Any], transaction: int) -> dict[str, Any]:
    """All that the event tells, but for what differs from run to run. What is as usual is left out."""
    values, sender = dict(event.values), event.model.__name__
    assert event.label == signal.partition(".")[2]
    assert event.identity == tuple(values.values())[: len(event.identity)]
    fields = {
        "event": signal if event.operation == event.label else f"{signal} ({event.operation})",
        "of": None if signal.startswith(f"{sender}.") else sender,
        "values": values or None,
        "old": None if event.old is None else dict(event.old),
        "changed": None if event.changed is None else sorted(event.changed),
        "partial": event.partial or None,
        "context": dict(event.context) or None,
        "schema": None if event.schema == "public" else event.schema,
        "transaction": None if transaction == 1 else transaction,
    }
    return {name: value for name, value in fields.items() if value is not None}
