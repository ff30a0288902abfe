"""Where the tables are, and whose partitions there are: read from the catalog, as a session of the engine sees it.

Two questions: where a session's search_path leads, and what there is in these schemas. The second one may be asked over
another connection, where the engine's own is to a standby. Nothing here locks a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ...catalog.reading import Fetch
from ..xids import Snapshot, widened_before

#: Tables with triggers of one table's watches that an answer tells of, at the most.
MAX_OTHERS = 100_000

_SESSION = """
SELECT pg_catalog.current_setting('search_path'), CAST(current_user AS text), pg_catalog.pg_is_in_recovery(),
  CAST(pg_catalog.pg_current_snapshot() AS text)
"""

# Not pg_partition_tree(), which locks the partitions: somebody may be altering them. Nor to_regclass(), which finds
# views and indexes as well, and tables of pg_temp, and nothing in a schema that the role may not use.
_PLACES = """
WITH RECURSIVE member AS (
  SELECT w.number, CAST(n.nspname AS text) AS root,
    pg_catalog.has_schema_privilege(CAST(:role AS name), n.oid, 'USAGE') AS usable, c.oid AS oid
  FROM unnest(CAST(:names AS text[]), CAST(:schemas AS text[])) WITH ORDINALITY AS w(name, schema, number)
  JOIN pg_catalog.pg_class AS c ON c.relname = CAST(w.name AS name) AND c.relkind IN ('r', 'p', 'f')
  JOIN pg_catalog.pg_namespace AS n
    ON n.oid = c.relnamespace AND (w.schema = '' OR n.nspname = CAST(w.schema AS name))
  UNION
  SELECT m.number, m.root, m.usable, i.inhrelid
  FROM member AS m
  JOIN pg_catalog.pg_inherits AS i ON i.inhparent = m.oid
  JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT m.number, m.root, m.usable, CAST(m.oid AS bigint), CAST(n.nspname AS text), CAST(NULL AS boolean),
  CAST(NULL AS boolean), CAST(NULL AS boolean), CAST(NULL AS text), CAST(NULL AS text)
FROM member AS m
JOIN pg_catalog.pg_class AS c ON c.oid = m.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
"""

# The triggers of partitions call the function of their root. pg_partition_root() locks nothing but the catalog. One
# query, so that both parts are of the same moment.
_WITH_OTHERS = f"""{_PLACES}
UNION ALL
SELECT CAST(NULL AS bigint), CAST(rn.nspname AS text),
  pg_catalog.has_schema_privilege(CAST(:role AS name), rn.oid, 'USAGE'), CAST(c.oid AS bigint), CAST(n.nspname AS text),
  l.has_triggers, r.relname = CAST(:name AS name),
  EXISTS (
    SELECT FROM pg_catalog.pg_class AS x JOIN pg_catalog.pg_namespace AS xn ON xn.oid = x.relnamespace
    WHERE x.relname = CAST(:name AS name) AND x.relkind IN ('r', 'p', 'f') AND x.oid <> r.oid
      AND xn.nspname = CASE WHEN CAST(:declared AS text) = '' THEN rn.nspname ELSE CAST(:declared AS name) END
  ),
  CAST(r.xmin AS text), CAST(pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()) AS text)
FROM (
  SELECT a.oid, pg_catalog.bool_or(a.has_triggers) AS has_triggers
  FROM (
    SELECT CAST(CAST(:oid AS text) AS pg_catalog.oid) AS oid, false AS has_triggers
    UNION ALL
    (
      SELECT DISTINCT t.tgrelid, true
      FROM pg_catalog.pg_proc AS p
      JOIN pg_catalog.pg_trigger AS t ON t.tgfoid = p.oid
      WHERE p.proname = ANY (CAST(CAST(:functions AS text[]) AS name[]))
      LIMIT {MAX_OTHERS}
    )
  ) AS a
  GROUP BY a.oid
) AS l
JOIN pg_catalog.pg_class AS c ON c.oid = l.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class AS r
  ON r.oid = coalesce(CAST(pg_catalog.pg_partition_root(CAST(c.oid AS pg_catalog.regclass)) AS pg_catalog.oid), c.oid)
JOIN pg_catalog.pg_namespace AS rn ON rn.oid = r.relnamespace
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
        return Snapshot.parse(self.snapshot).sees(txid)


#: A table as it is declared: its schema, if that names one, and its name.
Key = tuple[str | None, str]


@dataclass(frozen=True)
class Wanted:
    """A table that is declared.

    :param schemas: those in which it is ours; None for the first one on the search_path that has it.
    :param functions: the names of the functions of its triggers.
    """

    key: Key
    schemas: tuple[str, ...] | Literal["*"] | None
    functions: tuple[str, ...]


