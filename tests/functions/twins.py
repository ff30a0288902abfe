"""Watched tables, an unwatched twin of each, and what is heard of the statements that both are given.

Nothing here needs a listener: what is heard are the bare payloads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import datetime
from itertools import permutations
from typing import Any, Final, TypeAlias

import psycopg
import sqlalchemy as sa
from postgres import VERSION, Cluster
from psycopg import sql
from psycopg.pq import TransactionStatus
from sqlalchemy.schema import CreateTable

from sqlalchemy_watch.declaring.dialect import POSTGRESQL
from sqlalchemy_watch.declaring.targets import watches_of
from sqlalchemy_watch.functions.quoting import quote
from sqlalchemy_watch.triggers.ddl import create_function, create_trigger, revoke_execute
from sqlalchemy_watch.wire import DURABLE_PREFIX, DURABLE_SINCE

from .kinds_of_tables import TWINS, Kind

Client = psycopg.Connection[Any]

#: The rows heard of each watch, by channel; `RESYNC` among them stands for any. Sorted, since the rows of a statement
#: come in the order in which the server finds them.
Heard: TypeAlias = dict[str, list[Any]]

RESYNC: Final = "resync"

#: What stands for all statements of a series that logs.
LOG: Final = "the log"

#: How the log is read, in the database's own encoding.
CODECS: Final = {"UTF8": "utf-8", "SQL_ASCII": "utf-8", "LATIN1": "latin-1", "EUC_JP": "euc_jp"}

#: Makes of a statement another one that runs it.
Wrap: TypeAlias = Callable[[str], str]


def in_ascii(statement: str) -> str:
    """Return a statement as every client can write it, whatever its encoding."""
    return re.sub(r'"(?:[^"]|"")*"', _name_in_ascii, statement)


def _name_in_ascii(name: re.Match[str]) -> str:
    if name[0].isascii():
        return name[0]
    return "U&" + "".join(c if c.isascii() else f"\\+{ord(c):06x}" for c in name[0].replace("\\", "\\\\"))


def outcome(client: Client, statement: str) -> tuple[str, int]:
    """Return "" and how many rows a statement wrote, or its SQLSTATE; within a transaction it is one of its own."""
    try:
        with nullcontext() if client.info.transaction_status == TransactionStatus.IDLE else client.transaction():
            return "", client.execute(statement.encode()).rowcount
    except psycopg.Error as error:
        return str(error.sqlstate or error), 0


class Twins:
    """A database with watched tables and their twins, and a session that hears all payloads."""

    def __init__(
        self, cluster: Cluster, database: str, metadata: sa.MetaData | None = None, kinds: Sequence[Kind] = ()
    ) -> None:
        self.cluster, self.database = cluster, database
        self.admin = cluster.connect(database, client_encoding="utf8")
        self.ear = cluster.connect(database, client_encoding="utf8")
        encoding = self.admin.info.parameter_status("server_encoding") or ""
        self._codec = CODECS[encoding]
        self._spell = str if encoding == "SQL_ASCII" else in_ascii  # which knows no escapes
        self._slot = f"ear_{database}" if VERSION >= DURABLE_SINCE else None
        if self._slot is not None:
            self.admin.execute("CREATE PUBLICATION nothing")
            self.admin.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self._slot])
        #: Of the last statement on a watched table.
        self.outcome = ("", 0)
        self._schemas: set[str] = set()
        self.make(sa.MetaData() if metadata is None else metadata, kinds)

    def make(self, metadata: sa.MetaData, kinds: Sequence[Kind] = ()) -> None:
        """Make tables, their watches and their twins, in place of those that there were."""
        for schema in self._schemas:
            self.admin.execute(f"DROP SCHEMA {quote(schema)} CASCADE".encode())
        self._schemas = {TWINS, "public", *(table.schema or "public" for table in metadata.tables.values())}
        for schema in self._schemas:
            self.admin.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}".encode())
        for table in metadata.sorted_tables:
            self.admin.execute(str(CreateTable(table).compile(dialect=POSTGRESQL)).encode())
        self.watch(metadata)
        self.kinds, self._plain = kinds, {}
        for kind in kinds:
            self.admin.execute(kind.before.encode())
            self.admin.execute(f"CREATE TABLE {kind.twin} (LIKE {kind.name} INCLUDING ALL)".encode())

    def watch(self, metadata: sa.MetaData) -> None:
        """Make the functions and triggers of tables that are there, and listen to them alone.

        By their statements, since `install` looks at the catalog for each table.
        """
        self.watches = watches_of(metadata)
        self.ear.execute("UNLISTEN *")
        for watch in self.watches:
            for statement in (create_function(watch), revoke_execute(watch), create_trigger(watch)):
                self.admin.execute(statement.encode())
            self.ear.execute(sql.SQL("LISTEN {}").format(sql.Identifier(watch.channel)))
        self.notified()

    def __enter__(self) -> Twins:
        return self

    def __exit__(self, *_: object) -> None:
        if self._slot is not None:
            self.admin.execute("SELECT pg_drop_replication_slot(%s)", [self._slot])
        self.admin.close()
        self.ear.close()

    # ---- hearing ----

    def notified(self) -> Heard:
        """What the ear heard since the last call."""
        self.ear.execute("SELECT 1")
        return _rows((notify.channel, notify.payload) for notify in self.ear.notifies(timeout=0))

    def logged(self) -> Heard:
        """What was logged since the last call."""
        if self._slot is None:
            return {}
        self.admin.execute("SELECT pg_logical_emit_message(true, '', '')")  # flushes what others left to the server
        changes = self.admin.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, "
            "'proto_version', '1', 'publication_names', 'nothing', 'messages', 'true')",
            [self._slot],
        )
        # Of a message: M, flags, LSN, prefix and a zero, length, content.
        messages = (data[10:].partition(b"\0") for (data,) in changes if data[:1] == b"M")
        return _rows(
            (prefix.decode(self._codec).removeprefix(DURABLE_PREFIX), rest[4:].decode(self._codec))
            for prefix, _, rest in messages
            if prefix
        )

    # ---- writing ----

    def write(self, client: Client, kind: Kind, statement: str, wrap: Wrap = str) -> Heard:
        """Run a statement on the twin, then on the watched table, which must end alike; return what is heard of it."""
        statements = [wrap(self._spell(statement.replace("{t}", name))) for name in (kind.twin, kind.name)]
        of_twin, self.outcome = (outcome(client, each) for each in statements)
        assert (statement[:100], self.outcome) == (statement[:100], of_twin)
        return self.notified()

    def write_all(self, client: Client, names: Container[str] = (), wrap: Wrap = str) -> Iterator[tuple[str, Heard]]:
        """Run the statements of every kind; yield what is heard of each."""
        for kind in self.kinds:
            for name, statement in kind.statements().items():
                if not names or name in names:
                    yield f"{kind.name}: {name}", self.write(client, kind, statement, wrap)
                if name == "update all":
                    self.compare(kind)

    def compare(self, kind: Kind) -> None:
        """The same rows are in both tables."""
        difference = " UNION ALL ".join(
            f"(TABLE {one} EXCEPT ALL TABLE {other})" for one, other in permutations((kind.name, kind.twin))
        )
        assert self.admin.execute(difference.encode()).fetchall() == []

    def empty(self) -> None:
        """Make all tables empty, unheard."""
        self.admin.execute("SET session_replication_role = replica")
        for kind in self.kinds:
            self.admin.execute(f"DELETE FROM {kind.name}; DELETE FROM {kind.twin}".encode())
        self.admin.execute("RESET session_replication_role")
        self.notified()
        self.logged()

    def plain(self, names: tuple[str, ...] = ()) -> list[tuple[str, Heard]]:
        """Return what is heard of the statements in a session that is as usual, and, in the end, what is logged."""
        if names not in self._plain:
            self.empty()
            heard = []
            with self.cluster.connect(self.database) as client:
                for name, each in self.write_all(client, names):
                    assert (self.outcome[0] != "") == name.endswith("insert one again"), name
                    assert not any(RESYNC in rows for rows in each.values()), name
                    heard.append((name, each))
            self._plain[names] = [*heard, (LOG, self.logged())]
        return self._plain[names]

    def check(
        self, client: Client, names: tuple[str, ...] = (), wrap: Wrap = str, may_resync: Sequence[str] = ()
    ) -> None:
        """Every write does what it does on an unwatched table, and is heard as in a usual session, without a warning.

        :param names: of the statements; all of them where there is none.
        :param wrap: makes of a statement what is run.
        :param may_resync: names of tables; their rows may be asked to resync for, with a warning.
        """
        expected = self.plain(names)
        self.empty()
        warnings = warnings_of(client)
        heard = [*self.write_all(client, names, wrap), (LOG, self.logged())]
        for (name, each), (_, usual) in zip(heard, expected, strict=True):
            assert_told(name, each, usual, may_resync)
        assert [words for words in warnings if not any(table in words for table in may_resync)] == []


def warnings_of(client: Client) -> list[str]:
    """The warnings that a session gets from now on, in a list that grows."""
    warnings: list[str] = []

    def keep(diagnostic: psycopg.errors.Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(diagnostic.message_primary or "")

    client.add_notice_handler(keep)
    return warnings


def assert_told(what: str, heard: Heard, expected: Heard, may_resync: Iterable[str] = ()) -> None:
    """Every row is heard, once, or asked to resync for where that may be."""
    told = {
        channel: heard[channel]
        for channel, rows in heard.items()
        if not (RESYNC in rows and any(table in channel for table in may_resync))
    }
    wanted = {channel: rows for channel, rows in expected.items() if channel in told or channel not in heard}
    assert (what, told) == (what, wanted)


def _rows(payloads: Iterable[tuple[str, str]]) -> Heard:
    heard: Heard = {}
    for channel, payload in payloads:
        rows = heard.setdefault(channel, [])
        try:
            fields = json.loads(payload)
        except ValueError:
            rows.append(RESYNC)
            continue
        if "at" in fields:
            assert datetime.fromisoformat(fields["at"]).tzinfo is not None
        rows += fields.get("rows", [RESYNC])
        if "resync" in fields:
            rows.append(RESYNC)
        elif fields["op"] == "truncated":
            rows.append("truncated")
    return {channel: sorted(rows, key=json.dumps) for channel, rows in heard.items()}
