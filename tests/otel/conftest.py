"""Fixtures of the tests of traces: spans as they are exported, a model with values that must not be in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from listener.conftest import drop_slots
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer
from postgres import Cluster
from sqlalchemy import Engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched

#: Stands in every row, every context, and every error.
SECRET = "s3cret"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def tracer(provider: TracerProvider) -> Tracer:
    """The application's own."""
    return provider.get_tracer("application")


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """A model that is heard both ways; the table exists."""

    class Order(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "orders"
        __watch__ = ("inserted", Watch("updated", extra_columns=("note",), old=True), "deleted")
        __watch_delivery__ = "both"
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(default=SECRET)

    Base.metadata.create_all(engine)
    return Order


@pytest.fixture
def group(cluster: Cluster, database: str) -> Iterator[str]:
    yield f"group_{database}"
    drop_slots(cluster, database)


class Statements:
    """The statements of an engine, as it sends them."""

    def __init__(self, engine: Engine) -> None:
        self.all: list[str] = []
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, conn: Any, cursor: Any, statement: str, *others: Any) -> None:
        self.all.append(statement)

    @property
    def about_the_trace(self) -> int:
        """How many put the trace into the context."""
        return sum("said.new" in statement for statement in self.all)


@pytest.fixture
def statements(engine: Engine) -> Statements:
    return Statements(engine)