class Relation(NamedTuple):
    """A table or partition that is at none of the places where the wanted table is ours."""

    schema: str
    #: The schema of the table that it is a partition of; its own, where it is none.
    root_schema: str
    #: True if the role has USAGE there.
    usable: bool
    #: False if it has no trigger of the watches: what comes later, it has got one for.
    has_triggers: bool
    #: True if the root has the declared name.
    has_name: bool
    #: True if another table has the declared name, in the declared schema or, without one, in that of the root.
    has_namesake: bool
    #: The transaction that last altered the root. Until then it may have been the declared table, or this a partition.
    altered_by: int


@dataclass(frozen=True)
class Answer:
    """What a look-up found."""

    session: Session
    #: By table, the schemas in which it is ours, and those together with the schemas of its partitions.
    roots: Mapping[Key, frozenset[str]]
    homes: Mapping[Key, frozenset[str]]
    #: By table, the schemas of it and of its partitions, by oid.
    known: Mapping[Key, Mapping[int, str]]
    #: The tables that there are.
    found: frozenset[Key]
    #: By table, the schema of one that was found where the role has no USAGE.
    unusable: Mapping[Key, str]
    #: By oid, all others with triggers that call functions of the one table that was asked for, and the one asked for.
    others: Mapping[int, Relation] = field(default_factory=dict)


def read_session(fetch: Fetch) -> Session:
    """Return what the session is set to."""
    path, role, in_recovery, snapshot = fetch(_SESSION, {})[0]
    return Session(parse_path(path, role), role, in_recovery, snapshot)


def parse_path(setting: str, role: str) -> tuple[str, ...]:
    """Return the schemas that a search_path names, in its order."""
    names = (quoted.replace('""', '"') or bare.lower() for quoted, bare in _PART.findall(setting))
    return tuple(dict.fromkeys(role if name == "$user" else name for name in names if name))


def read_answer(
    fetch: Fetch, session: Session, wanted: Sequence[Wanted], asked: Wanted | None = None, oid: int | None = None
) -> Answer:
    """Look the tables up.

    :param asked: the one for which `others` is to be filled in.
    :param oid: a table or partition that is to be among these if there is one, with or without triggers.
    """
    places = [(w, schema) for w in wanted for schema in _places(w, session)]
    parameters = {
        "role": session.role,
        "names": [w.key[1] for w, _ in places],
        "schemas": [schema for _, schema in places],
    }
    if asked is not None:
        declared, name = asked.key
        parameters |= {
            "functions": list(asked.functions), "name": name, "declared": declared or "", "oid": str(oid or 0)
        }  # fmt: skip
    members: dict[tuple[Key, str], dict[int, str]] = {}
    usable: dict[tuple[Key, str], bool] = {}
    others: dict[int, Relation] = {}
    for number, root, may_use, found_oid, schema, *of_other in fetch(
        _PLACES if asked is None else _WITH_OTHERS, parameters
    ):
        if number is None:
            has_triggers, has_name, has_namesake, xmin, next_txid = of_other
            altered_by = widened_before(int(xmin), int(next_txid))
            others[found_oid] = Relation(schema, root, may_use, has_triggers, has_name, has_namesake, altered_by)
        else:
            place = places[number - 1][0].key, root
            members.setdefault(place, {})[found_oid] = schema
            usable[place] = may_use
    roots: dict[Key, frozenset[str]] = {}
    homes: dict[Key, frozenset[str]] = {}
    known: dict[Key, Mapping[int, str]] = {}
    unusable: dict[Key, str] = {}
    for w in wanted:
        of_table = _roots(w, session, usable)
        roots[w.key] = frozenset(of_table)
        known[w.key] = {oid: s for root in of_table for oid, s in members.get((w.key, root), {}).items()}
        homes[w.key] = roots[w.key].union(known[w.key].values())
        hidden = [root for root in of_table if usable.get((w.key, root)) is False]
        if hidden and w.key[0] is None:
            unusable[w.key] = hidden[0]
    others = {oid: other for oid, other in others.items() if asked is None or oid not in known[asked.key]}
    return Answer(session, roots, homes, known, frozenset(key for key, _ in members), unusable, others)


def _places(wanted: Wanted, session: Session) -> Sequence[str]:
    """Return the schemas in which to look for a table; an empty name, which none has, for all of them."""
    if wanted.schemas == "*":
        return [""]
    return session.path if wanted.schemas is None else wanted.schemas


def _roots(wanted: Wanted, session: Session, usable: Mapping[tuple[Key, str], bool]) -> Sequence[str]:
    """Return the schemas in which a table is ours, partitions aside.

    :param usable: the tables that there are, and whether the role may use their schema: the server passes over others.
    """
    if wanted.schemas == "*":
        return [schema for key, schema in usable if key == wanted.key]
    if wanted.schemas is not None:
        return wanted.schemas
    there = [schema for schema in session.path if (wanted.key, schema) in usable]
    return [schema for schema in there if usable[wanted.key, schema]][:1] or there[:1]
