"""A difference is told by the column or the option that changed, in one line."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table
from sqlalchemy.exc import DBAPIError

from sqlalchemy_watch import Watch, install, status, watch

pytestmark = pytest.mark.sqlalchemy

Client = psycopg.Connection[Any]


def declare(type_: Any = String, **options: Any) -> Table:
    table = Table(
        "users",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("name", type_, key="full_name"),
        Column("total", Integer),
    )
    watch(table, Watch("updated", label="changed", **options))
    return table


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a column more": ({}, {"extra_columns": ("full_name", "total")}, "extra_columns: 'name', 'total' added"),
    "a column less": ({"extra_columns": ("total",)}, {}, "extra_columns: 'total' removed"),
    "another column": (
        {"extra_columns": ("total",)}, {"extra_columns": ("full_name",)},
        "extra_columns: 'name' added, 'total' removed",
    ),
    "another order": (
        {"extra_columns": ("total", "full_name")}, {"extra_columns": ("full_name", "total")},
        "extra_columns: another order",
    ),
    "trigger column": (
        {"trigger_columns": ("total",)}, {"trigger_columns": ("total", "full_name")},
        "trigger_columns: 'name' added",
    ),
    "condition": ({}, {"when": lambda old, new: new.total > 1}, "when: there was none"),
    "another condition": (
        {"when": lambda old, new: new.total > 2}, {"when": lambda old, new: new.total > 1}, "when: it was another"
    ),
    "no condition": ({"when": lambda old, new: new.total > 1}, {}, "when: there is none any more"),
    "old": ({"extra_columns": ("total",)}, {"extra_columns": ("total",), "old": True}, "old: True, and it was False"),
    "level": ({}, {"level": "row"}, "level: 'row', and it was 'statement'"),
    "delivery": ({"delivery": "both"}, {}, "delivery: 'notify', and it was 'both'"),
    "fires": ({"level": "row"}, {"level": "row", "fires": "always"}, "fires: 'always', and it was None"),
    "fires no more": ({"level": "row", "fires": "always"}, {"level": "row"}, "fires: None, and it was 'always'"),
    "fires, and so for each row": (
        {}, {"fires": "always"}, "level: 'row', and it was 'statement'; fires: 'always', and it was None"
    ),
    "all at once": (
        {"trigger_columns": ("total",), "delivery": "durable"},
        {"extra_columns": ("total",), "level": "row"},
        "extra_columns: 'total' added; trigger_columns: 'total' removed; level: 'row', and it was 'statement'; "
        "delivery: 'notify', and it was 'durable'",
    ),
    "type": ({"extra_columns": ("total", "full_name")}, {"extra_columns": ("total", "full_name"), "type_": Integer},
             "the function's body differs from the declaration, at 'name'"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "reason"), CHANGES.values(), ids=CHANGES)
def test_the_reason_names_what_changed(
    engine: Engine, before: dict[str, Any], after: dict[str, Any], reason: str
) -> None:
    declare(**before).create(engine)
    new = declare(**after)
    [item] = status(engine, new)
    assert item.state == "outdated"
    told = "; ".join(problem for problem in item.problems if not problem.startswith("the trigger"))
    assert told == reason
    assert "\n" not in told
    install(engine, new)
    assert [(item.state, item.problems) for item in status(engine, new)] == [("installed", ())]


@pytest.mark.parametrize(
    ("trigger", "reason"),
    [
        ("BEFORE UPDATE OR DELETE ON users", "the trigger fires BEFORE DELETE OR UPDATE, not AFTER UPDATE"),
        ("AFTER UPDATE ON users FOR EACH ROW", "the trigger fires for each row, not for each statement"),
        ("AFTER UPDATE ON users", "the trigger's transition tables differ"),
        (
            "AFTER UPDATE OF total ON users",
            "the trigger has a condition, columns or arguments, or is a constraint trigger",
        ),
    ],
)
@pytest.mark.server
def test_the_reason_names_what_somebody_changed_of_a_trigger(
    engine: Engine, client: Client, trigger: str, reason: str
) -> None:
    table = declare()
    table.create(engine)
    client.execute("DROP TRIGGER watch_users_changed ON users")
    client.execute(f"CREATE TRIGGER watch_users_changed {trigger} EXECUTE FUNCTION watch_users_changed()".encode())
    [item] = status(engine, table)
    assert item.state == "outdated"
    assert reason in item.problems
    install(engine, table)
    assert [item.state for item in status(engine, table)] == ["installed"]


def test_an_error_of_the_server_names_the_function_and_does_not_show_its_text(engine: Engine, client: Client) -> None:
    client.execute("CREATE TABLE users (id int PRIMARY KEY, name text, total int)")
    client.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not now'; END$$"
    )
    client.execute("CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse()")
    with pytest.raises(DBAPIError, match="not now") as caught:
        install(engine, declare())
    assert "[SQL: CREATE OR REPLACE FUNCTION watch_users_changed() RETURNS trigger LANGUAGE plpgsql ...]" in str(
        caught.value
    )
    assert "DECLARE" not in str(caught.value)
