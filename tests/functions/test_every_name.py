"""Tables, columns and schemas may have any name: words of SQL and of PL/pgSQL, and names of the functions' own.

Random names, rows and sessions are tried too, the same in every run; `WATCH_TEST_NAMES=500` tries as many others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from models import declare_base
from postgres import Cluster
from sqlalchemy.orm import mapped_column
from support import created_database

from sqlalchemy_watch import Watch, Watched, watch

from .kinds_of_tables import LEVELS, ODD_TEXT, Kind
from .twins import RESYNC, Twins, warnings_of

Client = psycopg.Connection[Any]

COUNT = int(os.environ.get("WATCH_TEST_NAMES", "10"))

pytestmark = [pytest.mark.server, pytest.mark.timeout(60 + COUNT)]

#: PL/pgSQL's own words and names.
PLPGSQL = """
  absolute alias all and array as assert backward begin by call case chain close collate column column_name
  commit constant constraint constraint_name continue current cursor datatype debug declare default detail
  diagnostics do dump else elseif elsif end errcode error exception execute exit fetch first for foreach
  forward found from get hint if import in info insert into is last log loop merge message message_text move
  new next no not notice null old open option or perform pg_context pg_datatype_name pg_exception_context
  pg_routine_oid print_strict_params prior query raise relative result_oid return returned_sqlstate reverse
  rollback row_count rowtype schema schema_name scroll slice sqlerrm sqlstate stacked strict table table_name
  tg_argv tg_level tg_name tg_nargs tg_op tg_relid tg_relname tg_table_name tg_table_schema tg_when then to
  type use_column use_variable using variable_conflict warning when while
"""

#: Names that the functions have themselves.
OWN = """
  watch_new watch_old watch_payload watch_head watch_context watch_rows watch_key watch_room watch_root
  r o p q t c n f0 t0 j k k0 k1 part apart NEW OLD pg_catalog text record pg_class
