"""The text of the trigger functions.

Three rules shape it. A write must never fail because of it: everything that may raise stands in a guarded
block, which on an error warns and asks the listeners to resync. A statement of one row must be cheap: one
query builds the payload of up to `SMALL` rows, and only a statement with more of them, or with rows that do
not fit, takes the second path. That one is planned on its own, so that the plan of a one-row statement (a
nested loop over both transition tables) is never used for a million rows.

The first line of a body marks it as ours, and whose; what follows is compared byte by byte with what
PostgreSQL has in `pg_proc.prosrc`. A changed text is a new `TEMPLATE_VERSION`.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy.dialects import postgresql

from .. import wire
from ..conditions import STATEMENT_ALIASES
from ..spec import CarriedColumn, TableWatch

#: Of the functions' text; the golden test freezes what each version looks like.
TEMPLATE_VERSION: Final = 1

#: How the first line of a function of ours begins.
MARK: Final = "-- sqlalchemy_watch "

#: Statements of up to this many rows are built by one query.
SMALL: Final = 50

#: Rows longer than this go into pieces of their own, shorter ones are gathered up to it; pieces are then
#: put together until a payload is full.
PIECE_BYTES: Final = 900

NEW_ROWS: Final = "watch_new"
OLD_ROWS: Final = "watch_old"

#: A payload of rows, from the variables of the function.
_ROWS: Final = "watch_head || watch_rows || ']}'"

_preparer = postgresql.dialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call]


def quote(identifier: str) -> str:
    """An identifier, quoted as PostgreSQL needs it (and percent signs left alone)."""
    return _preparer.quote(identifier)


def qualified(schema: str | None, name: str) -> str:
    """A name with its schema, if one is declared."""
    return quote(name) if schema is None else f"{_preparer.quote_schema(schema)}.{quote(name)}"


def literal(text: str) -> str:
    """A string literal, the same under either setting of standard_conforming_strings."""
    quoted = text.replace("'", "''")
    return f"E'{quoted}'".replace("\\", "\\\\") if "\\" in text else f"'{quoted}'"


def mark_line(watch: TableWatch) -> str:
    """The comment that marks a function as ours: template version, application, table and label."""
    fields = {"application": watch.application, "schema": watch.schema, "table": watch.table, "label": watch.label}
    return f"{MARK}{TEMPLATE_VERSION} {json.dumps(fields)}"


def read_mark(body: str) -> tuple[int, dict[str, Any]] | None:
    """Template version and fields of a marked body; None where it isn't ours or the mark doesn't parse."""
    line = body.lstrip("\n").split("\n", 1)[0]
    if not line.startswith(MARK):
        return None
    version, _, fields = line[len(MARK) :].partition(" ")
    try:
        parsed = json.loads(fields)
        return (int(version), parsed) if isinstance(parsed, dict) else None
    except ValueError:
        return None


def settings(watch: TableWatch) -> tuple[tuple[str, str], ...]:
    """Settings the function needs so that values have one text form; none for the common types."""
    columns = (*watch.carried, *watch.compared) if watch.old else watch.carried
    if not any(wire.needs_fixed_settings(column.type) for column in columns):
        return ()
    return (
        ("DateStyle", "ISO, YMD"),
        ("IntervalStyle", "postgres"),
        ("extra_float_digits", "1"),
        ("bytea_output", "hex"),
    )


def function_body(watch: TableWatch) -> str:
    """The body of the watch's trigger function."""
    if watch.operation == "truncated":
        parts = [_declare(), _mute(), _head(watch), "  watch_rows := '[]';"]
    elif watch.level == "row":
        parts = [_declare(), _mute(), _head(watch), _guarded(watch, _row_level(watch))]
    else:
        parts = [_declare(), _mute(), _head(watch), _guarded(watch, _statement_level(watch))]
    text = "\n".join([mark_line(watch), "#variable_conflict use_column", *parts, _emit_rest(watch), "END"])
    return f"\n{text}\n"


def _declare() -> str:
    return """\
DECLARE
  watch_head pg_catalog.text;
  watch_context pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_seen bigint;
  watch_room integer;
  watch_piece record;
  watch_resync pg_catalog.text;
BEGIN"""


def _mute() -> str:
    return f"""\
  IF pg_catalog.current_setting('{wire.MUTED_SETTING}', true) = 'on' THEN
    RETURN NULL;
  END IF;"""


