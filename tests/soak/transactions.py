"""Transactions of every kind, each of which notes in the ledger what it changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Event

from sqlalchemy import Connection, text

from sqlalchemy_watch import context, muted

from .schema import GAUGES, MUTED_FROM, record

#: Items that each writer has for itself.
ITEMS = 120

#: Characters: more than a notification takes.
LARGE = 9_000


class Transactions:
    """What one writer writes. Each method returns the number of rows, and leaves the end to the caller.

    :param number: from 0; each writer has items of its own, and shares the gauges with all others.
    """

    def __init__(self, number: int, chance: random.Random, stopping: Event) -> None:
        self._first, self._muted = number * ITEMS + 1, MUTED_FROM + number * ITEMS
        self._chance, self._stopping = chance, stopping

    def choose(self) -> Callable[[Connection], int]:
        (kind,) = self._chance.choices(list(KINDS), KINDS.values())
        return lambda connection: kind(self, connection)

    def _some(self, most: int) -> list[int]:
        """Ids of some items of this writer's."""
        count = self._chance.randint(1, most)
        return sorted(self._chance.sample(range(self._first, self._first + ITEMS), count))

    def insert(self, connection: Connection, most: int = 1) -> int:
        return self._change(connection, "inserted", INSERT, self._some(most))

    def update(self, connection: Connection, most: int = 1) -> int:
        return self._change(connection, "updated", UPDATE, self._some(most))

    def delete(self, connection: Connection, most: int = 1) -> int:
        return self._change(connection, "deleted", DELETE, self._some(most))

    def insert_many(self, connection: Connection) -> int:
        return self.insert(connection, ITEMS)

    def update_many(self, connection: Connection) -> int:
        return self.update(connection, ITEMS)

    def delete_some(self, connection: Connection) -> int:
        return self.delete(connection, ITEMS // 10)

    def upsert(self, connection: Connection) -> int:
        found = connection.execute(text(UPSERT), {"ids": self._some(10), "note": ""}).fetchall()
        for operation, is_new in (("inserted", True), ("updated", False)):
            record(connection, "items", operation, [(id_, version) for id_, version, new in found if new == is_new])
        return len(found)

    def update_large(self, connection: Connection) -> int:
        return self._change(connection, "updated", UPDATE, self._some(3), "x" * LARGE)

    def several(self, connection: Connection) -> int:
        """Several statements, the same row among them again and again."""
        with context(connection, request="several"):
            rows = self.update(connection) + self.delete(connection) + self.insert(connection)
        return rows + sum(self.update(connection, 3) for _ in range(self._chance.randint(1, 5)))

    def with_savepoints(self, connection: Connection) -> int:
        rows = self.update(connection)
        for _ in range(3):
            savepoint = connection.begin_nested()
            written = self.update(connection, 5) + self.insert(connection) + self.delete(connection)
            if self._chance.random() < 0.5:
                savepoint.rollback()
            else:
                savepoint.commit()
                rows += written
        return rows

    def long(self, connection: Connection) -> int:
        """Commits long after others, which it began before."""
        rows = self.update(connection, 3)
        self._stopping.wait(self._chance.uniform(0, 0.2))
        return rows + self.insert(connection)

    def muted(self, connection: Connection) -> int:
        ids = [self._muted + self._chance.randrange(ITEMS) for _ in range(3)]
        with muted(connection):
            connection.execute(text(UPSERT), {"ids": sorted(set(ids)), "note": ""})
            connection.execute(text(UPDATE), {"ids": ids, "note": ""})
        return self.update(connection) if self._chance.random() < 0.5 else 0

    def gauge(self, connection: Connection) -> int:
        return self._set(connection, [self._chance.randint(1, GAUGES)])

    def gauges(self, connection: Connection) -> int:
        return self._set(connection, self._chance.sample(range(1, GAUGES + 1), self._chance.randint(2, GAUGES)))

    def gauge_again_and_again(self, connection: Connection) -> int:
        id_ = self._chance.randint(1, GAUGES)
        return sum(self._set(connection, [id_]) for _ in range(self._chance.randint(2, 20)))

    def gauges_one_by_one(self, connection: Connection) -> int:
        return sum(self._set(connection, list(range(1, GAUGES + 1))) for _ in range(15))

    def _set(self, connection: Connection, ids: list[int]) -> int:
        return self._change(connection, "updated", SET, sorted(ids), name="gauges")

    def _change(
        self,
        connection: Connection,
        operation: str,
        statement: str,
        ids: list[int],
        note: str = "",
        name: str = "items",
    ) -> int:
        parameters = {"ids": ids} if ":note" not in statement else {"ids": ids, "note": note}
        found = [(id_, version) for id_, version in connection.execute(text(statement), parameters)]
        record(connection, name, operation, found)
        return len(found)


INSERT = """
    INSERT INTO items SELECT unnest(CAST(:ids AS int[])), nextval('versions'), :note
    ON CONFLICT DO NOTHING RETURNING id, version
"""
UPDATE = "UPDATE items SET version = nextval('versions'), note = :note WHERE id = ANY(:ids) RETURNING id, version"
DELETE = "DELETE FROM items WHERE id = ANY(:ids) RETURNING id, version"
UPSERT = """
    INSERT INTO items SELECT unnest(CAST(:ids AS int[])), nextval('versions'), :note
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, note = excluded.note RETURNING id, version, xmax = 0
"""
# In the order of ids, so that two writers don't wait for each other.
SET = """
    UPDATE gauges SET version = nextval('versions')
    WHERE id IN (SELECT id FROM gauges WHERE id = ANY(:ids) ORDER BY id FOR UPDATE) RETURNING id, version
"""

#: Kinds of transactions, and how often they come.
KINDS: dict[Callable[[Transactions, Connection], int], float] = {
    Transactions.insert: 3,
    Transactions.update: 10,
    Transactions.delete: 3,
    Transactions.insert_many: 1,
    Transactions.update_many: 1,
    Transactions.delete_some: 1,
    Transactions.upsert: 2,
    Transactions.update_large: 2,
    Transactions.several: 2,
    Transactions.with_savepoints: 2,
    Transactions.long: 1,
    Transactions.muted: 2,
    Transactions.gauge: 6,
    Transactions.gauges: 1,
    Transactions.gauge_again_and_again: 2,
}
