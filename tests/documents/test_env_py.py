"""Every `run_migrations_online` in the documents works in a project as `alembic init` makes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from migration.project import Project
from postgres import Cluster

from .snippets import SNIPPETS, Snippet

ENV_PY = [s for s in SNIPPETS if s.note == "env.py: tests/documents/test_env_py.py"]

MODELS = next(s.code for s in SNIPPETS if s.page == "migrations.md") + "\ntarget_metadata = Base.metadata\n"


@pytest.mark.parametrize("snippet", ENV_PY, ids=str)
def test_env_py_makes_a_migration_that_upgrades(
    tmp_path: Path, cluster: Cluster, database: str, client: psycopg.Connection[Any], snippet: Snippet
) -> None:
    project = Project(tmp_path, cluster.url(database, "psycopg"))
    project.use_models(MODELS)
    text = project.env.read_text()
    changed = re.sub(
        r"def run_migrations_online.*?(?=\nif context)", lambda match: f"{snippet.code}\n", text, flags=re.DOTALL
    )
    assert changed != text
    project.env.write_text(changed)
    client.execute("CREATE SCHEMA one")
    for command in (["revision", "--autogenerate", "-m", "orders"], ["upgrade", "head"], ["check"]):
        project.shell("-x", "tenant=one", *command)
    found = client.execute(
        "SELECT relnamespace::regnamespace::text FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid"
    ).fetchall()
    is_opted_out = "~alembic.autogenerate.sqlalchemy_watch" in snippet.code
    assert found == ([] if is_opted_out else [("one" if "search_path" in snippet.code else "public",)] * 3)
