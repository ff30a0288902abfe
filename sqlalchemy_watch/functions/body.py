"""The text of the trigger functions.

Three rules shape it. A write must never fail because of it: all but the sending stands in guarded blocks, the last of
which warns, and asks the listeners to resync. A statement of one row must be cheap: the first block is made for it, of
few expressions, since each is set up anew in every transaction; its payload is sent behind the guard, since within one
a NOTIFY costs several times as much. And nothing of a stranger's may run: every operator and every name is
pg_catalog's, whatever the writer's search_path says, but for those of the user's own SQL.

What the first block is not made for it leaves to the second one: several rows, rows that do not fit, a table that was
renamed, and errors. Its queries for a few rows and for many are planned on their own, so that no plan for one row is
used for a million.

The first line of a body marks it as ours and names the application. The whole text is compared byte by byte with
`pg_proc.prosrc`. A changed text is a new `mark.TEMPLATE_VERSION`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from .. import wire
from ..declaring.spec import TableWatch
from . import emission, expressions, fitting
from .filling import Part, fill
from .mark import mark_line
from .quoting import literal
from .values import needs_fixed_settings

#: Rows of a statement that are put together at once. More are split by their size.
SMALL: Final = 50

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
    return FIXED_SETTINGS if any(needs_fixed_settings(column.type) for column in columns) else ()


# Assignments and RETURN where they do: PERFORM would start the executor. RAISE with USING has no placeholders, so that
# the text has no percent sign, which migrations run offline would double. The right to send is asked for when an
# expression is set up, once in a transaction, in which the role may change: so it is asked for last in each guarded
# block, in a statement of its own, with nothing between it and the RETURN that sends.
_FUNCTION: Final = """\
{mark}
{types}
#variable_conflict use_column
DECLARE
  {variables}
BEGIN
  BEGIN
    {read_row}
    watch_payload := CASE WHEN {muted} THEN NULL ELSE {payload} END;
    IF {is_unfit} THEN RAISE data_exception; END IF;
    IF {has_no_right} THEN RAISE data_exception; END IF;
  EXCEPTION
    {no_row}
    WHEN OTHERS OR assert_failure THEN
      BEGIN
        IF {muted} THEN RETURN NULL; END IF;
        watch_head := {head};
        {unless_retired}
        {set_context}
        {all_rows}
        IF {has_no_right} THEN RAISE data_exception; END IF;
      EXCEPTION WHEN OTHERS OR assert_failure THEN
        watch_payload := {torn};
        {send_lost}
        BEGIN
          RAISE WARNING USING MESSAGE = pg_catalog.concat({undescribed}, ': ', SQLSTATE, ' ',
              pg_catalog.encode(pg_catalog.convert_to(SQLERRM, pg_catalog.getdatabaseencoding()), 'escape')),
            HINT = 'The write itself succeeds. "sqlalchemy-watch status" names what may be wrong.';
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where a right is lacking, or the client's encoding
          BEGIN RAISE WARNING USING MESSAGE = {undescribed}; EXCEPTION WHEN OTHERS OR assert_failure THEN END;
        END;
        RETURN NULL;
      END;
  END;
  RETURN CASE WHEN watch_payload IS NOT NULL AND {is_unsent} THEN '' END;  -- always NULL
END"""


def function_body(watch: TableWatch) -> str:
    """Return the body of the watch's trigger function."""
    kind = _truncated if watch.operation == "truncated" else _row_level if watch.fires_per_row else _statement_level
    what = f"sqlalchemy_watch: the rows of {watch.table_key}/{watch.label}".encode("ascii", "backslashreplace").decode()
    calls = emission.calls(watch, "watch_payload")
    lines = fill(
        _FUNCTION,
        mark=mark_line(watch),
        muted=emission.MUTED,
        is_unfit=" OR ".join([emission.is_too_long(watch, "watch_payload"), *emission.is_elsewhere(watch)]),
        has_no_right=emission.has_no_right(watch),
        head=emission.concat(emission.head(watch)),
        unless_retired=_unless_retired(watch),
        set_context=emission.SET_CONTEXT,
        undescribed=literal(f"{what} could not be described"),
        torn=literal(f"{wire.head_json(watch)}}}"),  # without what the listener needs: it asks to resync
        send_lost=[line for call in calls for line in _send_lost(call)],
        is_unsent=emission.is_unsent(watch, "watch_payload"),
        **kind(watch),
    )
    return "\n".join(["", *lines, ""])


def _unless_retired(watch: TableWatch) -> list[str]:
    elsewhere = emission.is_elsewhere(watch)
    if not elsewhere:
        return []
    return fill(
        """\
IF {elsewhere} THEN
  {unless_retired}
END IF;""",
        elsewhere=" OR ".join(elsewhere),
        unless_retired=_return_if(emission.is_retired(watch)),
    )


