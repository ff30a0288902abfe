"""SQL expressions over the rows of a statement: their values as JSON, and the condition on those told of.

No operator and no name in them is looked up on the writer's search_path, but for those of the user's own SQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..declaring.conditions import STATEMENT_ALIASES
from ..declaring.spec import CarriedColumn, TableWatch
from . import values
from .quoting import literal, qualified, quote

#: The names of the transition tables.
NEW_ROWS: Final = "watch_new"
OLD_ROWS: Final = "watch_old"

#: The statement that fires the trigger of each operation.
TRIGGER_EVENTS: Final = {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE", "truncated": "TRUNCATE"}

#: Bytes of a row that is too long to be taken for bounded: a payload has little more room beside long names.
MOST_BOUNDED: Final = 1_000

#: The number of a row in its transition table; no column has such a name.
_NUMBER: Final = '"watch # of the row"'


def row_names(watch: TableWatch) -> tuple[str, str]:
    """Return the names of a row and of its previous version."""
    if not watch.fires_per_row:
        return STATEMENT_ALIASES
    return ("OLD", "OLD") if watch.operation == "deleted" else ("NEW", "OLD")


def transition_tables(watch: TableWatch) -> tuple[str | None, str | None]:
    """Return the names of the old and the new transition table that the watch's trigger refers to."""
    if watch.fires_per_row or watch.operation == "truncated":
        return None, None
    return (
        OLD_ROWS if watch.operation == "deleted" or watch.needs_old_rows else None,
        NEW_ROWS if watch.operation in ("inserted", "updated") else None,
    )


def single_source(watch: TableWatch) -> list[str]:
    """Return FROM for a statement of one row: of one each, the rows are a pair."""
    row, old = STATEMENT_ALIASES
    lines = [f"FROM {_rows(watch)} AS {row}"]
    return [*lines, f"LEFT JOIN {OLD_ROWS} AS {old} ON true"] if watch.needs_old_rows else lines


def source(watch: TableWatch, limit: int | None = None) -> list[str]:
    """Return FROM for any statement. PostgreSQL appends to both transition tables together, so position pairs.

    The join is a full one so that no plan for a few rows, a nested loop, is kept for a million.

    :param limit: the rows that are read at most.
    """
    row, old = STATEMENT_ALIASES
    end = "" if limit is None else f" LIMIT {limit}"
    if not watch.needs_old_rows:
        return [f"FROM {_rows(watch)} AS {row}{end}"]
    numbered = f"(SELECT t.*, pg_catalog.row_number() OVER () AS {_NUMBER} FROM {{}} AS t{end}) AS {{}}"
    return [
        f"FROM {numbered.format(NEW_ROWS, row)}",
        f"FULL JOIN {numbered.format(OLD_ROWS, old)}",
        f"ON {old}.{_NUMBER} OPERATOR(pg_catalog.=) {row}.{_NUMBER}",
    ]


def _rows(watch: TableWatch) -> str:
    return OLD_ROWS if watch.operation == "deleted" else NEW_ROWS


def condition(watch: TableWatch) -> str | None:
    """Return the condition on rows that are told of; None where all are."""
    terms = []
    if watch.trigger_columns:  # a changed key counts: the row under the old one is gone
        columns = [*watch.key, *(c for c in watch.trigger_columns if c not in watch.key)]
        terms.append(_differ(columns, *row_names(watch)))
    if watch.condition is not None:
        terms.append(f"({watch.condition.row_sql if watch.fires_per_row else watch.condition.statement_sql})")
    return f"({' AND '.join(terms)})" if len(terms) > 1 else next(iter(terms), None)


def _differ(columns: list[CarriedColumn], row: str, old: str) -> str:
    """Return a condition: the stored bytes of one of these columns differ, whatever its type and its collation."""
    plain = [column for column in columns if values.has_exact_equality(column.type)]
    terms = [_differs_in_value(column, row, old) for column in plain]
    others = [column for column in columns if column not in plain]
    if others:
        one, other = (", ".join(f"{name}.{quote(c.name)}" for c in others) for name in (row, old))
        terms.append(f"pg_catalog.record_image_ne(ROW({one}), ROW({other}))")
    return terms[0] if len(terms) == 1 else f"({' OR '.join(terms)})"


def _differs_in_value(column: CarriedColumn, row: str, old: str) -> str:
    # Far cheaper than a comparison of records. IS DISTINCT FROM would look its operator up by the search_path.
    one, other = f"{row}.{quote(column.name)}", f"{old}.{quote(column.name)}"
    differs = f"{one} OPERATOR(pg_catalog.<>) {other}"
    if column.is_primary:  # not NULL, or else it makes the payload no JSON, which asks to resync
        return f"({differs}) IS NOT FALSE"
    return f"(({differs}) IS NOT FALSE AND ({one} IS NOT NULL OR {other} IS NOT NULL))"


#: Makes JSON of a column's value; see `values`.
Encode = Callable[[CarriedColumn, str, bool], str]


#: Arguments of one call: PostgreSQL allows 100, and a payload has some beside the row's.
_MOST_ARGUMENTS: Final = 80


def row_arguments(watch: TableWatch) -> str:
    """Return the values of a row as JSON, with commas between them, as arguments of concat()."""
    return _as_arguments(_row(watch, values.argument))


def key_arguments(watch: TableWatch) -> str:
    """Return the values that are told of a row that does not fit, as arguments of concat()."""
    row, _ = row_names(watch)
    key = [_encoded(watch, values.argument, column, row) for column in watch.always]
    return _as_arguments(_with_commas(key))


