"""Fixtures: an Alembic project on the test's database."""

from __future__ import annotations

from pathlib import Path

import pytest
from postgres import Cluster

from .project import Project


@pytest.fixture
def project(tmp_path: Path, cluster: Cluster, database: str) -> Project:
    return Project(tmp_path, cluster.url(database, "psycopg"))
