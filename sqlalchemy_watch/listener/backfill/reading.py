"""Reading the rows of a table in the order of its key, as JSON such as its triggers write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from ... import wire
from ...declaring.spec import CarriedColumn, TableWatch
from ...functions.body import FIXED_SETTINGS
from ...functions.quoting import qualified, quote
from ...functions.values import text
from ..decoding.encodings import adopt_encoding
from ..xids import Snapshot

#: The most rows that are read at once, and the bytes that they may take, as far as those before tell that.
MOST_ROWS, MOST_BYTES = 1_000, 4 * 1024 * 1024

#: Rows of the first chunk: nothing is known of their size.
FIRST_ROWS = 100

#: Seconds to wait for a lock, which may be somebody's maintenance.
LOCK_SECONDS = 2

#: Of the table, in queries.
_ALIAS = "existing"

#: A row's key, each part as PostgreSQL writes it.
Key = tuple[str, ...]


class Rows(NamedTuple):
    """Rows that were read at once."""

    #: As JSON arrays.
    texts: list[str]
    #: Of each.
    keys: list[Key]
    snapshot: Snapshot
    #: The highest key of those that were read for the first time; None where there were none.
    last: Key | None = None


class Reader:
    """Reads one table over one connection, in autocommit.

    :param watch: what the rows carry.
    :param schema: where the table is.
    """

    def __init__(self, connection: psycopg.Connection[Any], watch: TableWatch, schema: str) -> None:
        self._connection, self._watch, self._schema = connection, watch, schema
        adopt_encoding(connection)
        for name, value in (*FIXED_SETTINGS, ("lock_timeout", f"{LOCK_SECONDS}s")):
            connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", [name, value])
        # Qualified: a bare name in ORDER BY would mean the text that is selected.
        columns = [_column(column) for column in watch.key]
        self._comparisons = list(zip(map(_doubled, columns), self._read_operators(), strict=True))
        self._order = ", ".join(columns)
        self._order_down = ", ".join(f"{column} DESC" for column in columns)
        self._keys = ", ".join(f"CAST({column} AS pg_catalog.text)" for column in columns)
        values = " OPERATOR(pg_catalog.||) ',' OPERATOR(pg_catalog.||) ".join(
            text(column, _column(column)) for column in watch.carried
        )
        row = f"'[' OPERATOR(pg_catalog.||) {values} OPERATOR(pg_catalog.||) ']'"
        self._table = f"{qualified(schema, watch.table)} AS {_ALIAS}"
        self._select = _doubled(f"SELECT {row}, {self._keys} FROM {self._table}")
        self._limit = FIRST_ROWS

    def last_key(self) -> Key | None:
        """Return the highest key that there is; None where there are no rows."""
        query = f"SELECT {self._keys} FROM {self._table} ORDER BY {self._order_down} LIMIT 1"
        row = self._connection.execute(_doubled(query), []).fetchone()
        return None if row is None else tuple(row)

    def read(self, behind: Key | None, end: Key, again: Sequence[Key]) -> Rows:
        """Return the next rows, and those with the keys in `again` that are still there.

        :param behind: the key behind which they come; None for the first ones.
        :param end: the highest key that is read.
        """
        begins, first = ("true", []) if behind is None else self._behind(behind)
        ends, last_ones = self._up_to(end)
        query = f"{self._select} WHERE {begins} AND {ends} ORDER BY {_doubled(self._order)} LIMIT {self._limit}"
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            snapshot = read_snapshot(self._connection)
            rows = self._connection.execute(query, [*first, *last_ones]).fetchall()
            last = tuple(rows[-1][1:]) if rows else None
            if again:
                rows += self._connection.execute(*self._query_for(again)).fetchall()
        if rows:
            size = sum(len(row[0]) for row in rows)
            self._limit = max(1, min(MOST_ROWS, MOST_BYTES * len(rows) // size))
        return self._rows(rows, snapshot)._replace(last=last)

    def lock(self, keys: Sequence[Key]) -> Rows:
        """Within a transaction: return the rows that are still there, which nobody changes before it ends."""
        query, parameters = self._query_for(keys)
        rows = self._connection.execute(f"{query} FOR SHARE", parameters).fetchall()
        return self._rows(rows, read_snapshot(self._connection))

    def payload(self, rows: Sequence[str], txid: int, at: str) -> bytes:
        """Return the payload of an event's message."""
        fields: dict[str, Any] = {"txid": txid, "at": at}
        if self._watch.schema is None:
            fields["schema"] = self._schema
        end = json.dumps(fields, ensure_ascii=False)[1:-1]
        return f'{wire.head_json(self._watch)},{end},"rows":[{",".join(map(_readable, rows))}]}}'.encode()

    def _read_operators(self) -> list[_Operators]:
        """Return the operators of the key's columns, from the index that sorts by them.

        By name, an operator would be looked for on the search path, where somebody may have made one.
        """
        found = {name: _Operators(*names) for name, names in self._connection.execute(_OPERATORS, [self._oid()])}
        return [found.get(column.name, _OF_CATALOG) for column in self._watch.key]

    def _oid(self) -> int:
        query = (
            "SELECT CAST(c.oid AS bigint) FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n "
            "ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s"
        )
        row = self._connection.execute(query, [self._schema, self._watch.table]).fetchone()
        return 0 if row is None else int(row[0])

    def _behind(self, key: Key) -> tuple[str, list[str]]:
        """Return the condition for rows behind a key, and its parameters."""
        return self._compared(key, [(o.greater, o.not_less) for _, o in self._comparisons])

    def _up_to(self, key: Key) -> tuple[str, list[str]]:
        """Return the condition for rows up to a key, and its parameters."""
        pairs = [(o.less, o.not_greater) for _, o in self._comparisons]
        return self._compared(key, [*pairs[:-1], (pairs[-1][1], pairs[-1][1])])

    def _compared(self, key: Key, operators: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
        """Compare a key column by column; a comparison of rows would take one operator's name for all.

        :param operators: of each column, for a value that decides, and for one that leaves it to the next column.
        """
        sql, parameters = "", list[str]()
        parts = list(zip(self._comparisons, operators, key, strict=True))
        for (column, _), (decides, leaves), part in reversed(parts):
            if sql:
                sql = f"({column} {leaves} %s AND ({column} {decides} %s OR {sql}))"
                parameters = [part, part, *parameters]
            else:
                sql, parameters = f"{column} {decides} %s", [part]
        return sql, parameters

    def _equal(self) -> str:
        return "(" + " AND ".join(f"{column} {operators.equal} %s" for column, operators in self._comparisons) + ")"

    def _query_for(self, keys: Sequence[Key]) -> tuple[str, list[str]]:
        conditions = " OR ".join([self._equal()] * len(keys))
        return f"{self._select} WHERE {conditions}", [part for key in keys for part in key]

    def _rows(self, rows: Sequence[tuple[str, ...]], snapshot: Snapshot) -> Rows:
        return Rows([row[0] for row in rows], [tuple(row[1:]) for row in rows], snapshot)


class _Operators(NamedTuple):
    """The operators by which an index compares a column, with their schemas."""

    less: str
    not_greater: str
    equal: str
    not_less: str
    greater: str


_OF_CATALOG = _Operators(*(f"OPERATOR(pg_catalog.{name})" for name in ("<", "<=", "=", ">=", ">")))

_OPERATORS = """
SELECT CAST(a.attname AS text), pg_catalog.array_agg(
  pg_catalog.concat('OPERATOR(', pg_catalog.quote_ident(CAST(n.nspname AS text)), '.', CAST(o.oprname AS text), ')')
  ORDER BY m.amopstrategy)
FROM pg_catalog.pg_index AS i
CROSS JOIN LATERAL ROWS FROM (
  pg_catalog.unnest(i.indkey::pg_catalog.int2[]), pg_catalog.unnest(i.indclass::pg_catalog.oid[])) AS k(attnum, opclass)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_catalog.pg_opclass AS c ON c.oid = k.opclass
JOIN pg_catalog.pg_amop AS m
  ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
JOIN pg_catalog.pg_operator AS o ON o.oid = m.amopopr
JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace
WHERE i.indrelid = CAST(%s AS pg_catalog.oid) AND i.indisprimary
GROUP BY a.attname
HAVING pg_catalog.count(*) = 5
"""


def _doubled(sql: str) -> str:
    """Return SQL such that psycopg finds no placeholder in it."""
    return sql.replace("%", "%%")


def _column(column: CarriedColumn) -> str:
    return f"{_ALIAS}.{quote(column.name)}"


def read_snapshot(connection: psycopg.Connection[Any]) -> Snapshot:
    """Return what a query sees now; in a transaction that is REPEATABLE READ, what all of its queries see."""
    row = connection.execute("SELECT CAST(pg_catalog.pg_current_snapshot() AS text)").fetchone()
    assert row is not None
    return Snapshot.parse(row[0])


def _readable(row: str) -> str:
    """Return the row; in place of one that is no text one that can't be read either, and asks for a resync."""
    try:
        row.encode()
        return row
    except UnicodeEncodeError:  # of a database that does not check what it stores
        return "[]"