def _send_lost(call: str) -> list[str]:
    return fill(
        """\
BEGIN
  IF watch_head IS NOT NULL THEN watch_payload := pg_catalog.concat(watch_head, {lost}); END IF;
  PERFORM {call};
EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where the right to send is lacking
END;""",
        lost=literal(f',"rows":[],"resync":"{wire.BUILD_FAILED}"}}'),
        call=call,
    )


def _truncated(watch: TableWatch) -> dict[str, Part]:
    rows = "',\"rows\":[[]]'"
    return {
        "types": "",
        "variables": _variables("payload", "head", "context"),
        "read_row": "",
        "payload": _payload(watch, rows),
        "no_row": "",
        "all_rows": f"watch_payload := pg_catalog.concat(watch_head, {rows}, watch_context, '}}');",
    }


def _row_level(watch: TableWatch) -> dict[str, Part]:
    condition = expressions.condition(watch)
    checks = [*expressions.root_check(watch), *_return_if([f"{condition} IS NOT TRUE"] if condition else [])]
    row, has_key = expressions.row_arguments(watch), fitting.needs_key(watch)
    key = expressions.key_arguments(watch)
    all_rows = fill(
        """\
{checks}
{set_room}
watch_rows := pg_catalog.concat({row});
{set_key}
{make_payload}""",
        checks=checks,
        set_room=fitting.set_room(watch),
        row=row,
        set_key=f"watch_key := pg_catalog.concat({key});" if has_key else "",
        make_payload=fitting.make_payload(watch),
    )
    # Sessions keep the types of NEW and OLD that they saw first, until the function is replaced: so its text has
    # to change with the types.
    columns = {column.name: wire.sql_type(column.type) for column in (*watch.carried, *watch.trigger_columns)}
    return {
        "types": f"-- {json.dumps(columns)}",
        "variables": [*_variables(*_TEXTS, *(["key"] if has_key else [])), "watch_room integer;"],
        "read_row": checks,
        "payload": _payload(watch, f"',\"rows\":[[', {row}, ']]'"),
        "no_row": "",
        "all_rows": all_rows,
    }


def _statement_level(watch: TableWatch) -> dict[str, Part]:
    check = expressions.root_check(watch)
    read_row = fill(
        """\
{check}
SELECT {row} INTO STRICT watch_rows
{source};
{unless_told}""",
        check=check,
        row=expressions.one_row(watch),
        source=expressions.single_source(watch),
        unless_told=_return_if(["watch_rows IS NULL"] if expressions.condition(watch) else []),
    )
    has_key, text = fitting.needs_key(watch), expressions.each_row(watch)
    all_rows = fill(
        """\
{check}
{set_room}
SELECT pg_catalog.string_agg(q.j, '],['), pg_catalog.count(true) INTO watch_rows, watch_seen
FROM (SELECT {text} AS j
  {few}) AS q;
IF watch_seen OPERATOR(pg_catalog.<=) {small} AND {all_fit} THEN
  watch_payload := {made};
ELSE
  FOR {target} IN
    {rows_by_payload}
  LOOP
    {set_row}
    {send}
  END LOOP;
  watch_payload := NULL;
END IF;""",
        check=check,
        set_room=fitting.set_room(watch),
        text=text,
        few=expressions.source(watch, SMALL + 1),
        small=str(SMALL),
        all_fit="pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) watch_room",
        made=fitting.WHOLE,
        target="watch_next" if has_key else "watch_rows",
        rows_by_payload=fitting.rows_by_payload(watch, text),
        set_row=["watch_rows := watch_next.j;", "watch_key := watch_next.k;"] if has_key else "",
        send=fitting.send_rows(watch),
    )
    variables = [*_variables(*_TEXTS, *(["key"] if has_key else [])), "watch_room integer;", "watch_seen bigint;"]
    return {
        "types": "",
        "variables": [*variables, "watch_next pg_catalog.record;"] if has_key else variables,
        "read_row": read_row,
        "payload": _payload(watch, "',\"rows\":[[', watch_rows, ']]'"),
        # A condition may raise the same.
        "no_row": "WHEN no_data_found THEN RETURN NULL;" if watch.condition is None else "",
        "all_rows": all_rows,
    }


_TEXTS: Final = ("payload", "head", "context", "rows")


def _variables(*texts: str) -> list[str]:
    return [f"watch_{name} pg_catalog.text;" for name in texts]


def _payload(watch: TableWatch, rows: str) -> list[str]:
    return emission.concat([*emission.head(watch), rows, emission.CONTEXT, "'}'"])


def _return_if(condition: Sequence[str]) -> list[str]:
    """Return the statement that ends the function where a condition is true; none without one."""
    return fill("IF {condition} THEN RETURN NULL; END IF;", condition=condition) if condition else []
