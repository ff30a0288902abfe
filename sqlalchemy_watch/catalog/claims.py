"""Whose a function is that has the name a watch needs.

Two applications that share a schema may watch one table under one label, and anybody may have taken a name. The mark
tells which watch a function was made for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ..declaring.spec import TableWatch
from ..functions.quoting import qualified
from .installed import InstalledFunction, Relation

#: Schema and name of a table, as it is declared.
Place = tuple[str | None, str]


def refusal(
    watch: TableWatch,
    relation: Relation,
    function: Sequence[InstalledFunction],
    known: Collection[Place],
    relations: Mapping[Place, Relation],
) -> str | None:
    """Say why a watch can't have a function that exists, and the remedy; None where it is the watch's, or left over.

    :param relation: the watch's table.
    :param function: the function, once for each of its triggers.
    :param known: the tables that the application declares, and those that it is about to drop.
    :param relations: the tables that exist.
    """
    found = function[0]
    if found.stranger:
        return (
            f"the function {found.schema}.{found.name} {found.stranger}, and the watch {watch.table_key}/{watch.label} "
            f"needs its name: drop the function, or give it to the table's owner (ALTER FUNCTION ... OWNER TO)"
        )
    if not found.looks_marked:
        return (
            f"the function {found.schema}.{found.name} is not ours, and the watch {watch.table_key}/{watch.label} "
            f"needs its name: rename or drop the function, or give the watch another label="
        )
    if found.mark is None or not _is_anothers(watch, relation, function, known, relations):
        return None
    fields = found.mark[1]
    other, ours = f"the watch {_key(fields)}/{fields['label']}", ""
    if fields["application"] != watch.application:
        other += f" of {_application(fields['application'])}"
        ours = f", which is of {_application(watch.application)},"
    return (
        f"the function {found.schema}.{found.name} is that of {other}, and the watch {watch.table_key}/{watch.label}"
        f"{ours} needs its name: give one of them a label= of its own; if the other one is left over, drop it with its "
        f"trigger: DROP FUNCTION {qualified(found.schema, found.name)}() CASCADE"
    )


def _is_anothers(
    watch: TableWatch,
    relation: Relation,
    function: Sequence[InstalledFunction],
    known: Collection[Place],
    relations: Mapping[Place, Relation],
) -> bool:
    """Return True unless the function is the watch's own, or left over of its application."""
    found = function[0]
    assert found.mark is not None
    fields = found.mark[1]
    is_ours = fields["application"] == watch.application
    if is_ours and (fields["table"], fields["label"]) == (watch.table, watch.label):
        return False
    if is_ours and (fields["schema"], fields["table"]) in known:
        return False  # declared no more: those that are declared are told apart where they are declared
    if found.is_called_elsewhere:
        return True
    triggers = [f.trigger for f in function if f.trigger is not None]
    if triggers:  # one on this very table: the table, and the label, have got other names
        return not is_ours or any(trigger.relation.oid != relation.oid for trigger in triggers)
    # Nothing calls it. Where its table exists, its trigger may be about to come.
    return (found.schema, fields["table"]) in relations


def _key(fields: Mapping[str, str | None]) -> str:
    return f"{fields['table']}" if fields["schema"] is None else f"{fields['schema']}.{fields['table']}"


def _application(name: str) -> str:
    return f"the application {name!r}" if name else "an application without a name"
