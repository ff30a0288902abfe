"""What is sent of an event."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import ConfigurationError, Event, Watch, Watched
from sqlalchemy_watch.testing import make_event
from sqlalchemy_watch.webhooks.payloads import payload_of, type_of


@pytest.fixture
def event(Base: type[DeclarativeBase]) -> Event[Any]:
    class OrderLine(Watched, Base):
        __tablename__ = "order_lines"
        __watch__ = (Watch("updated", label="shipped", trigger_columns=("total",), extra_columns=("total",), old=True),)
        id: Mapped[int] = mapped_column(primary_key=True)
        total: Mapped[Decimal]

    total, before = Decimal("12.50"), {"total": Decimal(10)}
    return make_event(OrderLine.watch.shipped, id=7, total=total, old=before, context={"user": "s3cr3t"})


def test_by_default_it_is_all_that_the_event_carries_but_its_context(event: Event[Any]) -> None:
    payload = payload_of(event, None, None)
    assert json.loads(payload) == {
        "type": "order_line.shipped",
        "timestamp": event.emitted_at.isoformat(),
        "data": {
            "identity": [7], "values": {"id": 7, "total": "12.50"},
            "old": {"id": 7, "total": "10"}, "changed": ["total"],
        },
    }  # fmt: skip
    assert b"s3cr3t" not in payload


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("Order", "order"), ("OrderLine", "order_line"), ("HTTPCall", "http_call"), ("V2Order", "v2_order"),
        ("order", "order"), ("Größe", "gr__e"),
    ],
)  # fmt: skip
def test_the_type_is_of_letters_digits_and_underscores(Base: type[DeclarativeBase], name: str, type_: str) -> None:
    fields = {
        "__tablename__": "t", "__watch__": ("deleted",), "id": mapped_column(primary_key=True),
        "__annotations__": {"id": Mapped[int]},
    }  # fmt: skip
    model: Any = type(name, (Watched, Base), fields)
    assert type_of(make_event(model.watch.deleted, id=1)) == f"{type_}.deleted"


@pytest.mark.parametrize(
    ("made", "sent"),
    [
        ({"a": 1}, b'{"a":1}'),
        (["ä", None, "\ud800"], b'["\\u00e4",null,"\\ud800"]'),
        (None, b"null"),
        ('{"a":  "ä"}', b'{"a":  "\xc3\xa4"}'),
        (b"\xff\x00", b"\xff\x00"),
        ("", b""),
    ],
)
def test_what_body_returns_is_json_or_sent_as_it_is(event: Event[Any], made: Any, sent: bytes) -> None:
    assert payload_of(event, lambda event: made, None) == sent


def endless() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"total": Decimal("1.5")}, "Object of type Decimal is not JSON serializable"),
        ({(1, 2): "v4lue"}, "keys must be str, int, float, bool or None, not tuple"),
        ({"v4lue": float("nan")}, "a ValueError"),
        ("v4lue\ud800", "a UnicodeEncodeError"),
        (endless(), "a ValueError"),
        (bytearray(b"v4lue"), "Object of type bytearray is not JSON serializable"),
    ],
)
def test_a_body_that_json_does_not_have_is_refused_and_not_shown(event: Event[Any], made: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        payload_of(event, lambda event: made, None)
    rule = "webhook: body(OrderLine.shipped) must return what JSON has, a text or bytes"
    assert str(caught.value) == f"{rule} ({words})"
    assert caught.value.__context__ is None
