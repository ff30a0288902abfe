"""Where the tables are that are declared without a schema: read from the catalog, as a session of the engine sees it.

Two questions: where a session's search_path leads, and what there is in these schemas. The second one may be asked over
another connection, where the engine's own is to a standby. Nothing here locks a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ...catalog.reading import Fetch

#: Schemas with tables of one name that an answer tells of, at the most.
MAX_SCHEMAS = 100_000

_SESSION = """
SELECT pg_catalog.current_setting('search_path'), CAST(current_user AS text), pg_catalog.pg_is_in_recovery(),
  CAST(pg_catalog.pg_current_snapshot() AS text)
"""

# Not pg_partition_tree(), which locks the partitions: somebody may be altering them. Nor to_regclass(), which finds
# views and indexes as well, and tables of pg_temp, and nothing in a schema that the role may not use.
_PLACES = """
WITH RECURSIVE member AS (
  SELECT CAST(w.name AS text) AS name, CAST(n.nspname AS text) AS root,
    pg_catalog.has_schema_privilege(CAST(:role AS name), n.oid, 'USAGE') AS usable, c.oid AS oid
  FROM unnest(CAST(:names AS text[]), CAST(:schemas AS text[])) AS w(name, schema)
  JOIN pg_catalog.pg_namespace AS n ON n.nspname = CAST(w.schema AS name)
  JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = CAST(w.name AS name)
  WHERE c.relkind IN ('r', 'p', 'f')
  UNION
  SELECT m.name, m.root, m.usable, i.inhrelid
  FROM member AS m
  JOIN pg_catalog.pg_inherits AS i ON i.inhparent = m.oid
  JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT DISTINCT m.name, m.root, m.usable, CAST(n.nspname AS text)
FROM member AS m
JOIN pg_catalog.pg_class AS c ON c.oid = m.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
"""

# The triggers of partitions call the function of their root. One query, so that both parts are of the same moment.
_WITH_OTHERS = f"""{_PLACES}
UNION ALL
(
  SELECT DISTINCT NULL, NULL, pg_catalog.has_schema_privilege(CAST(:role AS name), n.oid, 'USAGE'),
    CAST(n.nspname AS text)
  FROM pg_catalog.pg_proc AS p
  JOIN pg_catalog.pg_trigger AS t ON t.tgfoid = p.oid
  JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE p.proname = ANY (CAST(CAST(:functions AS text[]) AS name[]))
  LIMIT {MAX_SCHEMAS}
)
"""

_PART = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')


class Session(NamedTuple):
    """What a session is set to."""

    #: Its search_path, whether or not there are these schemas.
    path: tuple[str, ...]
    role: str
    in_recovery: bool
    #: The transactions that it sees: `xmin:xmax:those in between that it does not see`.
    snapshot: str = ""

    def sees(self, txid: int) -> bool:
        """Return True if it sees what this transaction has changed."""
        lowest, next_one, running = self.snapshot.split(":")
        return txid < int(lowest) or (txid < int(next_one) and str(txid) not in running.split(","))


@dataclass(frozen=True)
class Wanted:
    """A table that is declared without a schema.

    :param schemas: those in which it is ours; None for the first one on the search_path that has it.
    :param functions: the names of the functions of its triggers.
    """

    name: str
    schemas: tuple[str, ...] | None
    functions: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a look-up found."""

    session: Session
    #: By table, the schemas whose events are ours: the table's own, and those of its partitions.
    homes: Mapping[str, frozenset[str]]
    #: The tables that there are.
    found: frozenset[str]
    #: By table, the schema of one that was found where the role has no USAGE.
    unusable: Mapping[str, str]
    #: The schemas in which triggers call functions of the one table that was asked for, and whether the role has USAGE.
    others: Mapping[str, bool] = field(default_factory=dict)


def read_session(fetch: Fetch) -> Session:
    """Return what the session is set to."""
    path, role, in_recovery, snapshot = fetch(_SESSION, {})[0]
    return Session(parse_path(path, role), role, in_recovery, snapshot)


def parse_path(setting: str, role: str) -> tuple[str, ...]:
    """Return the schemas that a search_path names, in its order."""
    names = (quoted.replace('""', '"') or bare.lower() for quoted, bare in _PART.findall(setting))
    return tuple(dict.fromkeys(role if name == "$user" else name for name in names if name))


def read_answer(fetch: Fetch, session: Session, wanted: Sequence[Wanted], functions: Sequence[str]) -> Answer:
    """Look the tables up.

    :param functions: those for which `others` is to be filled in.
    """
    places = [(w.name, schema) for w in wanted for schema in (session.path if w.schemas is None else w.schemas)]
    rows = fetch(
        _WITH_OTHERS if functions else _PLACES,
        {
            "role": session.role,
            "names": [name for name, _ in places],
            "schemas": [schema for _, schema in places],
            "functions": list(functions),
        },
    )
    members: dict[tuple[str, str], set[str]] = {}
    usable: dict[tuple[str, str], bool] = {}
    others: dict[str, bool] = {}
    for name, root, may_use, schema in rows:
        if name is None:
            others[schema] = may_use
        else:
            members.setdefault((name, root), set()).add(schema)
            usable[name, root] = may_use
    homes: dict[str, frozenset[str]] = {}
    unusable: dict[str, str] = {}
    for w in wanted:
        roots = _roots(w, session, usable)
        homes[w.name] = frozenset(roots).union(*(members.get((w.name, root), ()) for root in roots))
        hidden = [root for root in roots if usable.get((w.name, root)) is False]
        if hidden:
            unusable[w.name] = hidden[0]
    return Answer(session, homes, frozenset(name for name, _ in members), unusable, others)


def _roots(wanted: Wanted, session: Session, usable: Mapping[tuple[str, str], bool]) -> Sequence[str]:
    """Return the schemas in which a table is ours, partitions aside.

    :param usable: the tables that there are, and whether the role may use their schema: the server passes over others.
    """
    if wanted.schemas is not None:
        return wanted.schemas
    there = [schema for schema in session.path if (wanted.name, schema) in usable]
    return [schema for schema in there if usable[wanted.name, schema]][:1] or there[:1]
