"""The tables of the soak of NOTIFY: two that are watched, and what really was committed."""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy import BigInteger, Connection, Identity, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched

#: Ids of items that change in muted transactions alone.
MUTED_FROM = 10_000

GAUGES, PLACES = 60, 6

#: The gauge that one receiver hears alone.
FILTERED = 7


class Base(DeclarativeBase):
    pass


class Item(Watched, Base):
    """Comes, changes and goes. An event whose note is too large lacks the version."""

    __tablename__ = "items"
    __watch__ = tuple(Watch(op, extra_columns=("version", "note")) for op in ("inserted", "updated", "deleted"))
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    note: Mapped[str] = mapped_column(server_default="")


class Gauge(Watched, Base):
    """Is there from the beginning, and changes: a notification for each row."""

    __tablename__ = "gauges"
    __watch__ = (Watch("updated", extra_columns=("version", "place"), level="row"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    place: Mapped[int]


class Change(Base):
    """A change that was committed, in the order of its transaction's statements."""

    __tablename__ = "ledger"
    number: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    name: Mapped[str]
    id: Mapped[int]
    operation: Mapped[str]
    version: Mapped[int] = mapped_column(BigInteger)
    txid: Mapped[int] = mapped_column(BigInteger)


class State(Base):
    """The last step of each row that ever was: what somebody knows who reads now."""

    __tablename__ = "states"
    name: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger)


def step_of(operation: str, version: int) -> int:
    """Order the changes of a row: a deletion has the version of the row that it deletes."""
    return 2 * version + (operation == "deleted")


def create(connection: Connection) -> None:
    """Create tables, triggers, the sequence of versions, and all gauges."""
    connection.execute(text("CREATE SEQUENCE versions"))
    Base.metadata.create_all(connection)
    connection.execute(
        text("INSERT INTO gauges SELECT i, nextval('versions'), i % :places FROM generate_series(1, :count) AS i"),
        {"count": GAUGES, "places": PLACES},
    )
    connection.execute(text("INSERT INTO states SELECT 'gauges', id, 2 * version FROM gauges"))


_RECORD = text("""
    WITH changed AS (SELECT * FROM unnest(CAST(:ids AS int[]), CAST(:versions AS bigint[])) AS t (id, version)),
    noted AS (
        INSERT INTO ledger (name, id, operation, version, txid)
        SELECT :name, id, :operation, version, CAST(CAST(pg_current_xact_id() AS text) AS bigint) FROM changed
    )
    INSERT INTO states SELECT :name, id, 2 * version + CAST(:operation = 'deleted' AS int) FROM changed ORDER BY id
    ON CONFLICT (name, id) DO UPDATE SET step = excluded.step
""")


def record(connection: Connection, name: str, operation: str, rows: list[tuple[int, int]]) -> None:
    """Note changes in their own transaction, and so with their fate.

    :param rows: id and version of each.
    """
    if rows:
        ids, versions = [row[0] for row in rows], [row[1] for row in rows]
        connection.execute(_RECORD, {"name": name, "operation": operation, "ids": ids, "versions": versions})


#: Steps and rows of a table, as they were at one moment.
READ = """
    SELECT states.id, states.step, {name}.version FROM states LEFT JOIN {name} USING (id) WHERE states.name = '{name}'
"""


class Rows:
    """A table as it was at one moment."""

    def __init__(self, found: list[Any]) -> None:
        self.steps: dict[int, int] = {id_: step for id_, step, _ in found}
        self.versions: dict[int, int] = {id_: version for id_, _, version in found if version is not None}


def read(connection: psycopg.Connection[Any], name: str) -> Rows:
    return Rows(connection.execute(READ.format(name=name).encode()).fetchall())


async def read_async(connection: psycopg.AsyncConnection[Any], name: str) -> Rows:
    return Rows(await (await connection.execute(READ.format(name=name).encode())).fetchall())
