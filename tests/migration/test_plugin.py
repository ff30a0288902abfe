"""The plugin: imports, the real command line, and projects that move in and out."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import alembic
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Column, Engine, Integer, MetaData, Table

from alembic_ext.plugin import WatchPlugin
from sqlalchemy_watch import watch

from .project import Project, snapshot, triggers_in

pytestmark = pytest.mark.sqlalchemy

MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_watch import Watched

class Base(DeclarativeBase):
    pass

class User(Watched, Base):
    __tablename__ = "users"
    __watch__ = ("inserted", "updated")
    id: Mapped[int] = mapped_column(primary_key=True)

target_metadata = Base.metadata
"""

UNWATCHED = MODELS.replace("from sqlalchemy_watch import Watched\n", "").replace("Watched, ", "")


def python(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent,  # `python -c` imports from there
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_alembic_loads_the_plugin_and_nothing_of_the_library() -> None:
    output = python(
        "-W", "error", "-c",
        "import sys, alembic\n"
        "from alembic.runtime.plugins import _all_plugins\n"
        "print(*sorted(name for name in _all_plugins if 'watch' in name))\n"
        "print(*sorted({n for n in sys.modules if n.split('.')[0] in "
        "('sqlalchemy_watch', 'alembic_ext', 'psycopg', 'blinker')}))",
    )  # fmt: skip
    assert output.splitlines() == [
        "alembic.autogenerate.sqlalchemy_watch sqlalchemy_watch",
        "alembic_ext alembic_ext.plugin",
    ]


def test_entry_points_serve_every_way_alembic_has_loaded_them() -> None:
    entry_points = [e for e in metadata.entry_points(group="alembic.plugins") if "watch" in e.name]
    assert len(entry_points) == 2
    for entry_point in entry_points:
        loaded = entry_point.load()
        assert isinstance(loaded, ModuleType)  # from 1.20.1 on: a module with setup()
        assert callable(loaded.setup)
        assert isinstance(loaded, WatchPlugin)
        assert list(loaded) == [loaded]  # 1.18.0 to 1.20.0: iterated


def test_the_real_command_line_works_with_a_stock_env(project: Project, client: psycopg.Connection[Any]) -> None:
    project.use_models(MODELS)
    output = project.shell("revision", "--autogenerate", "-m", "users")
    assert "[alembic.autogenerate.sqlalchemy_watch] Detected added watch 'users', signal 'inserted'" in output
    project.shell("upgrade", "head")
    assert len(triggers_in(snapshot(client))) == 2
    assert "No new upgrade operations detected" in project.shell("check")
    client.execute("DROP TRIGGER watch_users_updated ON users")
    output = project.shell("check", ok=False)
    assert "('change_watch', 'users', 'updated', 'the function is there, but no trigger calls it')" in output


CHANGED = """
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_watch import Watch, Watched

class Base(DeclarativeBase):
    pass

class User(Watched, Base):
    __tablename__ = "users"
    __watch__ = {watches}
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String({length}))

target_metadata = Base.metadata
"""

TOLD = """\
Detected removed watch 'users', signal 'deleted': it is not declared any more
Detected changed watch 'users', signal 'inserted': extra_columns: 'name' added
Detected added watch 'users', signal 'named': there is no such trigger
Detected stepping aside of watch 'users', signal 'updated': it names 'name', which changes
"""


def test_each_watch_is_told_of_in_one_line_with_its_reason_and_without_its_function(project: Project) -> None:
    project.use_models(
        CHANGED.format(length=20, watches='("inserted", "deleted", Watch("updated", extra_columns=["name"]))')
    )
    project.shell("revision", "--autogenerate", "-m", "users")
    project.shell("upgrade", "head")
    project.use_models(
        CHANGED.format(
            length=40,
            watches='(Watch("inserted", extra_columns=["name"]), Watch("updated", extra_columns=["name"]),'
            ' Watch("updated", label="named", trigger_columns=["name"]))',
        )
    )
    checked = project.shell("check", ok=False)
    assert "('change_watch', 'users', 'inserted', \"extra_columns: 'name' added\")" in checked
    for output in (checked, project.shell("revision", "--autogenerate", "-m", "changed")):
        lines = [
            line.partition("] ")[2] for line in output.splitlines() if "[alembic.autogenerate.sqlalchemy_watch]" in line
        ]
        assert sorted(lines) == sorted(TOLD.splitlines())
        assert "pg_catalog" not in output
        assert "FUNCTION" not in output


def without_the_library(path: Path) -> str:
    """A directory of packages, as in the environment of a project that never had this one."""
    packages = path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(("sqlalchemy_watch", "_sqlalchemy_watch", "alembic_ext", "__editable__")):
            (packages / entry.name).symlink_to(entry)
    return str(packages)


def test_a_project_that_leaves_keeps_working_migrations(
    project: Project, client: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """Migrations are plain SQL: they go up and down where the library is not installed any more."""
    project.use_models(MODELS)
    project.shell("revision", "--autogenerate", "-m", "users")
    project.shell("upgrade", "head")
    before = snapshot(client)
    (project.path / "models.py").write_text(UNWATCHED)
    packages = without_the_library(tmp_path)
    # -S: no site-packages, and so no editable installations.
    alembic_ = ("-S", "-W", "error", "-m", "alembic", "-c", str(project.path / "alembic.ini"))
    environment = {"PYTHONPATH": f"{packages}{os.pathsep}{project.path}"}
    python("-S", "-c", "import importlib.util as u; assert not u.find_spec('sqlalchemy_watch')", **environment)
    python(*alembic_, "downgrade", "base", **environment)
    assert snapshot(client) == []
    python(*alembic_, "upgrade", "head", **environment)
    assert snapshot(client) == before
    python(*alembic_, "check", **environment)


def watched() -> MetaData:
    metadata = MetaData()
    watch(Table("users", metadata, Column("id", Integer, primary_key=True)), "inserted")
    return metadata


def test_an_alembic_that_is_too_old_is_told_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(alembic, "__version__", "1.19.3")
    with engine.connect() as connection:
        assert [diff[0] for diff in compare_metadata(MigrationContext.configure(connection), watched())] == [
            "add_table"
        ]
        assert "need Alembic 1.20.1 or later, and this is 1.19.3" in caplog.text
        caplog.clear()
        compare_metadata(MigrationContext.configure(connection), MetaData())
        assert caplog.text == ""


def test_a_library_that_cannot_be_imported_breaks_no_migration_of_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """psycopg without libpq, in a project that has watched nothing so far."""
    monkeypatch.delitem(sys.modules, "alembic_ext.compare", raising=False)
    monkeypatch.setitem(sys.modules, "alembic_ext.compare", None)
    monkeypatch.delattr("alembic_ext.compare", raising=False)
    caplog.set_level(logging.WARNING)
    with engine.connect() as connection:
        assert len(compare_metadata(MigrationContext.configure(connection), MetaData())) == 0
    assert "sqlalchemy_watch can't be imported" in caplog.text
