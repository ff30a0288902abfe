"""Rows put together, as many as fit into a payload, and what is told of a row that does not fit into any."""

from __future__ import annotations

from typing import Final

from .. import wire
from ..declaring.conditions import STATEMENT_ALIASES
from ..declaring.spec import TableWatch
from . import emission, expressions
from .filling import fill
from .quoting import literal
from .values import argument

#: Bytes of a row that goes alone, where rows have no bound.
LONG_ROW: Final = 1_000

#: The size that it counts for: more than a payload has.
_APART: Final = 20_000


def _from_head(rows: str) -> str:
    return f"pg_catalog.concat(watch_head, ',\"rows\":[[', {rows}, ']]', watch_context, '}}')"


#: The payload of all rows in `watch_rows`.
WHOLE: Final = _from_head("watch_rows")

_TOO_LARGE: Final = literal(f',"rows":[],"resync":"{wire.TOO_LARGE}"}}')
_LOST: Final = f"pg_catalog.concat(watch_head, {_TOO_LARGE})"


def needs_key(watch: TableWatch) -> bool:
    """Return True if the key is told of alone where a row does not fit."""
    return (
        watch.is_notified
        and expressions.longest_row(watch) is None
        and expressions.key_arguments(watch) != expressions.row_arguments(watch)
    )


def set_room(watch: TableWatch) -> str:
    """Return the statement that sets the room that head and context leave for rows."""
    room = emission.limit(watch) - len(',"rows":[[]]}')
    used = "pg_catalog.octet_length(pg_catalog.concat(watch_head, watch_context))"
    return f"watch_room := {room} OPERATOR(pg_catalog.-) {used};"


def make_payload(watch: TableWatch) -> list[str]:
    """Return the statements that set `watch_payload` to what fits of the row in `watch_rows`.

    They send it themselves where it takes two payloads, since each way has its own limit, and leave NULL.
    """
    if watch.is_notified and watch.is_durable:
        return [*send_rows(watch), "watch_payload := NULL;"]
    return _to_notify(watch) if watch.is_notified else _to_log()


def send_rows(watch: TableWatch) -> list[str]:
    """Return the statements that send `watch_rows`, by every way of the watch."""
    if expressions.longest_row(watch) is not None:
        return [f"PERFORM {call};" for call in emission.calls(watch, WHOLE)]
    lines = []
    if watch.is_notified:
        lines += [*_to_notify(watch), f"PERFORM {emission.notify(watch, 'watch_payload')};"]
    if watch.is_durable:
        lines += [*_to_log(), f"PERFORM {emission.log(watch, 'watch_payload')};"]
    return lines


def _to_notify(watch: TableWatch) -> list[str]:
    return _first_that_fits("watch_room", ["watch_rows", "watch_key"] if needs_key(watch) else ["watch_rows"])


def _to_log() -> list[str]:
    return _first_that_fits(str(wire.MAX_MESSAGE_BYTES), ["watch_rows"])


def _first_that_fits(room: str, texts: list[str]) -> list[str]:
    cases = [
        f"WHEN pg_catalog.octet_length({text}) OPERATOR(pg_catalog.<=) {room} THEN {_from_head(text)}" for text in texts
    ]
    return fill("watch_payload := CASE\n  {cases}\n  ELSE {lost} END;", cases=cases, lost=_LOST)


def rows_by_payload(watch: TableWatch, text: str) -> list[str]:
    """Return the query for the rows of each payload, in order: by a running sum of their sizes.

    Without OFFSET 0, a row's text would be made once for each time that it is named.

    :param text: that of a row.
    """
    size, long = "pg_catalog.octet_length(p.j) OPERATOR(pg_catalog.+) 3", ""
    longest = expressions.longest_row(watch)
    room, key, keys = "watch_room", "", ""
    if watch.is_notified and longest is not None:
        room = f"(watch_room OPERATOR(pg_catalog.-) {longest + 3})"
    elif watch.is_notified:
        room = f"(watch_room OPERATOR(pg_catalog.-) {LONG_ROW + 3})"
        long = f"pg_catalog.octet_length(p.j) OPERATOR(pg_catalog.>) {LONG_ROW}"
        size = f"CASE WHEN {long} THEN {_APART} ELSE {size} END"
    if needs_key(watch):  # made into text for long rows alone
        row = STATEMENT_ALIASES[0]
        keys = "".join(f", {expressions.column_sql(watch, c, row)} AS k{i}" for i, c in enumerate(watch.always))
        key_values = ", ',', ".join(argument(c, f"p.k{i}") for i, c in enumerate(watch.always))
        key = f"CASE WHEN {long} THEN pg_catalog.concat({key_values}) END AS k,"
    return fill(
        """\
SELECT pg_catalog.string_agg(q.j, '],['){as_j}{min_key}
FROM (SELECT p.j,
    {key}
    {apart}
    pg_catalog.sum({size}) OVER (ROWS UNBOUNDED PRECEDING)
      OPERATOR(pg_catalog./) {room} AS part
  FROM (SELECT {text} AS j{keys}
    {source} OFFSET 0) AS p{only_told}) AS q
GROUP BY {group} ORDER BY {group}{in_order}""",
        as_j=" AS j" if key else "",
        min_key=", pg_catalog.min(q.k) AS k" if key else "",
        key=key,
        apart=f"{long} AS apart," if long else "",
        size=size,
        room=room,
        text=text,
        keys=keys,
        source=expressions.source(watch),
        only_told=" WHERE p.j IS NOT NULL" if expressions.condition(watch) else "",
        group="q.part, q.apart" if long else "q.part",
        in_order=" DESC" if long else "",  # of the same part, the short rows are behind the long one
    )
