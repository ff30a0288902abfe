"""Fixtures: a watched model, a partner, webhooks to it whose connections are closed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from listener.conftest import durable, group  # noqa: F401 - fixtures
from sqlalchemy import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched
from sqlalchemy_watch.webhooks import Webhook, webhook

from .partner import SECRET, Partner, serving


@pytest.fixture
def Order(Base: type[DeclarativeBase], engine: Engine) -> Any:
    """A model whose inserts and updates are durable; the table exists."""

    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = (
            Watch("inserted", extra_columns=("note",)),
            Watch("updated", extra_columns=("note",), old=True),
        )
        __watch_delivery__ = "durable"
        id: Mapped[int] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(server_default="")

    Base.metadata.create_all(engine)
    return Order


@pytest.fixture
def partner() -> Iterator[Partner]:
    with serving(Partner()) as partner:
        yield partner


@pytest.fixture
def hook(partner: Partner) -> Iterator[Callable[..., Webhook]]:
    """Makes webhooks, to the partner unless another url is given."""
    made: list[Webhook] = []

    def make(url: Any = None, **options: Any) -> Webhook:
        made.append(webhook(url or partner.url, secret=options.pop("secret", SECRET), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
