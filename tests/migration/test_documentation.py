"""The migration that the documentation shows is one that was generated."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watched

from .project import Project

pytestmark = pytest.mark.sqlalchemy

PAGE = Path(__file__).parents[2] / "docs" / "migrations.md"

_GENERATED = re.compile(
    r"(?<=<!-- generated: tests/migration/test_documentation.py -->\n```python\n)(.*?)(?=```\n)", re.DOTALL
)


def test_the_documented_migration_is_a_generated_one(project: Project, Base: type[DeclarativeBase]) -> None:
    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = ("inserted", "updated", "deleted")
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[int]

    project.metadata = Base.metadata
    script = project.revision().read_text()
    generated = script[script.index("def upgrade()") :]
    page = PAGE.read_text()
    if os.environ.get("WATCH_UPDATE_DOCS"):
        page = _GENERATED.sub(lambda match: generated, page)
        PAGE.write_text(page)
    match = _GENERATED.search(page)
    assert match is not None
    assert match[1] == generated, "run this test with WATCH_UPDATE_DOCS=1 to bring docs/migrations.md up to date"
