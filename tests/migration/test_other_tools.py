"""Beside tools that drop every function and trigger that they were not told of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import comparators
from alembic.operations.ops import MigrateOperation

from alembic_ext.others import split_drops
from sqlalchemy_watch.functions.mark import MARK

from .project import Project, body_of, is_empty, snapshot, triggers_in
from .test_environments import HOSTILE, users

pytestmark = pytest.mark.sqlalchemy

LOGGER = "alembic.autogenerate.sqlalchemy_watch"

STRANGERS = """
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION watch_theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER watch_users_audit AFTER INSERT ON users EXECUTE FUNCTION audit();
"""


@pytest.fixture
def alembic_utils() -> Iterator[None]:
    """The tool with an entity of its own and with its defaults, for this test alone."""
    from alembic_utils import replaceable_entity
    from alembic_utils.pg_function import PGFunction

    _forget_comparator()
    comparators.dispatch_for("schema")(replaceable_entity.compare_registered_entities)
    replaceable_entity.register_entities([PGFunction("public", "one()", "RETURNS integer LANGUAGE sql AS 'SELECT 1'")])
    yield
    replaceable_entity.registry.clear()
    _forget_comparator()


def _forget_comparator() -> None:
    """Undo what importing the tool does."""
    for functions in comparators._registry.values():
        functions[:] = [f for f in functions if not f[0].__module__.startswith("alembic_utils")]


@pytest.mark.filterwarnings("ignore")
def test_alembic_utils_drops_nothing_of_ours_and_all_the_rest(
    project: Project, client: psycopg.Connection[Any], alembic_utils: None, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute('CREATE SCHEMA "Back office"')
    project.configure("include_schemas=True")
    project.metadata = users("inserted", HOSTILE, metadata=users("deleted", schema="Back office", name="Or ders"))
    project.revision()
    project.upgrade()
    before = snapshot(client)
    assert len(triggers_in(before)) == 3
    caplog.set_level(logging.WARNING, LOGGER)
    assert project.differences() == []
    script = project.revision()
    assert is_empty(script)
    assert "watch" not in body_of(script, "downgrade")
    [*_, said] = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert "trigger watch_users_inserted" in said
    assert "function watch_users_inserted()" in said
    assert "ignore functions and triggers named watch_*" in said
    project.upgrade()
    assert snapshot(client) == before
    client.execute(STRANGERS)
    dropped = {diff[1].split()[1] for diff in project.differences()}
    assert dropped == {"public.audit()", "public.watch_theirs()", "public.watch_users_audit"}


@pytest.mark.filterwarnings("ignore")
def test_a_watch_that_goes_is_removed_by_us_alone(
    project: Project, client: psycopg.Connection[Any], alembic_utils: None
) -> None:
    project.metadata = users("inserted", "deleted")
    project.revision()
    project.upgrade()
    before = snapshot(client)
    project.metadata = users("inserted")
    script = project.revision()
    assert "drop_entity" not in script.read_text()
    assert body_of(script).count("DROP FUNCTION") == 1
    project.upgrade()
    assert project.differences() == []
    project.downgrade()
    assert snapshot(client) == before


@dataclass
class Thing:
    """A function or trigger as sqlalchemy-declarative-extensions describes it."""

    name: str
    schema: str | None = None
    definition: str = ""


@dataclass
class CalledThing(Thing):
    on: str = "users"
    execute: str = ""


@dataclass
class DropThingOp(MigrateOperation):
    """Not hashable, as theirs are not."""

    thing: Thing
    _mutations: frozenset[Any] = field(default_factory=frozenset)


def test_drops_are_told_by_what_they_drop() -> None:
    ours = [
        Thing("watch_a_inserted", "shop", definition=f"\n{MARK}1 {{}}\nBEGIN"),
        Thing("watch_b_deleted", None, definition=f"RETURNS trigger AS $function$\n{MARK}1 {{}}\nBEGIN"),
        CalledThing("any_name", execute="shop.watch_a_inserted"),
        CalledThing("watch_a_inserted", execute="watch_a_inserted"),
    ]
    theirs = [
        Thing("watch_a_inserted", "elsewhere", definition="BEGIN"),
        CalledThing("watch_a_inserted", execute="elsewhere.watch_a_inserted"),
        CalledThing("watch_b_inserted", execute="audit"),
        Thing("audit", definition=f"AS $$BEGIN {MARK}1 {{}} $$"),
    ]
    operations = [DropThingOp(thing) for thing in (*ours, *theirs)]
    kept, left_out = split_drops(operations, [])
    assert [operation.thing for operation in kept if isinstance(operation, DropThingOp)] == theirs
    assert left_out == [
        "function watch_a_inserted",
        "function watch_b_deleted",
        "trigger any_name",
        "trigger watch_a_inserted",
    ]
