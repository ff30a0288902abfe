"""Parts of the functions' text that a payload is made of, and the calls that send it."""

from __future__ import annotations

from typing import Final

from .. import wire
from ..declaring.spec import TableWatch
from .quoting import literal

#: True for the writer's transaction that is muted.
MUTED: Final = f"pg_catalog.current_setting('{wire.MUTED_SETTING}', true) OPERATOR(pg_catalog.=) 'on'"

_CONTEXT_NAME: Final = ',"context":'

#: The writer's context, as it stands in a payload; NULL where there is none.
CONTEXT: Final = (
    f"'{_CONTEXT_NAME}' OPERATOR(pg_catalog.||) "
    f"pg_catalog.to_json(pg_catalog.current_setting('{wire.CONTEXT_SETTING}', true))::pg_catalog.text"
)


#: The statements that set `watch_context` to the same, unless somebody has set a longer one than `context()` would.
SET_CONTEXT: Final = (
    f"watch_context := {CONTEXT};",
    f"watch_context := CASE WHEN pg_catalog.octet_length(watch_context) OPERATOR(pg_catalog.<=) "
    f"{wire.MAX_CONTEXT_BYTES + len(_CONTEXT_NAME)} THEN watch_context END;",
)


def is_too_long(watch: TableWatch, payload: str) -> str:
    """Return a condition that is true of a payload of more bytes than `limit`."""
    return f"pg_catalog.octet_length({payload}) OPERATOR(pg_catalog.>) {limit(watch)}"


def limit(watch: TableWatch) -> int:
    """Return the bytes that a payload may have; of those in the log, single rows may have more."""
    return wire.MAX_PAYLOAD_BYTES if watch.is_notified else wire.DURABLE_PAYLOAD_BYTES


def head(watch: TableWatch) -> list[str]:
    """Return the arguments of concat() for the beginning of a payload, which has the same bytes as far as it can.

    The listener compares these, rather than to parse them.
    """
    variable = []
    if watch.fires_per_row or (watch.schema is None and not watch.is_durable):
        variable.append((',"oid":', "tg_relid"))
    if watch.schema is None and watch.is_durable:
        variable.append((',"schema":', "pg_catalog.to_json(tg_table_schema::pg_catalog.text)"))
    if watch.is_notified:  # of a transaction in the log, its own record says both
        variable.append((',"txid":', "pg_catalog.pg_current_xact_id()"))
        variable.append((',"at":', "pg_catalog.to_json(pg_catalog.clock_timestamp())"))
    constant = wire.head_json(watch)
    if not variable:
        return [literal(constant)]
    (first, sql), *others = variable
    return [f"{literal(constant + first)}, {sql}", *(f"{literal(name)}, {sql}" for name, sql in others)]


def concat(arguments: list[str]) -> list[str]:
    """Return a call of concat(), an argument a line."""
    return ["pg_catalog.concat(", *(f"  {argument}," for argument in arguments[:-1]), f"  {arguments[-1]})"]


def notify(watch: TableWatch, payload: str) -> str:
    """Return the call that notifies."""
    return f"pg_catalog.pg_notify({literal(watch.channel)}, {payload})"


def log(watch: TableWatch, payload: str) -> str:
    """Return the call that logs."""
    return f"pg_catalog.pg_logical_emit_message(true, {literal(wire.DURABLE_PREFIX + watch.channel)}, {payload})"


def calls(watch: TableWatch, payload: str) -> list[str]:
    """Return the calls that send a payload, by every way of the watch."""
    return [notify(watch, payload)] * watch.is_notified + [log(watch, payload)] * watch.is_durable


def is_unsent(watch: TableWatch, payload: str) -> str:
    """Return a condition that sends a payload, and is never true."""
    terms = [f"{call} IS NULL" for call in calls(watch, payload)]
    return terms[0] if len(terms) == 1 else f"({' OR '.join(terms)})"


def has_no_right(watch: TableWatch) -> str:
    """Return a condition that is never true, and raises where the writer has no right to send."""
    unsent = is_unsent(watch, "''")
    return f"tg_relid IS NULL AND {unsent}"


def is_elsewhere(watch: TableWatch) -> list[str]:
    """Return conditions one of which is true where the table has another name, or another schema, than is declared.

    Of a row-level trigger there are none: partitions have names of their own.
    """
    if watch.fires_per_row:
        return []
    terms = [f"tg_table_name OPERATOR(pg_catalog.<>) {literal(watch.table)}"]
    if watch.schema is not None:
        terms.append(f"tg_table_schema OPERATOR(pg_catalog.<>) {literal(watch.schema)}")
    return terms


def is_retired(watch: TableWatch) -> list[str]:
    """Return lines of a condition on a table that is elsewhere: another one has its place, and it keeps its triggers.

    Without another one in its place it was merely renamed.
    """
    if watch.schema is None:
        place = "pg_catalog.pg_class AS t ON t.relnamespace OPERATOR(pg_catalog.=) c.relnamespace"
        named = "t.oid OPERATOR(pg_catalog.=) tg_relid"
    else:
        place = "pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
        named = f"n.nspname OPERATOR(pg_catalog.=) {literal(watch.schema)}"
    return [
        f"EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN {place}",
        f"  WHERE c.relname OPERATOR(pg_catalog.=) {literal(watch.table)} AND {named}"
        " AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'))",
    ]