def _as_arguments(parts: list[str]) -> str:
    if len(parts) <= _MOST_ARGUMENTS:
        return ", ".join(parts)
    first, others = parts[:_MOST_ARGUMENTS], parts[_MOST_ARGUMENTS:]
    return f"pg_catalog.concat({', '.join(first)}), pg_catalog.concat({_as_arguments(others)})"


def one_row(watch: TableWatch) -> str:
    """Return the values of the only row of a statement as one text; NULL where it is not told of."""
    row, told = f"pg_catalog.concat({row_arguments(watch)})", condition(watch)
    return row if told is None else f"CASE WHEN {told} THEN {row} END"


def each_row(watch: TableWatch) -> str:
    """Return the same for each of many.

    A row without its pair makes the payload no JSON, which asks to resync: old and new rows are not as many where a
    BEFORE trigger of a partition suppresses a row that moves there.
    """
    row, told = " OPERATOR(pg_catalog.||) ".join(_row(watch, values.text)), condition(watch)
    cases = []
    if watch.needs_old_rows:
        cases.append(f"WHEN {' OR '.join(f'{name}.{_NUMBER} IS NULL' for name in STATEMENT_ALIASES)} THEN '?'")
    cases.append(f"ELSE {row}" if told is None else f"WHEN {told} THEN {row}")
    return row if len(cases) == 1 and told is None else f"CASE {' '.join(cases)} END"


def _row(watch: TableWatch, encode: Encode) -> list[str]:
    row, old = row_names(watch)
    parts = _with_commas([_encoded(watch, encode, column, row) for column in watch.carried])
    if watch.old and watch.operation == "updated":
        changed = [f"({_differ([column], row, old)})::integer::pg_catalog.text" for column in watch.compared]
        previous = [encode(column, f"{old}.{quote(column.name)}", False) for column in watch.compared]
        parts += ["',\"'", *changed, "'\",'", *_with_commas(previous)]
    return parts


def _encoded(watch: TableWatch, encode: Encode, column: CarriedColumn, row: str) -> str:
    # Where row security hides the root, nothing says of what class the row is. Of a deleted row the root may be gone.
    breaks_if_null = watch.operation != "deleted" and watch.is_looked_up(column)
    return encode(column, column_sql(watch, column, row), breaks_if_null)


def _with_commas(parts: list[str]) -> list[str]:
    return [part for value in parts for part in ("','", value)][1:]


def longest_row(watch: TableWatch) -> int | None:
    """Return the bytes of the longest row's JSON, without brackets; None where there is no bound."""
    previous = watch.compared if watch.old and watch.operation == "updated" else ()
    size = values.longest((*watch.carried, *previous))
    if size is not None and previous:
        size += len(previous) + len('"",')
    return None if size is None or size > MOST_BOUNDED else size


def column_sql(watch: TableWatch, column: CarriedColumn, row: str) -> str:
    """Return a column's value: that of the row, or a discriminator of the hierarchy's root."""
    if watch.discriminator is not None and column == watch.discriminator.column:
        return _discriminator_sql(watch, row)
    return f"{row}.{quote(column.name)}"


def _discriminator_sql(watch: TableWatch, row: str) -> str:
    assert watch.discriminator is not None
    column, lookup = watch.discriminator.column, watch.discriminator.lookup
    if lookup is None:
        return f"{row}.{quote(column.name)}"
    pairs = " AND ".join(
        f"watch_root.{quote(above)} OPERATOR(pg_catalog.=) {row}.{quote(own.name)}"
        for above, own in zip(lookup.key, watch.key, strict=True)
    )
    return (
        f"(SELECT watch_root.{quote(column.name)} FROM {qualified(lookup.schema, lookup.table)} AS watch_root "
        f"WHERE {pairs})"
    )


def root_check(watch: TableWatch) -> list[str]:
    """Return code that raises where the root's name stands for another table, such as a temporary one of the writer's.

    The true root is the table that the foreign keys lead to, table by table; without them, the one in the same schema.
    """
    lookup = None if watch.discriminator is None else watch.discriminator.lookup
    if lookup is None or lookup.schema is not None:
        return []
    child, hops = "tg_relid", []
    for n, name in enumerate((*lookup.between, lookup.table)):
        joined = "FROM" if n == 0 else "CROSS JOIN"
        hops.append(f"  {joined} pg_catalog.pg_constraint AS f{n} JOIN pg_catalog.pg_class AS t{n}")
        hops.append(
            f"    ON f{n}.conrelid OPERATOR(pg_catalog.=) {child} AND t{n}.oid OPERATOR(pg_catalog.=) f{n}.confrelid "
            f"AND t{n}.relname OPERATOR(pg_catalog.=) {literal(name)}"
        )
        child = f"t{n}.oid"
    found = f"pg_catalog.to_regclass({literal(quote(lookup.table))})"
    # Without a foreign key: in the same schema.
    named = (
        "pg_catalog.pg_class AS c JOIN pg_catalog.pg_class AS t ON t.relnamespace OPERATOR(pg_catalog.=) c.relnamespace"
    )
    beside = f"c.oid OPERATOR(pg_catalog.=) {found} AND t.oid OPERATOR(pg_catalog.=) tg_relid"
    message = (
        f"{lookup.table} is here another table than the one that the foreign keys of {watch.table_key} lead to: "
        f"a temporary one, or one in another schema of the search_path"
    )
    return [
        "IF NOT coalesce((",
        f"  SELECT pg_catalog.bool_or({child} OPERATOR(pg_catalog.=) {found})",
        *hops,
        "), EXISTS (",
        f"  SELECT FROM {named}",
        f"  WHERE {beside}",
        ")) THEN",
        f"  RAISE EXCEPTION USING MESSAGE = {literal(message)};",
        "END IF;",
    ]
