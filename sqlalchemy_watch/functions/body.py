"""The text of the trigger functions.

Three rules shape it. A write must never fail because of it: everything that may raise stands in a guarded
block, which on an error warns and asks the listeners to resync. A statement of one row must be cheap: one
query asks all that there is to ask and builds the whole payload, since each further expression of PL/pgSQL is
set up anew in every transaction, which costs several times as much where many sessions share a processor's
caches. Another query builds the payload of up to `SMALL` rows, and only statements with more of them, or with
rows that do not fit, take other paths. These are planned on their own, so that the plan of a one-row statement
(a nested loop over both transition tables) is never used for a million rows.

The first line of a body marks it as ours and names the application. The whole text is compared byte by byte with
`pg_proc.prosrc`. A changed text is a new `mark.TEMPLATE_VERSION`.
"""

from __future__ import annotations

import json
from typing import Final

from .. import wire
from ..declaring.conditions import STATEMENT_ALIASES
from ..declaring.spec import TableWatch
from . import emission, expressions
from .mark import mark_line
from .quoting import literal, quote

#: Statements of up to this many rows are built by one query.
SMALL: Final = 50

#: Of more rows, pieces of about this size are made, and put together until a payload is full.
PIECE_BYTES: Final = 2_400

#: All settings that a function may have.
FIXED_SETTINGS: Final = (
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
)


def settings(watch: TableWatch) -> tuple[tuple[str, str], ...]:
    """Return the settings that the function needs so that values have one text form; none for the common types."""
    columns = (*watch.carried, *watch.compared) if watch.old else watch.carried
    return FIXED_SETTINGS if any(wire.needs_fixed_settings(column.type) for column in columns) else ()


def function_body(watch: TableWatch) -> str:
    """Return the body of the watch's trigger function."""
    if watch.operation == "truncated":
        single, others = _without_rows(watch)
    else:
        single, others = (_row_level if watch.fires_per_row else _statement_level)(watch)
    others = _guarded(watch, others + _limit(watch))
    parts = [_declare(watch), _guarded(watch, single), _emit_single(watch), others, _emit_rest(watch)]
    if watch.fires_per_row:
        parts.insert(0, _types(watch))
    text = "\n".join([mark_line(watch), "#variable_conflict use_column", *parts, "END"])
    return f"\n{text}\n"


def _types(watch: TableWatch) -> str:
    # Sessions keep the types of NEW and OLD that they saw first, until the function is replaced: so its text has
    # to change with the types.
    columns = {column.name: wire.sql_type(column.type) for column in (*watch.carried, *watch.trigger_columns)}
    return f"-- {json.dumps(columns)}"


def _declare(watch: TableWatch) -> str:
    logged = "  watch_logged pg_catalog.pg_lsn;\n" if watch.is_durable else ""
    return f"""\
<<watch>>
DECLARE
  watch_head pg_catalog.text;
  watch_single pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_seen bigint;
  watch_room integer;
  watch_longest integer;
  watch_piece record;
  watch_resync pg_catalog.text;
{logged}\
BEGIN"""


def _guarded(watch: TableWatch, lines: str) -> str:
    # RAISE with USING has no placeholders, so that the text has no percent sign, which migrations run
    # offline would double.
    message = literal(f"sqlalchemy_watch: the rows of {watch.table_key}/{watch.label} could not be described: ")
    return f"""\
  BEGIN
{lines}
  EXCEPTION WHEN OTHERS THEN
    IF {emission.MUTED} THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat({message}, SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
{emission.head_values(watch, "'null'", "      ")});
    watch_resync := {literal(wire.BUILD_FAILED)};
{emission.emit(watch, emission.RESYNC, "    ")}
    RETURN NULL;
  END;"""


