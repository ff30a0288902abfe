"""`examine`: reads what there is, and has it judged. What can't be read is said, and the rest is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar, get_args

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from ..aio import sync_engine_of
from ..catalog.listening import count_listening
from ..catalog.matching import read_status
from ..catalog.problems import hidden_tables, mute_writers, with_hidden_tables
from ..catalog.reading import Fetch, psycopg_fetcher
from ..catalog.status import WatchStatus
from ..declaring.translating import SchemaMap, map_of
from ..errors import UnsupportedServerError, in_one_line, one_line
from ..listener.notify.exclusive import find_holder
from ..listener.server.asking import ask_engine
from ..listener.server.checks import check_server
from ..listener.wal.slots import read_slots
from ..watched import forgotten_in
from . import durable, judging, reading, triggers
from .facts import Pooler, Server
from .findings import Finding, Part, do, missing, warning
from .platforms import Address
from .subjects import Subject

T = TypeVar("T")

#: Without these nothing is heard.
_VITAL: tuple[Part, ...] = ("server", "pooler", "triggers")

_ANEW = "look again: the connection was lost meanwhile"
_AS_ANOTHER = "look again, as another role where this one lacks a right"


class _Lost(Exception):
    """The connection is gone, and nothing more can be looked at."""


def examine(subject: Subject) -> list[Finding]:
    """Return what was found, part by part.

    Nothing is changed. Connections are opened as the listener and the engine do, one of them of replication where the
    log is to be read, and one to PgBouncer's console where something is in between; each is closed at once.

    :raises ConfigurationError: where the engine has settings that psycopg can't take.
    """
    try:
        connection = subject.connect()
    except (psycopg.Error, OSError) as error:
        return list(judging.judge_unreachable(one_line(error), subject.address))
    with contextlib.closing(connection):
        examination = _Examination(subject, connection)
        with contextlib.suppress(_Lost):
            examination.run()
    order = get_args(Part)
    return sorted(examination.findings, key=lambda finding: order.index(finding.part))


class _Examination:
    """Looks at one part after the other."""

    def __init__(self, subject: Subject, connection: psycopg.Connection[object]) -> None:
        self._subject, self._connection = subject, connection
        self._fetch = psycopg_fetcher(connection)
        info = connection.info
        named = subject.address
        self._address = Address(
            named.host or info.host, named.port if named.host else info.port, info.user, info.dbname
        )
        self.findings: list[Finding] = []

    def run(self) -> None:
        """Look at everything that this server has to be for the subject."""
        found = self._look("server", "server and role", lambda: reading.read_server(self._connection, self._address))
        if found is None:
            return
        server, recognized = found
        refused = self._look("server", "version and standby", lambda: (self._refusal(),))
        refusal = refused[0] if refused is not None else None
        self._add(judging.judge_server(server, refusal))
        self._add([judging.judge_platform(recognized)])
        if refused != (None,):  # the rest would be looked at in the wrong place
            return
        pooler = self._look("pooler", "pooler", self._read_pooler) or Pooler()
        if self._subject.listens:
            self._examine_listening(server, pooler)
        self._add(judging.judge_session(server))
        idle = self._look("settings", "open transactions", lambda: reading.read_idle(self._fetch))
        self._add(judging.judge_idle(server, idle))
        if self._subject.is_durable:
            self._examine_durable(server, pooler)
        self._examine_triggers(server)

    def _add(self, findings: Iterable[Finding]) -> None:
        self.findings += findings

    def _look(self, part: Part, what: str, read: Callable[[], T]) -> T | None:
        """Return what is read; where that fails, note it, and return None."""
        try:
            return read()
        except (psycopg.Error, SQLAlchemyError, OSError, UnsupportedServerError) as error:
            is_lost = self._connection.closed
            # Nobody is to take it for well where the most of it is unknown.
            say = missing if is_lost or part in _VITAL else warning
            words = f"could not look at {what}: {one_line(error, brief=True)}"
            self._add([say(part, words, "so nothing can be said of it", do(_ANEW if is_lost else _AS_ANOTHER))])
            if is_lost:
                raise _Lost from error
            return None

    def _refusal(self) -> str | None:
        """Return why a listener would refuse this server; None where it would not."""
        try:
            check_server(self._connection)
        except UnsupportedServerError as error:
            return in_one_line(str(error))
        return None

    def _read_pooler(self) -> Pooler:
        if self._subject.listens:
            return reading.read_pooler(self._connection, self._subject.connect, self._subject.heartbeat_timeout)
        return reading.name_pooler(self._connection)

    def _examine_listening(self, server: Server, pooler: Pooler) -> None:
        subject = self._subject
        self._add([judging.judge_pooler(server, pooler, self._address), judging.judge_notifying(server)])
        self._add([judging.judge_queue(server)])
        self._add(judging.judge_heartbeat(subject.heartbeat_interval))
        count = self._look(
            "listeners", "sessions that listen", lambda: count_listening(reading.asker(self._connection))
        )
        if count is not None:
            self._add([judging.judge_listeners(count, subject.target)])
        name = subject.exclusive
        if name is not None:
            holder = self._look("listeners", "the lock of exclusive=", lambda: (find_holder(self._connection, name),))
            self._add([judging.judge_holder(name, holder[0])] if holder is not None else [])

    def _examine_durable(self, server: Server, pooler: Pooler) -> None:
        subject, group = self._subject, self._subject.group
        decoding = durable.judge_decoding(server)
        self._add([decoding, durable.judge_limit(server)])
        logs = self._look(
            "settings",
            "replication",
            lambda: reading.read_logs(self._connection, subject.connect, subject.own_tables),
        )
        slots = self._look("slot", "slots", lambda: read_slots(self._connection, group))
        if logs is None:
            return
        self._add(durable.judge_room(server, logs, has_slot=bool(slots) and group is not None))
        self._add([durable.judge_replication(server, logs, pooler, self._address)])
        self._add(durable.judge_publication(server, logs, group))
        if slots is None or decoding.state == "missing":
            return
        if group is None:
            self._add(durable.judge_strays(server, slots))
        else:
            survives = self._look("slot", "failover", lambda: reading.read_failover(self._fetch, group))
            self._add(durable.judge_slot(server, group, next(iter(slots), None), survives, logs))

    def _examine_triggers(self, server: Server) -> None:
        """Look at the triggers where the engine leads, which need not be where the listener's connection does."""
        engine = sync_engine_of(self._subject.engine)
        renamed = map_of(engine)

        def question(fetch: Fetch) -> triggers.Installed:
            found = [self._read_installed(fetch, each) for each in self._maps(fetch, renamed)]
            items = [item for one in found for item in one.items]
            lacking = [item for item in items if item.watch is not None and item.state != "installed"]
            return triggers.Installed(
                items,
                {key: roles for one in found for key, roles in one.mute.items()},
                {name: tables for one in found for name, tables in one.hidden.items()},
                reading.read_rights(fetch, lacking),
                reading.read_alembic(fetch),
            )

        installed = self._look("triggers", "triggers", lambda: ask_engine(engine, question))
        if installed is not None:
            self._add(triggers.judge_triggers(server, installed, self._subject.target))
        self._add(triggers.judge_forgotten(forgotten_in(*self._subject.targets)))

    def _read_installed(self, fetch: Fetch, schemas: SchemaMap) -> triggers.Installed:
        items: list[WatchStatus] = read_status(fetch, self._subject.tables, schemas)
        place = schemas.get(None)
        hidden = hidden_tables(fetch, items) if place is None else {}
        words = with_hidden_tables(fetch, items) if place is None else [_in_schema(item, place) for item in items]
        return triggers.Installed(words, mute_writers(fetch, items), hidden)

    def _maps(self, fetch: Fetch, renamed: SchemaMap) -> list[SchemaMap]:
        """Return where the tables are: once for each schema that the listener hears."""
        schemas = self._subject.schemas
        if schemas is None:
            return [renamed]
        if schemas == "*":
            names = [table.name for table in self._subject.tables if table.schema is None]
            schemas = frozenset(reading.read_schemas(fetch, names))
        return [{**renamed, None: schema} for schema in sorted(schemas)]


def _in_schema(item: WatchStatus, schema: str) -> WatchStatus:
    return replace(item, table=f"{schema}.{item.table}") if item.watch is not None and "." not in item.table else item
