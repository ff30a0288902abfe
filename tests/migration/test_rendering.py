"""Statements in a migration become the same SQL again, whatever is on their way."""

from __future__ import annotations

import ast
import re

import psycopg
import pytest
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.render import render_op_text
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import Cluster
from sqlalchemy import Column, Engine, Integer, MetaData, Table, text
from sqlalchemy.dialects import postgresql

from alembic_ext.operations import WatchOp
from alembic_ext.render import escape_colons, without_percent
from alembic_ext.states import NOTHING, declared_state
from sqlalchemy_watch import Watch, watch
from sqlalchemy_watch.declaring.filing import watches_in

pytestmark = pytest.mark.sqlalchemy

pieces = st.sampled_from([*":\\ $a1_\n\t%'\"{é", "::", ":a", "::text", '{"v":1,', "\\:", ":a:", "$$"])
texts = st.lists(pieces, max_size=12).map("".join)


@settings(max_examples=500, deadline=None)
@given(texts)
def test_text_gives_back_what_was_escaped(sql: str) -> None:
    compiled = text(escape_colons(sql)).compile(dialect=postgresql.dialect(paramstyle="named"))  # type: ignore[no-untyped-call]
    assert str(compiled) == sql
    assert compiled.params == {}


@pytest.mark.server
@settings(max_examples=100, deadline=None)
@given(body=texts, name=texts.filter(lambda name: 0 < len(name.encode()) < 60), literal=texts)
def test_postgresql_reads_the_same_without_percent_signs(cluster: Cluster, body: str, name: str, literal: str) -> None:
    quoted_name, quoted = name.replace('"', '""'), literal.replace("'", "''")
    sql = f"""SELECT $t${body}$t$ AS "{quoted_name}", '{quoted}' AS b, E'{quoted.replace(chr(92), chr(92) * 2)}' AS c"""
    respelled = without_percent(sql)
    assert not re.search(r"[%\t]", respelled)
    with psycopg.connect(cluster.url()) as connection:
        cursor = connection.execute(respelled.encode())
        assert cursor.fetchone() == (body, literal, literal)
        assert cursor.description is not None
        assert cursor.description[0].name == name


def operation() -> WatchOp:
    metadata = MetaData()
    table = Table("orders", metadata, Column("id", Integer, primary_key=True))
    watch(table, Watch("inserted", label="large", when=lambda old, new: new.id > 100))
    [declared] = [watch for filed in watches_in(metadata).values() for watch in filed.values()]
    return WatchOp("orders", "large", NOTHING, declared_state(declared))


@pytest.mark.parametrize("prefix", ["op.", "operations."])
def test_a_migration_has_a_comment_for_each_watch_and_a_statement_in_each_literal(engine: Engine, prefix: str) -> None:
    with engine.connect() as connection:
        context = AutogenContext(
            MigrationContext.configure(connection, opts={"alembic_module_prefix": prefix}), MetaData()
        )
        source = render_op_text(context, operation())
    assert source.splitlines()[0] == "# watch: add 'orders', signal 'large'"
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert [ast.unparse(call.func) for call in calls] == [f"{prefix}execute"] * 3
    statements = [ast.literal_eval(call.args[0]) for call in calls]
    assert [str(text(s).compile(dialect=postgresql.dialect(paramstyle="named"))) for s in statements] == (  # type: ignore[no-untyped-call]
        operation().statements()
    )
    assert not any(line != line.rstrip() or "\t" in line or '"""' in line for line in source.splitlines())
    assert [s.split()[0] for s in statements] == ["CREATE", "REVOKE", "CREATE"]


def test_reversing_swaps_the_states() -> None:
    added = operation()
    removed = added.reverse()
    assert (removed.old, removed.new) == (added.new, added.old)
    assert (added.verb, removed.verb) == ("add", "remove")
    assert removed.to_diff_tuple()[:3] == ("remove_watch", "orders", "large")
    assert [s.split(" (")[0].split()[0] for s in removed.statements()] == ["DROP", "DROP"]
