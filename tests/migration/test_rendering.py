"""Statements in a migration become the same SQL again, whatever is on their way."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable
from typing import Any

import psycopg
import pytest
from alembic.autogenerate.api import AutogenContext, render_python_code
from alembic.autogenerate.render import render_op_text
from alembic.migration import MigrationContext
from alembic.operations import ops
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import Cluster
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, text
from sqlalchemy.dialects import postgresql

from alembic_ext.operations import WatchOp, WatchOps
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


def test_a_dollar_in_a_name_begins_no_literal(client: psycopg.Connection[Any]) -> None:
    respelled = without_percent("SELECT '100%' AS a$$b, 'x' AS c$t$d, $t$50%$t$ AS e$t$")
    assert client.execute(respelled.encode()).fetchone() == ("100%", "x", "50%")


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


def test_no_operation_shows_the_functions_text() -> None:
    added = operation()
    added.reason = "what\never"
    shown = repr(
        (added.old, added.new, added.to_diff_tuple(), WatchOp("a\nb", "c", NOTHING, NOTHING, reason="d\n\x1be").message)
    )
    assert "watch_orders_large" in shown
    assert "plpgsql" not in shown
    assert "d \\\\x1be" in shown


def test_reversing_swaps_the_states() -> None:
    added = operation()
    removed = added.reverse()
    assert (removed.old, removed.new) == (added.new, added.old)
    assert (added.verb, removed.verb) == ("add", "remove")
    assert removed.to_diff_tuple()[:3] == ("remove_watch", "orders", "large")
    assert [s.split(" (")[0].split()[0] for s in removed.statements()] == ["DROP", "DROP"]


#: Names and conditions that quoting, text(), str.format and the drivers have an interest in.
HOSTILE = [
    "orders",
    'us"e:rs 100%',
    "{name}",
    "<name>",
    "{0}",
    "}}{{",
    "a\\:b",
    "it's",
    "$watch$",
    "größe 😀",
    "two\nlines",
]


def watched(*names: str, condition: str = "x") -> list[WatchOp]:
    """Return the operations that add three watches to each table."""
    metadata = MetaData()
    for name in names:
        table = Table(name, metadata, Column("id", Integer, primary_key=True), Column(f"n{name}"[:60], String))
        _, key = table.columns.keys()
        watch(
            table, "inserted", Watch("deleted", extra_columns=[key], old=True),
            Watch("updated", label="changed", trigger_columns=[key],
                  when=lambda old, new, key=key: getattr(new, key) != condition),
        )  # fmt: skip
    return [
        WatchOp(declared.table_key, declared.label, NOTHING, declared_state(declared))
        for filed in watches_in(metadata).values()
        for declared in filed.values()
    ]


class Executed:
    """In the place of `alembic.op`: what PostgreSQL would get."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def execute(self, sql: str) -> None:
        self.statements.append(str(text(sql).compile(dialect=postgresql.dialect(paramstyle="named"))))  # type: ignore[no-untyped-call]


def executed(*bodies: str) -> list[str]:
    op = Executed()
    for body in bodies:
        exec(body, {"op": op})
    return op.statements


def statements(operations: Iterable[Any]) -> list[str]:
    return [without_percent(sql) for operation in operations for sql in operation.statements()]


def body_of(operations: list[Any]) -> str:
    """Return what stands in `upgrade()`."""
    return textwrap.dedent("    " + render_python_code(ops.UpgradeOps(operations)))


def lines_of(body: str) -> int:
    return len(body.splitlines())


@pytest.mark.parametrize("condition", ["x", "100%", ":x:", "{table}", "<row>", "\t\\:x"])
def test_functions_that_are_alike_stand_once_and_say_what_they_said(condition: str) -> None:
    operations = watched(*HOSTILE, condition=condition)
    body = body_of([WatchOps(operations)])
    assert executed(body) == statements(operations)
    assert lines_of(body) < lines_of(body_of(operations)) * 2 / 3
    assert executed(body_of([WatchOps(operations).reverse()])) == statements(o.reverse() for o in reversed(operations))


def test_a_watch_on_its_own_is_a_literal() -> None:
    [alone, *_] = watched("orders")
    assert body_of([WatchOps([alone])]) == body_of([alone])


def test_each_body_stands_for_itself_whatever_a_hook_has_left_in_it(engine: Engine) -> None:
    """Bodies of one migration, or of several into which a hook has divided it, are rendered with one context."""
    operations = watched("orders", "users", "logs")
    hook = ops.ExecuteSQLOp("-- by a hook")
    containers = [
        WatchOps(operations), WatchOps(operations).reverse().reverse(), WatchOps(operations[3:]),
        WatchOps([operations[0], hook, *operations[6:]]), WatchOps([hook]), WatchOps(),
    ]  # fmt: skip
    with engine.connect() as connection:
        context = AutogenContext(
            MigrationContext.configure(connection, opts={"alembic_module_prefix": "op."}), MetaData()
        )
        bodies = [render_op_text(context, container) for container in containers]
    for container, body in zip(containers, bodies, strict=True):
        assert executed(body) == [
            sql for each in container.ops for sql in (["-- by a hook"] if each is hook else statements([each]))
        ]
    # And so they may be moved by hand: no two texts have one name.
    names = [name for body in bodies for name in re.findall(r"^(\w+) = \(", body, re.MULTILINE)]
    assert len(set(names)) == len(names) > 4
    assert executed(*bodies) == executed("\n".join(bodies))


def test_lines_are_no_longer_than_those_of_the_functions() -> None:
    operations = watched("orders", "users")
    longest = max(len(line) for operation in operations for sql in operation.statements() for line in sql.splitlines())
    body = body_of([WatchOps(operations)])
    assert max(map(len, body.splitlines())) <= longest + len("        name='',\\n") * 2