def _head(watch: TableWatch) -> str:
    schema = (
        "pg_catalog.to_json(TG_TABLE_SCHEMA::pg_catalog.text)::pg_catalog.text"
        if watch.schema is None
        else literal(json.dumps(watch.schema, ensure_ascii=False))
    )
    return f"""\
  watch_context := pg_catalog.to_json(
    nullif(pg_catalog.current_setting('{wire.CONTEXT_SETTING}', true), ''))::pg_catalog.text;
  IF pg_catalog.octet_length(watch_context) > {wire.MAX_CONTEXT_BYTES} THEN
    watch_context := NULL;
  END IF;
  watch_head := {literal(wire.head_json(watch))}
    || ',"schema":' || {schema}
    || ',"txid":' || coalesce(pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.text, '0')
    || ',"at":' || (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint::pg_catalog.text
    || ',"wal":"' || pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text
    || '","context":' || coalesce(watch_context, 'null') || ',"rows":[';
  watch_room := {wire.MAX_PAYLOAD_BYTES - 2} - pg_catalog.octet_length(watch_head);"""


def _guarded(watch: TableWatch, lines: str) -> str:
    # RAISE with USING has no placeholders, so that the text has no percent sign, which migrations run
    # offline would double.
    message = literal(f"sqlalchemy_watch: the rows of {watch.table_key}/{watch.label} could not be described: ")
    return f"""\
  BEGIN
{lines}
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING USING MESSAGE = {message} || SQLERRM,
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_rows := NULL;
    watch_resync := {literal(wire.BUILD_FAILED)};
  END;"""


def _emit(watch: TableWatch, payload: str, indent: str) -> str:
    return f"{indent}PERFORM pg_catalog.pg_notify({literal(watch.channel)}, {payload});"


def _emit_rest(watch: TableWatch) -> str:
    resync = """watch_head || '],"resync":"' || watch_resync || '"}'"""
    return f"""\
  IF watch_rows IS NOT NULL THEN
{_emit(watch, _ROWS, "    ")}
  END IF;
  IF watch_resync IS NOT NULL THEN
{_emit(watch, resync, "    ")}
  END IF;
  RETURN NULL;"""


def _row_level(watch: TableWatch) -> str:
    row, old = ("OLD", "OLD") if watch.operation == "deleted" else ("NEW", "OLD")
    condition = _condition(watch, row, old, "row")
    too_large = f"""\
    IF pg_catalog.octet_length(watch_rows) > watch_room THEN
      watch_rows := {_partial_json(watch, row)};
      IF pg_catalog.octet_length(watch_rows) > watch_room THEN
        watch_rows := NULL;
        watch_resync := {literal(wire.TOO_LARGE)};
      END IF;
    END IF;"""
    skip = f"    IF ({condition}) IS NOT TRUE THEN\n      RETURN NULL;\n    END IF;\n" if condition else ""
    return f"{skip}    watch_rows := {_row_json(watch, row, old)};\n{too_large}"


def _statement_level(watch: TableWatch) -> str:
    condition = _condition(watch, *STATEMENT_ALIASES, "statement")
    row = _row_json(watch, *STATEMENT_ALIASES)
    chosen = f"CASE WHEN {condition} THEN {row} END" if condition else row
    few = _source(watch, f"(SELECT * FROM {{}} LIMIT {SMALL + 1})", "      ")
    return f"""\
    SELECT pg_catalog.string_agg(w.j, ','), pg_catalog.count(*) INTO watch_rows, watch_seen FROM (
      SELECT {chosen} AS j
{few}
    ) AS w;
    IF watch_seen <= {SMALL} AND watch_rows IS NULL THEN
      RETURN NULL;
    END IF;
    IF watch_seen > {SMALL} OR pg_catalog.octet_length(watch_rows) > watch_room THEN
{_many_rows(watch, condition, row)}
    END IF;"""


