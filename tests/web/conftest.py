"""Browsers without a browser: what an EventSource sends, read frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import PATIENCE

from sqlalchemy_watch import Watch, Watched
from sqlalchemy_watch.web import EventSource


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    columns = ("org_id", "note")

    class Order(Watched, Base):  # type: ignore[misc]
        __tablename__ = "orders"
        __watch__ = (
            Watch("inserted", extra_columns=columns), Watch("updated", extra_columns=columns, old=True),
            Watch("deleted", extra_columns=columns), "truncated",
        )  # fmt: skip
        id: Mapped[int] = mapped_column(primary_key=True)
        org_id: Mapped[int] = mapped_column(server_default="1")
        note: Mapped[str] = mapped_column(server_default="")

    Base.metadata.create_all(engine)
    return Order


class Got(NamedTuple):
    """A frame, as a browser has it."""

    event: str
    id: str
    data: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def parse(text: str) -> list[Got]:
    """Read frames as the HTML standard says; comments and `retry` are left out."""
    found = []
    for block in text.split("\n\n"):
        fields: dict[str, list[str]] = {"event": [], "id": [], "data": []}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            fields.get(name, []).append(value.removeprefix(" "))
        if fields["data"]:
            found.append(Got("".join(fields["event"]), "".join(fields["id"]), "\n".join(fields["data"])))
    return found


class Browser:
    """Reads the frames of one stream."""

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        self.frames = frames
        self._text = ""
        #: The id that the greeting gives it.
        self.place = ""
        self._got: list[Got] = []

    async def chunk(self) -> str:
        return (await asyncio.wait_for(anext(self.frames), PATIENCE)).decode()

    async def next(self) -> Got:
        while not self._got:
            whole, end, rest = self._text.rpartition("\n\n")
            self._got, self._text = parse(whole), rest if end else self._text
            if not self._got:
                self._text += await self.chunk()
        return self._got.pop(0)

    async def some(self, number: int) -> list[Got]:
        return [await self.next() for _ in range(number)]


@contextlib.asynccontextmanager
async def browsing(
    source: EventSource, last_event_id: str | None = None, request: Any = None
) -> AsyncIterator[Browser]:
    async with contextlib.aclosing(source.frames(last_event_id, request)) as frames:
        browser = Browser(frames)
        greeting, _, browser._text = (await browser.chunk()).partition("\n\n")
        retry, browser.place = greeting.split("\nid: ")
        assert retry == "retry: 2000"
        yield browser