def _emit_single(watch: TableWatch) -> str:
    # Assignments, since PERFORM would start the executor for each.
    limit = wire.MAX_PAYLOAD_BYTES if watch.is_notified else wire.MAX_MESSAGE_BYTES
    size = "pg_catalog.octet_length(watch_single)"
    fits = f"pg_catalog.textne(watch_single, '') AND pg_catalog.int4le({size}, {limit})"
    notify, log = emission.notify_call(watch, "watch_single"), emission.log_call(watch, "watch_single")
    notify = f"    watch_rows := {notify}::pg_catalog.text;\n" if watch.is_notified else ""
    log = f"    watch_logged := {log};\n" if watch.is_durable else ""
    return f"""\
  IF {fits} THEN
{notify}{log}\
    RETURN NULL;
  END IF;
  IF watch_single IS NULL THEN
    RETURN NULL;
  END IF;"""


def _limit(watch: TableWatch) -> str:
    """Leave out rows that would make the write fail, since they are logged outside of the guard."""
    if not watch.is_durable:
        return ""
    return f"""
    IF pg_catalog.octet_length(watch_rows) > {wire.MAX_MESSAGE_BYTES} THEN
      watch_rows := NULL;
      watch_resync := {literal(wire.TOO_LARGE)};
    END IF;"""


def _emit_rest(watch: TableWatch) -> str:
    return f"""\
  IF watch_rows IS NOT NULL THEN
{emission.emit(watch, emission.ROWS, "    ")}
  END IF;
  IF watch_resync IS NOT NULL THEN
{emission.emit(watch, emission.RESYNC, "    ")}
  END IF;
  RETURN NULL;"""


def _without_rows(watch: TableWatch) -> tuple[str, str]:
    """Return the code that builds the payload of a TRUNCATE, and the code for one with a long context."""
    payload = _single(watch, "''", (emission.LONG_CONTEXT, "''"))
    return f"    watch_single := {payload};", f"{emission.head(watch, '    ')}\n    watch_rows := '[]';"


def _row_level(watch: TableWatch) -> tuple[str, str]:
    """Return the code that builds the payload, and the code for one that does not fit."""
    row, old = ("OLD", "OLD") if watch.operation == "deleted" else ("NEW", "OLD")
    condition = expressions.condition(watch, row, old, "row")
    values = expressions.row_json(watch, row, old)
    skip = f"({condition}) IS NOT TRUE" if condition else None
    single = f"""\
{expressions.root_check(watch)}\
    watch_single := {_single(watch, values, (skip, "NULL"), (emission.LONG_CONTEXT, "''"))};"""
    others = f"""\
{emission.head(watch, "    ")}
    watch_rows := '[' || {values} || ']';"""
    if not watch.is_notified:
        return single, others
    key = " || ',' || ".join(expressions.value(watch, column, row) for column in watch.always)
    return (
        single,
        f"""\
{others}
    IF pg_catalog.octet_length(watch_rows) > watch_room THEN
{emission.log_alone(watch, "watch_rows", "      ")}\
      watch_rows := {expressions.partial(key)};
      IF pg_catalog.octet_length(watch_rows) > watch_room THEN
        watch_rows := NULL;
        watch_resync := {literal(wire.TOO_LARGE)};
      END IF;
{emission.notify_alone(watch, "watch_rows", "      ")}\
    END IF;""",
    )


def _single(watch: TableWatch, row: str, *cases: tuple[str | None, str], of: str = "") -> str:
    """The payload of a single row; NULL where there is nothing to tell, empty where the other code has to build it.

    One expression, since each has its price in every transaction anew.
    """
    whens = "".join(f"      WHEN {when} THEN {then}\n" for when, then in cases if when is not None)
    return f"""\
CASE
      WHEN {emission.MUTED} THEN NULL
{whens}\
      ELSE pg_catalog.concat(
{emission.head_values(watch, emission.CONTEXT, "        ", of)},
        '[', {row}, ']]}}')
    END"""


