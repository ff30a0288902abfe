"""SQL expressions over the rows of a statement: their values as JSON, and the condition on those told of."""

from __future__ import annotations

from typing import Final

from .. import wire
from ..declaring.conditions import STATEMENT_ALIASES
from ..declaring.spec import CarriedColumn, TableWatch
from .quoting import literal, qualified, quote

#: The names of the transition tables.
NEW_ROWS: Final = "watch_new"
OLD_ROWS: Final = "watch_old"

#: The statement that fires the trigger of each operation.
TRIGGER_EVENTS: Final = {"inserted": "INSERT", "updated": "UPDATE", "deleted": "DELETE", "truncated": "TRUNCATE"}


def source(watch: TableWatch, rows: str, indent: str) -> str:
    row, old = STATEMENT_ALIASES
    table = OLD_ROWS if watch.operation == "deleted" else NEW_ROWS
    source = f"{indent}FROM {rows.format(table)} AS {row}"
    if not watch.needs_old_rows:
        return source
    pairs = " AND ".join(f"{_compared(c, old)} = {_compared(c, row)}" for c in watch.key)
    return f"{source}\n{indent}LEFT JOIN {rows.format(OLD_ROWS)} AS {old} ON {pairs}"


def condition(watch: TableWatch, row: str, old: str, level: str) -> str | None:
    """Return the condition on rows that are told of; None where all are."""
    terms = []
    if watch.trigger_columns:
        terms.append(_or([_differs(c, row, old) for c in watch.trigger_columns]))
    if watch.condition is not None:
        terms.append(f"({watch.condition.statement_sql if level == 'statement' else watch.condition.row_sql})")
    if not terms:
        return None
    condition = " AND ".join(terms)
    if not watch.needs_old_rows:
        return condition
    # A row whose key changed pairs with nothing and counts as changed.
    unpaired = _unpaired(watch, row, old, level)
    if watch.condition is None:
        return f"({unpaired} OR {condition})"
    return f"CASE WHEN {unpaired} THEN ({terms[-1]}) IS NOT FALSE ELSE {condition} END"


def _unpaired(watch: TableWatch, row: str, old: str, level: str) -> str:
    if level == "statement":
        return f"{old}.{quote(watch.key[0].name)} IS NULL"
    return _or([_differs(c, row, old) for c in watch.key])


def _or(terms: list[str]) -> str:
    return terms[0] if len(terms) == 1 else f"({' OR '.join(terms)})"


def _differs(column: CarriedColumn, row: str, old: str) -> str:
    return f"{_compared(column, row)} IS DISTINCT FROM {_compared(column, old)}"


def _compared(column: CarriedColumn, row: str) -> str:
    cast = "" if wire.has_equality(column.type) else "::pg_catalog.text"
    return f"{row}.{quote(column.name)}{cast}"


def row_json(watch: TableWatch, row: str, old: str) -> str:
    """Return the values of a row as JSON, without the brackets around them."""
    text = " || ',' || ".join(value(watch, column, row) for column in watch.carried)
    if not (watch.old and watch.operation == "updated"):
        return text
    mask = " || ".join(f"({_differs(c, row, old)})::integer::pg_catalog.text" for c in watch.compared) or "''"
    previous = "".join(f" || ',' || {value(watch, c, old)}" for c in watch.compared)
    level = "row" if row == "NEW" else "statement"
    paired = f"""CASE WHEN {_unpaired(watch, row, old, level)} THEN '' ELSE ',"' || {mask} || '"'{previous} END"""
    return f"{text} || {paired}"


def partial(key: str) -> str:
    return f"""'{{"partial":[' || {key} || ']}}'"""


def value(watch: TableWatch, column: CarriedColumn, row: str) -> str:
    # A key too may be NULL, where somebody dropped the constraint: the listener then asks to resync.
    return wire.encode_sql(column.type, column_sql(watch, column, row))


def column_sql(watch: TableWatch, column: CarriedColumn, row: str) -> str:
    if watch.discriminator is not None and column == watch.discriminator.column:
        return _discriminator_sql(watch, row)
    return f"{row}.{quote(column.name)}"


def _discriminator_sql(watch: TableWatch, row: str) -> str:
    assert watch.discriminator is not None
    column, lookup = watch.discriminator.column, watch.discriminator.lookup
    if lookup is None:
        return f"{row}.{quote(column.name)}"
    pairs = " AND ".join(
        f"watch_root.{quote(above)} = {row}.{quote(own.name)}" for above, own in zip(lookup.key, watch.key, strict=True)
    )
    return (
        f"(SELECT watch_root.{quote(column.name)} FROM {qualified(lookup.schema, lookup.table)} AS watch_root "
        f"WHERE {pairs})"
    )


def root_check(watch: TableWatch) -> str:
    """Return code that raises where the root's name stands for another table, such as a temporary one of the writer's.

    The true root is the table that the foreign keys lead to, table by table. Without them nothing is checked.
    """
    lookup = None if watch.discriminator is None else watch.discriminator.lookup
    if lookup is None or lookup.schema is not None:
        return ""
    child, hops = "TG_RELID", []
    for n, name in enumerate((*lookup.between, lookup.table)):
        hops.append(
            f"pg_catalog.pg_constraint AS f{n} JOIN pg_catalog.pg_class AS t{n}\n"
            f"        ON f{n}.conrelid = {child} AND t{n}.oid = f{n}.confrelid AND t{n}.relname = {literal(name)}"
        )
        child = f"t{n}.oid"
    source = "\n      CROSS JOIN ".join(hops)
    message = literal(
        f"{lookup.table} is here another table than the one that the foreign keys of {watch.table_key} lead to: "
        f"a temporary one, or one in another schema of the search_path"
    )
    return f"""\
    IF NOT (
      SELECT pg_catalog.bool_or({child} = pg_catalog.to_regclass({literal(quote(lookup.table))}))
      FROM {source}
    ) THEN
      RAISE EXCEPTION USING MESSAGE = {message};
    END IF;
"""


def transition_tables(watch: TableWatch) -> tuple[str | None, str | None]:
    """Return the names of the old and the new transition table that the watch's trigger refers to."""
    if watch.fires_per_row or watch.operation == "truncated":
        return None, None
    return (
        OLD_ROWS if watch.operation == "deleted" or watch.needs_old_rows else None,
        NEW_ROWS if watch.operation in ("inserted", "updated") else None,
    )
