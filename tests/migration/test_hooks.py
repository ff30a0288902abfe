"""Hooks that take operations out of a migration take out what watches did because of them, and nothing else."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from sqlalchemy_watch import Watch, watch

from .project import Project, body_of, is_empty, snapshot

pytestmark = pytest.mark.sqlalchemy

#: Ways to leave the change of a column to somebody else.
HOOKS = {
    "a rewriter of the column's operation": """
from alembic.autogenerate import rewriter
from alembic.operations import ops
hook = rewriter.Rewriter()

@hook.rewrites(ops.AlterColumnOp)
def leave_out(context, revision, op):
    return []

@hook.rewrites(ops.DropColumnOp)
def leave_out_too(context, revision, op):
    return []

@hook.rewrites(ops.AddColumnOp)
def leave_out_backwards(context, revision, op):
    return []
""",
    "a rewriter of the table's operations": """
from alembic.autogenerate import rewriter
from alembic.operations import ops
hook = rewriter.Rewriter()

@hook.rewrites(ops.ModifyTableOps)
def leave_out(context, revision, op):
    return []
""",
    "a function over the directives": """
from alembic.operations import ops

def hook(context, revision, directives):
    for script in directives:
        for container in (script.upgrade_ops, script.downgrade_ops):
            container.ops[:] = [op for op in container.ops if not isinstance(op, ops.ModifyTableOps)]
""",
}

CHANGES: dict[str, tuple[Any, Any]] = {
    "retyped": (String(20), String(40)),
    "dropped": (String(20), None),
}


def users(type_: Any, *specs: Any) -> MetaData:
    metadata = MetaData()
    columns = [] if type_ is None else [Column("name", type_)]
    table = Table("users", metadata, Column("id", Integer, primary_key=True), *columns)
    watch(table, *specs)
    return metadata


def specs(**options: Any) -> tuple[Any, ...]:
    return "inserted", Watch("updated", extra_columns=("name",), old=True, **options)


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("level", ["statement", "row"])
def test_a_hook_that_leaves_out_a_columns_change_leaves_nothing_behind(
    project: Project, client: psycopg.Connection[Any], hook: str, level: Any
) -> None:
    project.metadata = users(String(20), *specs(level=level))
    project.revision()
    project.upgrade()
    before = snapshot(client)
    project.metadata = users(String(40), *specs(level=level))
    assert project.differences()  # without the hook
    project.configure("process_revision_directives=hook", hook)
    assert project.differences() == []
    script = project.revision()
    assert is_empty(script)
    assert "watch" not in body_of(script) + body_of(script, "downgrade")
    project.upgrade()
    assert snapshot(client) == before


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_what_else_a_watch_needs_stays_where_a_hook_leaves_out_a_columns_change(
    project: Project, client: psycopg.Connection[Any], hook: str
) -> None:
    project.metadata = users(String(20), *specs())
    project.revision()
    project.upgrade()
    before = snapshot(client)
    project.metadata = users(None, "inserted", "updated")  # the column goes, and the watch carries it no more
    project.configure("process_revision_directives=hook", hook)
    [(verb, table, label, reason)] = project.differences()
    assert (verb, table, label) == ("change_watch", "users", "updated")
    assert (
        reason == "extra_columns: 'name' removed; old: False, and it was True; the trigger's transition tables differ"
    )
    script = project.revision()
    assert "step aside" not in script.read_text()
    project.upgrade()
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


@pytest.mark.parametrize("change", CHANGES)
def test_a_watch_that_changes_steps_aside_as_it_is_to_be(
    project: Project, client: psycopg.Connection[Any], change: str
) -> None:
    old, new = CHANGES[change]
    project.metadata = users(old, *specs())
    project.revision()
    project.upgrade()
    before = snapshot(client)
    project.metadata = users(new, "inserted", Watch("updated", level="row"))
    script = project.revision()
    body = body_of(script)
    assert body.index("CREATE OR REPLACE FUNCTION") < body.index("step aside") < body.index("column('users', 'name'")
    assert body.index("column('users', 'name'") < body.index("step back")
    project.upgrade()
    assert project.differences() == []
    after = snapshot(client)
    project.downgrade()
    assert snapshot(client) == before
    project.upgrade()
    assert snapshot(client) == after