def _statement_level(watch: TableWatch) -> tuple[str, str]:
    """Return the code that builds the payload of a single row, and the code for all other statements."""
    condition = expressions.condition(watch, *STATEMENT_ALIASES, "statement")
    row = expressions.row_json(watch, *STATEMENT_ALIASES)
    table = expressions.OLD_ROWS if watch.operation == "deleted" else expressions.NEW_ROWS
    more = f"EXISTS (SELECT FROM {table} OFFSET 1) OR {emission.LONG_CONTEXT}"
    skip = f"({condition}) IS NOT TRUE" if condition else None
    # Planned for one row, however many there are the first time; a join is to read no more of either table.
    source = expressions.source(watch, "(SELECT * FROM {} LIMIT 1)" if watch.needs_old_rows else "{}", "    ")
    # Among columns the variable is qualified: the table may have one of that name.
    of = f"{quote(watch.function_name)}."
    single = f"""\
{expressions.root_check(watch)}\
    SELECT {_single(watch, row, (more, "''"), (skip, "NULL"), of=of)}
    INTO watch_single
{source}
    LIMIT 1;"""
    chosen = f"CASE WHEN {condition} THEN {row} END" if condition else row
    others = f"""\
{emission.head(watch, "    ")}
    SELECT pg_catalog.string_agg(w.j, '],['), pg_catalog.count(*) INTO watch_rows, watch_seen FROM (
      SELECT {chosen} AS j
{expressions.source(watch, f"(SELECT * FROM {{}} LIMIT {SMALL + 1})", "      ")}
    ) AS w;
    IF watch_seen <= {SMALL} THEN
      watch_longest := pg_catalog.octet_length(watch_rows) + 2;
      watch_rows := '[' || watch_rows || ']';
    ELSE
{_many_rows(watch, condition, row)}
    END IF;
    IF watch_longest > watch_room THEN
{_long_rows(watch, condition, row)}
    END IF;"""
    return single, others


def _many_rows(watch: TableWatch, condition: str | None, row: str) -> str:
    # Pieces of about PIECE_BYTES, as many rows each as the rows seen so far suggest; then as many pieces as a
    # payload holds. Far cheaper than a loop over the rows, and bounded in memory, as hashing spills to disk.
    # Variables among columns are qualified by the block: the table may have a column of that name.
    where = f"\n          WHERE {condition}" if condition else ""
    return f"""\
      watch_seen := greatest({PIECE_BYTES} * watch_seen / coalesce(pg_catalog.octet_length(watch_rows), 2000), 1);
      watch_rows := NULL;
      FOR watch_piece IN
        SELECT '[' || pg_catalog.string_agg(p.j, '],[') || ']' AS j,
          pg_catalog.max(pg_catalog.octet_length(pg_catalog.string_agg(p.j, '],[')) + 2) OVER () AS longest
        FROM (SELECT {row} AS j, pg_catalog.row_number() OVER () / watch.watch_seen AS piece
{expressions.source(watch, "{}", "          ")}{where}) AS p
        GROUP BY p.piece ORDER BY p.piece
      LOOP
        watch_longest := watch_piece.longest;
        EXIT WHEN watch_longest > watch_room;
{emission.append(watch)}
      END LOOP;"""


def _long_rows(watch: TableWatch, condition: str | None, row: str) -> str:
    """Go through the rows one by one, where some do not fit together with others, or at all."""
    alias = STATEMENT_ALIASES[0]
    passed = "".join(
        f", {expressions.column_sql(watch, column, alias)} AS k{i}" for i, column in enumerate(watch.always)
    )
    key = " || ',' || ".join(wire.encode_sql(c.type, f"watch_piece.k{i}") for i, c in enumerate(watch.always))
    where = f"\n        WHERE {condition}" if condition else ""
    too_long = f"""\
        IF pg_catalog.octet_length(watch_piece.j) > watch_room THEN
{emission.log_alone(watch, "watch_piece.j", "          ")}\
          watch_piece.j := {expressions.partial(key)};
          IF pg_catalog.octet_length(watch_piece.j) > watch_room THEN
            watch_piece.j := NULL;
            watch_resync := {literal(wire.TOO_LARGE)};
          END IF;
{emission.notify_alone(watch, "watch_piece.j", "          ")}\
          CONTINUE WHEN watch_piece.j IS NULL;
        END IF;
"""
    return f"""\
      watch_rows := NULL;
      FOR watch_piece IN
        SELECT '[' || {row} || ']' AS j{passed if watch.is_notified else ""}
{expressions.source(watch, "{}", "        ")}{where}
      LOOP
{too_long if watch.is_notified else ""}{emission.append(watch)}
      END LOOP;"""
