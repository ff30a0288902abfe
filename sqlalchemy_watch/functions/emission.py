"""Parts of the functions' text that send a payload: its head, and the calls that notify or log it.

The payload is built in variables of the function (`watch_head`, `watch_rows`, `watch_resync`). Outside the guard there
are no operators, which the writer's search_path could lead elsewhere.
"""

from __future__ import annotations

import json
from typing import Final

from .. import wire
from ..declaring.spec import TableWatch
from .quoting import literal

#: A payload of rows, from the variables of the function, and one that asks to resync.
ROWS: Final = "pg_catalog.concat(watch_head, watch_rows, ']}')"

RESYNC: Final = """pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}')"""

#: True for the writer's transaction that is muted.
MUTED: Final = f"pg_catalog.texteq(pg_catalog.current_setting('{wire.MUTED_SETTING}', true), 'on')"

_CONTEXT_TEXT: Final = f"pg_catalog.current_setting('{wire.CONTEXT_SETTING}', true)"

#: As JSON, where it is known to be short enough, and where not.
CONTEXT: Final = f"coalesce(pg_catalog.to_json(nullif({_CONTEXT_TEXT}, '')), 'null')"
_ANY_CONTEXT: Final = (
    f"CASE WHEN pg_catalog.octet_length({CONTEXT}::pg_catalog.text) > {wire.MAX_CONTEXT_BYTES} THEN 'null' "
    f"ELSE {CONTEXT} END"
)

#: Escaped, a byte takes six at the most: only a longer context has to be measured.
LONG_CONTEXT: Final = f"pg_catalog.octet_length({_CONTEXT_TEXT}) > {wire.MAX_CONTEXT_BYTES // 6 - 1}"


def head(watch: TableWatch, indent: str) -> str:
    """Return the statements that set the payload's head, and the room that is left for rows."""
    return f"""\
{indent}watch_head := pg_catalog.concat(
{head_values(watch, _ANY_CONTEXT, indent + "  ")});
{indent}watch_room := {_payload_bytes(watch) - 2} - pg_catalog.octet_length(watch_head);"""


def head_values(watch: TableWatch, context: str, indent: str, of: str = "") -> str:
    """Return everything in front of the rows, as arguments of concat(), which is faster than many operators.

    :param of: the qualification of a variable's name.
    """
    schema = (
        f"pg_catalog.to_json({of}tg_table_schema::pg_catalog.text)"
        if watch.schema is None
        else literal(json.dumps(watch.schema, ensure_ascii=False))
    )
    # Only identical notifications are dropped.
    position = ["""',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"'"""] if watch.is_notified else []
    values = (
        f"""{literal(wire.head_json(watch) + ',"schema":')}, {schema}""",
        """',"txid":', pg_catalog.pg_current_xact_id()""",
        """',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint""",
        *position,
        f"""',"context":', {context}, ',"rows":['""",
    )
    return ",\n".join(indent + value for value in values)


def _payload_bytes(watch: TableWatch) -> int:
    return wire.MAX_PAYLOAD_BYTES if watch.is_notified else wire.DURABLE_PAYLOAD_BYTES


def emit(watch: TableWatch, payload: str, indent: str) -> str:
    """Return the statements that send a payload by every route of the watch."""
    return "\n".join(f"{indent}PERFORM {call};" for call in _calls(watch, payload))


def _calls(watch: TableWatch, payload: str) -> list[str]:
    notified = [notify_call(watch, payload)] if watch.is_notified else []
    return [*notified, log_call(watch, payload)] if watch.is_durable else notified


def notify_call(watch: TableWatch, payload: str) -> str:
    """Return the call that notifies."""
    return f"pg_catalog.pg_notify({literal(watch.channel)}, {payload})"


def log_call(watch: TableWatch, payload: str) -> str:
    """Return the call that logs."""
    return f"pg_catalog.pg_logical_emit_message(true, {literal(wire.DURABLE_PREFIX + watch.channel)}, {payload})"


def log_alone(watch: TableWatch, row: str, indent: str) -> str:
    """Log a row in full that is too long to be notified of, in its place behind the rows before it."""
    if not watch.is_durable:
        return ""
    return f"""\
{indent}IF {row} IS DISTINCT FROM watch_rows AND watch_rows IS NOT NULL THEN
{emit(watch, ROWS, indent + "  ")}
{indent}  watch_rows := NULL;
{indent}END IF;
{indent}PERFORM {log_call(watch, f"watch_head || {row} || ']}}'")};
"""


def notify_alone(watch: TableWatch, row: str, indent: str) -> str:
    """Notify of the key of such a row, or of a resync, without logging that as well."""
    if not watch.is_durable:
        return ""
    return f"""\
{indent}IF watch_resync IS NULL THEN
{indent}  PERFORM {notify_call(watch, f"watch_head || {row} || ']}}'")};
{indent}ELSE
{indent}  PERFORM {notify_call(watch, RESYNC)};
{indent}END IF;
{indent}watch_resync := NULL;
{indent}{row} := NULL;
"""


def append(watch: TableWatch) -> str:
    """Add a piece to the payload; where it would not fit, emit the payload and begin another."""
    return f"""\
        IF pg_catalog.octet_length(watch_rows) + 1 + pg_catalog.octet_length(watch_piece.j) > watch_room THEN
{emit(watch, ROWS, "          ")}
          watch_rows := watch_piece.j;
        ELSE
          watch_rows := pg_catalog.concat_ws(',', watch_rows, watch_piece.j);
        END IF;"""
