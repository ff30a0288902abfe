"""Any declaration goes up and down, online and as a script for psql, whatever its names are."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from postgres import Cluster
from sqlalchemy import BigInteger, Column, Integer, Interval, MetaData, Numeric, String, Table, text

from sqlalchemy_watch import Watch, watch
from sqlalchemy_watch.declaring.spec import OPERATIONS

from .project import Project, is_empty, snapshot

pytestmark = pytest.mark.sqlalchemy

_numbers = itertools.count()

#: Characters that quoting, text(), the drivers and psql have an interest in.
_CHARACTERS = st.sampled_from(
    [*"\"'%:\\$;,.-/*(){}[]<>=&?!# aZ0", "é", "😀", ":x", "%s", "%(a)s", "\\:", "::", "$$", "--"]
)


def fits(name: str) -> bool:
    return 0 < len(name.encode()) <= 63 and name == name.strip()


names = st.lists(_CHARACTERS, min_size=1, max_size=66).map("".join).filter(fits)
labels = st.sampled_from(["changed", "größer_als", "x" * 80, "watched_" * 9])
texts = st.lists(st.one_of(_CHARACTERS, st.sampled_from("\t\n")), max_size=8).map("".join)
types = st.sampled_from([Integer, BigInteger, String, Numeric, Interval])


@st.composite
def declarations(draw: st.DrawFn) -> tuple[str, list[tuple[str, Any]]]:
    """A table's name, and its columns."""
    columns = draw(st.lists(st.tuples(names, types), min_size=2, max_size=4, unique_by=lambda c: c[0]))
    return draw(names), columns


@st.composite
def watches(draw: st.DrawFn, columns: list[str]) -> list[Watch]:
    chosen: dict[str, Watch] = {}
    for operation in draw(st.lists(st.sampled_from(OPERATIONS), max_size=3)):
        options: dict[str, Any] = {"fires": draw(st.sampled_from([None, "always"]))}
        if operation != "truncated":
            options["extra_columns"] = draw(st.lists(st.sampled_from(columns), unique=True, max_size=2))
            options["level"] = draw(st.sampled_from([None, "statement", "row"]))
            if (literal := draw(st.one_of(st.none(), texts))) is not None:
                options["when"] = _condition(operation, columns[0], literal)
        if operation == "updated" and draw(st.booleans()):
            options["trigger_columns"] = draw(st.lists(st.sampled_from(columns), unique=True, max_size=2))
        named = {*options.get("extra_columns", ()), *options.get("trigger_columns", ())}
        if operation == "deleted" or (operation == "updated" and not named <= {columns[0]}):
            options["old"] = draw(st.booleans())
        if options.get("when") or options.get("trigger_columns"):
            options["label"] = draw(labels)
        watched = Watch(operation, **options)
        chosen[watched.name] = watched
    return list(chosen.values())


def _condition(operation: str, name: str, literal: str) -> Any:
    if literal == "":
        return lambda old, new: text("1 % 2 = 1")
    row = "old" if operation == "deleted" else "new"

    def when(old: Any, new: Any) -> Any:
        key = getattr({"old": old, "new": new}[row], name)
        return key.cast(String) != literal

    return when


def declare(name: str, columns: list[tuple[str, Any]], watched: list[Watch]) -> MetaData:
    metadata = MetaData()
    key, *others = columns
    # NOT NULL and no default, so that Alembic has nothing of its own to compare.
    table = Table(
        name, metadata, Column(key[0], BigInteger, primary_key=True, autoincrement=False),
        *(Column(column, type_) for column, type_ in others),
    )  # fmt: skip
    watch(table, *watched)
    return metadata


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],  # shrinking would take minutes
    database=None,
)
@given(data=st.data(), declared=declarations())
def test_any_declaration_goes_up_and_down_online_and_by_psql(
    cluster: Cluster,
    database: str,
    client: psycopg.Connection[Any],
    data: st.DataObject,
    declared: tuple[str, list[tuple[str, Any]]],
) -> None:
    client.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")  # a failing example is run once more
    name, columns = declared
    keys = [column for column, _ in columns]
    lives = [declare(name, columns, data.draw(watches(keys))) for _ in range(2)] + [MetaData()]
    with tempfile.TemporaryDirectory() as path:
        project = Project(Path(path), cluster.url(database, "psycopg"))
        states = [snapshot(client)]
        for metadata in lives:
            project.metadata = metadata
            project.revision()
            project.upgrade()
            assert project.differences() == []
            states.append(snapshot(client))
            assert_writes_do_not_warn(client, metadata)
            project.downgrade()
            assert snapshot(client) == states[-2]
            project.upgrade()
            assert snapshot(client) == states[-1]
        # The same by psql, down to nothing and up again.
        heads = ["base", *(f"r{number:03}" for number in range(1, project.messages + 1))]
        for i in reversed(range(len(lives))):
            cluster.psql(database, stdin=project.sql("downgrade", f"{heads[i + 1]}:{heads[i]}"))
            assert snapshot(client) == states[i]
        client.execute("DROP TABLE alembic_version")
        for i in range(len(lives)):
            cluster.psql(database, stdin=project.sql("upgrade", f"{heads[i]}:{heads[i + 1]}"))
            assert snapshot(client) == states[i + 1]
        client.execute("DROP TABLE alembic_version")


def assert_writes_do_not_warn(client: psycopg.Connection[Any], metadata: MetaData) -> None:
    warnings: list[Any] = []

    def keep(diagnostic: Any) -> None:
        warnings.append(diagnostic.message_primary)

    client.add_notice_handler(keep)
    for table in metadata.tables.values():
        quoted, key = (psycopg.sql.Identifier(n).as_string() for n in (table.name, next(iter(table.columns)).name))
        for statement in (
            f"INSERT INTO {quoted} ({key}) VALUES (1), (2)",
            f"UPDATE {quoted} SET {key} = {key} + 10",
            f"DELETE FROM {quoted}",
            f"TRUNCATE {quoted}",
        ):
            client.execute(statement.encode())
    client.remove_notice_handler(keep)
    assert warnings == []


def test_sql_mode_is_the_same_with_a_driver_that_doubles_percent_signs(
    project: Project, cluster: Cluster, database: str, client: psycopg.Connection[Any]
) -> None:
    """An env.py from before Alembic's template asked for named parameters."""
    metadata = MetaData()
    table = Table("100", metadata, Column("id", Integer, primary_key=True), Column("name", String))
    watch(table, Watch("inserted", label="named", when=lambda old, new: new.name.like("100%\t:x") & text("id % 2 = 0")))
    project.metadata = metadata
    project.revision()
    project.upgrade()
    online = snapshot(client)
    assert is_empty(project.revision())
    project.upgrade()
    project.edit_env('dialect_opts={"paramstyle": "named"},', "")
    cluster.psql(database, stdin=project.sql("downgrade", "head:base"))
    client.execute("DROP TABLE alembic_version")
    cluster.psql(database, stdin=project.sql("upgrade", "head"))
    assert snapshot(client) == online
