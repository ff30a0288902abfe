"""Operations by which other tools would drop what is ours.

alembic_utils and sqlalchemy-declarative-extensions drop, by default, every function and trigger that they were not told
of. They are recognised by what their operations have in common, and not imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from alembic.operations.ops import MigrateOperation

from sqlalchemy_watch.catalog.installed import InstalledFunction
from sqlalchemy_watch.functions.mark import MARK

_OWN_PACKAGES = ("alembic", "alembic_ext")

_EXECUTES = re.compile(r"\bEXECUTE\s+(?:FUNCTION|PROCEDURE)\s+(.+?)\s*\(", re.IGNORECASE | re.DOTALL)

#: A body that begins with the mark, alone or behind the rest of CREATE FUNCTION.
_MARKED = re.compile(rf"(?:\A|\$\w*\$|')\s*{re.escape(MARK)}")


def split_drops(
    operations: Sequence[MigrateOperation], functions: Iterable[InstalledFunction]
) -> tuple[list[MigrateOperation], list[str]]:
    """Return the operations without those by which other tools drop functions and triggers of ours, and these in words.

    :param functions: those that were found in the database.
    """
    found = [(operation, _dropped(operation)) for operation in operations]
    ours = {_bare(f.schema, f.name) for f in functions if f.looks_marked}
    ours |= {_function(target) for _, target in found if _MARKED.search(str(getattr(target, "definition", "")))}
    kept, left_out = [], []
    for operation, target in found:
        if target is not None and any(_is_same(_function(target), function) for function in ours):
            left_out.append(f"{'trigger' if _executes(target) else 'function'} {_name(target)}")
        else:
            kept.append(operation)
    return kept, left_out


def _dropped(operation: MigrateOperation) -> Any | None:
    """Return what another tool's operation drops: an object that says how it is defined."""
    kind = type(operation)
    if kind.__module__.partition(".")[0] in _OWN_PACKAGES or not kind.__name__.startswith("Drop"):
        return None
    targets = vars(operation).values()
    return next((t for t in targets if isinstance(_name(t), str) and (_executes(t) or hasattr(t, "definition"))), None)


def _name(target: Any) -> Any:
    return getattr(target, "signature", getattr(target, "name", None))


def _executes(target: Any) -> str | None:
    """Return the function that a trigger calls; None for a function."""
    called = getattr(target, "execute", None)
    if isinstance(called, str):
        return called
    match = _EXECUTES.search(str(getattr(target, "definition", ""))) if hasattr(target, "on_entity") else None
    return None if match is None else match[1]


def _function(target: Any) -> tuple[str, str]:
    """Return schema, as far as it is told, and name of a function, or of the one that a trigger calls."""
    called = _executes(target)
    if called is None:
        return _bare(getattr(target, "schema", None), _name(target))
    schema, _, name = called.rpartition(".")
    return _bare(schema, name)


def _bare(schema: str | None, name: str) -> tuple[str, str]:
    """Return schema and name without quotes, which some tools lose, and without arguments."""
    return (schema or "").replace('"', ""), name.partition("(")[0].replace('"', "")


def _is_same(told: tuple[str, str], function: tuple[str, str]) -> bool:
    return told[1] == function[1] and (not told[0] or not function[0] or told[0] == function[0])