"""

#: Such as mean something in a literal, a template or a message, and long ones.
ODD = [
    "watch #", "a b", 'q"q', "it's", "back\\slash", "\\'", "E'", "per%cent", "%s", "%(a)s", ":colon", "::int", "$$",
    "$1", "new\nline", "two\n\nlines", "tab\t", "{0}", "{name}", "--", "/*", "*/", ";", ",", "[]", "'||'", "Mixed",
    "$watch$", "名" * 21, "é" * 31, "🙂" * 15, "x" * 63, "ä\u0308", " ", ".", "a.b", *OWN.split(),
]  # fmt: skip


@pytest.fixture(scope="module")
def twins(cluster: Cluster) -> Iterator[Twins]:
    with created_database(cluster, "test_names") as database, Twins(cluster, database) as twins:
        yield twins


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("level", LEVELS)
def test_a_column_may_have_any_name(twins: Twins, level: Any) -> None:
    keywords = [word for (word,) in twins.admin.execute("SELECT word FROM pg_get_keywords()")]
    names = list(dict.fromkeys([*keywords, *PLPGSQL.split(), *ODD]))
    chunks = [range(len(names))[first : first + 15] for first in range(0, len(names), 15)]
    table = sa.Table(
        f"{level}_words", sa.MetaData(), sa.Column("the key", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Integer if n % 2 else sa.Text, key=f"c{n}") for n, name in enumerate(names)),
    )  # fmt: skip
    watches = []
    for first, *others in chunks:
        keys = [f"c{n}" for n in (first, *others)]
        watches.append(
            Watch("updated", label=f"from_{first}", trigger_columns=keys[:3], extra_columns=keys, old=True, level=level)
        )
    watch(table, *watches)
    columns = ", ".join(f"{_quoted(name)} {'integer' if n % 2 else 'text'}" for n, name in enumerate(names))
    twins.make(sa.MetaData())
    twins.admin.execute(f'CREATE TABLE {table.name} ("the key" integer PRIMARY KEY, {columns})'.encode())
    twins.watch(table.metadata)
    twins.admin.execute(f'INSERT INTO {table.name} ("the key") VALUES (1), (2), (3)'.encode())
    values = [n if n % 2 else f"v{n}" for n in range(len(names))]
    sets = ", ".join(f"{_quoted(name)} = '{value}'" for name, value in zip(names, values, strict=True))
    warnings = warnings_of(twins.admin)
    for where, keys in (('WHERE "the key" = 1', [1]), ("", [2, 3])):
        twins.admin.execute(f"UPDATE {table.name} SET {sets} {where}".encode())
        assert warnings == []
        assert twins.notified() == {
            w.channel: [
                [key, *(values[n] for n in chunk), "0" + "1" * len(chunk), key, *[None] * len(chunk)] for key in keys
            ]
            for w, chunk in zip(twins.watches, chunks, strict=True)
        }


#: Names that SQLAlchemy quotes for PostgreSQL where it has to.
WORDS = "user select table order values row type begin loop by if strict null left"


def _kind(metadata: sa.MetaData, name: str, schema: str | None, level: Any) -> Kind:
    """A table of such a name, with columns of such names."""
    table = sa.Table(
        name,
        metadata,
        sa.Column(name, sa.Text, primary_key=True),
        sa.Column(f"{name[:10]}2", sa.Integer),
        schema=schema,
    )
    of: Any = {"level": level, "delivery": "both"}
    watch(
        table,
        Watch("inserted", extra_columns=[f"{name[:10]}2"], **of),
        Watch("updated", label="changed", trigger_columns=[name, f"{name[:10]}2"], old=True, **of),
        Watch("deleted", **of),
    )
    number = _quoted(f"{name[:10]}2")
    key = f"{_quoted(name)} = {_quoted(name)} OPERATOR(pg_catalog.||) 'x'"
    return Kind(table, lambda number, long: [f"'k{number}'", f"'{number}'"], f"{number} = '500'", key)


def _heard(twins: Twins, writer: Client, kind: Kind) -> dict[str, Any]:
    """What is heard of a few statements, by label."""
    heard = {}
    for statement in (
        kind.insert(1),
        kind.insert(2, 3),
        f"UPDATE {{t}} SET {kind.change}",
        "DELETE FROM {t}",
    ):
        for channel, rows in twins.write(writer, kind, statement).items():
            (label,) = [w.label for w in twins.watches if w.channel == channel and w.table == kind.table.name]
            heard.setdefault(label, []).extend(rows)
    return heard


def test_a_table_and_its_schema_may_have_any_name(twins: Twins) -> None:
    metadata = sa.MetaData()
    names = [*ODD, *WORDS.split()]
    kinds = []
    for n, name in enumerate(names):
        # No schema may begin with pg_, and pg_class without one is another table.
        schema = "other" if name.startswith("pg_") else name if n // 2 % 2 else None
        kinds.append(_kind(metadata, name, schema, LEVELS[n % 2]))
    twins.make(metadata, kinds)
    rows = [["k1", 1], ["k2", 2], ["k3", 3]]
    expected = {
        "inserted": rows,
        "changed": [[key, "01", key, number] for key, number in rows],
        "deleted": [[key] for key, _ in rows],
    }
    with twins.cluster.connect(twins.database) as writer:
        heard = {kind.table.name: _heard(twins, writer, kind) for kind in kinds}
    assert {name: rows for name, rows in heard.items() if rows != expected} == {}


ROOTS = [
    "watch_new",
    "watch_root",
    "watch #",
    "r",
    "tg_relid",
    'q"q',
    "it's",
    "\\'",
    "%s",
    ":colon",
    "two\n\nlines",
    "begin",
    "名" * 21,
]


@pytest.mark.parametrize("level", LEVELS)
def test_the_root_of_a_hierarchy_may_have_any_name(twins: Twins, level: Any) -> None:
    kinds, base = [], declare_base()
    for n, name in enumerate(ROOTS):
        # In a schema where it is not declared, so that it is looked up.
        key = {"id": mapped_column(name, sa.Integer, primary_key=True, autoincrement=False)}
        mapper = {"polymorphic_on": "kind", "polymorphic_identity": "root"}
        watches = (Watch("updated", level=level),)
        members = {"__tablename__": name, "__watch__": watches, "__mapper_args__": mapper, **key,
                   "kind": mapped_column(f"{name[:9]} kind", sa.Text)}  # fmt: skip
        root: Any = type(f"Root{n}", (Watched, base), members)
        members = {"__tablename__": f"child {n}", "__mapper_args__": {"polymorphic_identity": "child"},
                   "id": mapped_column(name, sa.ForeignKey(root.id), primary_key=True),
                   "number": mapped_column(sa.Integer)}  # fmt: skip
        child: Any = type(f"Child{n}", (root,), members)
        before = f"INSERT INTO {_quoted(name)} VALUES (1, 'child'), (2, 'child'), (3, 'child')"
        kinds.append(Kind(child.__table__, lambda number, long: [f"'{number}'", "'7'"], "number = '8'", "", before))
    twins.make(base.metadata, kinds)
    with twins.cluster.connect(twins.database) as writer:
        heard = {kind.before: _heard(twins, writer, kind) for kind in kinds}
    assert {name: rows for name, rows in heard.items() if rows != {"updated": [[n, "child"] for n in (1, 2, 3)]}} == (
        # Behind a transition table of this name the root can't be seen, and that is told.
        {kinds[0].before: {"updated": [RESYNC]}} if level == "statement" else {}
    )


SETTINGS = [
    "standard_conforming_strings = off", "quote_all_identifiers = on", "transform_null_equals = on", "search_path = ''",
    "client_encoding = LATIN1", "client_encoding = SJIS", "DateStyle = 'SQL, DMY'", "plpgsql.extra_errors = 'all'",
    "plpgsql.variable_conflict = error", "plan_cache_mode = force_generic_plan", "work_mem = '64kB'",
    "default_transaction_isolation = serializable", "bytea_output = escape", "sqlalchemy_watch.context = '{\"a\": 1}'",
]  # fmt: skip

#: All but such as fail: their errors name the schema, which the client's encoding may lack.
STATEMENTS = (
    "insert one", "insert two", "insert 60", "insert long ones among others", "update one", "update all",
    "update the key", "delete all", "truncate",
)  # fmt: skip

_names = st.sampled_from([*ODD, *WORDS.split(), *PLPGSQL.split()]) | st.text(
    "azAZ09_ '\"\\\\%$:.,;{}()[]<>/*-+|&~#@!?\n\tßäé名🙂\u0308\u200b\u2028", min_size=1, max_size=15
)


@settings(
    max_examples=COUNT,
    derandomize=COUNT <= 10,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.generate] if COUNT <= 10 else list(Phase),
    suppress_health_check=list(HealthCheck),
)
@given(
    table=_names,
    schema=st.none() | _names.map(lambda name: name.replace("pg_", "p_")),
    names=st.lists(_names, min_size=3, max_size=3, unique=True),
    level=st.sampled_from(LEVELS),
    delivery=st.sampled_from(["notify", "durable", "both"]),
    session=st.sets(st.sampled_from(SETTINGS), max_size=5),
    has_old=st.booleans(),
)
def test_whatever_the_names_and_the_session_are(
    twins: Twins,
    table: str,
    schema: str | None,
    names: list[str],
    level: Any,
    delivery: Any,
    session: set[str],
    has_old: bool,
) -> None:
    key, number, text = names
    columns = [sa.Column(key, sa.Text, primary_key=True), sa.Column(number, sa.Integer), sa.Column(text, sa.Text)]
    made = sa.Table(table, sa.MetaData(), *columns, schema=schema or "public")
    of: Any = {"level": level, "delivery": delivery}
    watch(
        made,
        Watch("inserted", extra_columns=columns[1:], **of),
        Watch("updated", label="changed", trigger_columns=columns[1:], extra_columns=columns[2:], old=has_old, **of),
        Watch("updated", extra_columns=columns[1:], **of),
        Watch("deleted", extra_columns=columns[2:], old=has_old, **of),
        Watch("truncated", delivery=delivery),
    )

    def row(n: int, long: bool) -> list[str]:
        return [f"'k{n}'", "NULL" if n % 3 == 0 else f"'{n}'", f"'{'long' * 2_500}'" if long else ODD_TEXT]

    shift = f"{_quoted(key)} = {_quoted(key)} OPERATOR(pg_catalog.||) 'x'"
    kind = Kind(made, row, f"{_quoted(number)} = '8'", shift)
    twins.make(made.metadata, [kind])
    with twins.cluster.connect(twins.database) as writer:
        for setting in sorted(session):
            writer.execute(f"SET {setting}".encode())
        twins.check(writer, STATEMENTS)