def _many_rows(watch: TableWatch, condition: str | None, row: str) -> str:
    # OFFSET 0 keeps the planner from evaluating an expression twice by pulling the subquery up.
    keys = [f"{STATEMENT_ALIASES[0]}.{quote(c.name)}" for c in watch.key]
    passed = "".join(f", {key} AS k{i}" for i, key in enumerate(keys))
    if len(watch.always) > len(watch.key):
        passed += f", {_discriminator_sql(watch, STATEMENT_ALIASES[0])} AS d"
    where = f"\n          WHERE {condition}" if condition else ""
    source = _source(watch, "{}", "          ")
    return f"""\
      watch_rows := NULL;
      FOR watch_piece IN
        SELECT pg_catalog.string_agg(c.j, ',') AS j, pg_catalog.count(*) - pg_catalog.count(c.j) AS lost
        FROM (SELECT b.j, pg_catalog.sum(pg_catalog.octet_length(b.j) + 1) OVER (ROWS UNBOUNDED PRECEDING)
          / {PIECE_BYTES} * 2 + (pg_catalog.octet_length(b.j) > {PIECE_BYTES})::integer AS piece
        FROM (SELECT CASE WHEN pg_catalog.octet_length(a.j) <= watch_room THEN a.j
          WHEN pg_catalog.octet_length({_partial_passed(watch)}) <= watch_room
          THEN {_partial_passed(watch)} END AS j
        FROM (SELECT {row} AS j{passed}
{source}{where} OFFSET 0) AS a OFFSET 0) AS b) AS c
        GROUP BY c.piece ORDER BY c.piece
      LOOP
        IF watch_piece.lost > 0 THEN
          watch_resync := {literal(wire.TOO_LARGE)};
        END IF;
        IF pg_catalog.octet_length(watch_rows) + 1 + pg_catalog.octet_length(watch_piece.j) > watch_room THEN
{_emit(watch, _ROWS, "          ")}
          watch_rows := watch_piece.j;
        ELSE
          watch_rows := nullif(pg_catalog.concat_ws(',', watch_rows, watch_piece.j), '');
        END IF;
      END LOOP;"""


def _source(watch: TableWatch, rows: str, indent: str) -> str:
    row, old = STATEMENT_ALIASES
    table = OLD_ROWS if watch.operation == "deleted" else NEW_ROWS
    source = f"{indent}FROM {rows.format(table)} AS {row}"
    if not watch.needs_old_rows:
        return source
    pairs = " AND ".join(f"{old}.{quote(c.name)} = {row}.{quote(c.name)}" for c in watch.key)
    return f"{source}\n{indent}LEFT JOIN {rows.format(OLD_ROWS)} AS {old} ON {pairs}"


def _condition(watch: TableWatch, row: str, old: str, level: str) -> str | None:
    """Which rows are told of; None where all are."""
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
    return _or([f"{old}.{quote(c.name)} IS DISTINCT FROM {row}.{quote(c.name)}" for c in watch.key])


def _or(terms: list[str]) -> str:
    return terms[0] if len(terms) == 1 else f"({' OR '.join(terms)})"


def _differs(column: CarriedColumn, row: str, old: str) -> str:
    cast = "" if wire.has_equality(column.type) else "::pg_catalog.text"
    name = quote(column.name)
    return f"{row}.{name}{cast} IS DISTINCT FROM {old}.{name}{cast}"


def _row_json(watch: TableWatch, row: str, old: str) -> str:
    values = [_value(watch, column, row) for column in watch.carried]
    text = " || ',' || ".join(values)
    if not (watch.old and watch.operation == "updated"):
        return f"'[' || {text} || ']'"
    mask = " || ".join(f"({_differs(c, row, old)})::integer::pg_catalog.text" for c in watch.compared)
    previous = "".join(f" || ',' || {_value(watch, c, old)}" for c in watch.compared)
    level = "row" if row == "NEW" else "statement"
    mask = mask or "''"
    paired = f"""CASE WHEN {_unpaired(watch, row, old, level)} THEN '' ELSE ',"' || {mask} || '"'{previous} END"""
    return f"'[' || {text} || {paired} || ']'"


def _partial_json(watch: TableWatch, row: str) -> str:
    text = " || ',' || ".join(_value(watch, column, row) for column in watch.always)
    return f"""'{{"partial":[' || {text} || ']}}'"""


def _partial_passed(watch: TableWatch) -> str:
    """The same, from the columns that the subquery below passes up."""
    names = [f"a.k{i}" for i in range(len(watch.key))]
    if len(watch.always) > len(watch.key):
        names.append("a.d")
    text = " || ',' || ".join(wire.encode_sql(c.type, n) for c, n in zip(watch.always, names, strict=True))
    return f"""'{{"partial":[' || {text} || ']}}'"""


def _value(watch: TableWatch, column: CarriedColumn, row: str) -> str:
    if watch.discriminator is not None and column == watch.discriminator.column:
        return wire.encode_sql(column.type, _discriminator_sql(watch, row))
    return wire.encode_sql(column.type, f"{row}.{quote(column.name)}")


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
