"""Messages and subjects. No broker is needed here."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import ConfigurationError, Event, Watched
from sqlalchemy_watch.relay.messages import Writer, key_of, order_of
from sqlalchemy_watch.relay.publishers import Refused, publisher_for
from sqlalchemy_watch.relay.publishers.protocol import MOST_MESSAGES, Refusals, runs
from sqlalchemy_watch.relay.subjects import MOST, Template, escape, unescape

from .conftest import Base, Line, event, message

AT = datetime(2024, 2, 29, 12, 34, 56, 789012, UTC)


def test_cloudevents_are_an_envelope_around_the_event() -> None:
    one = event("7", "x", number=0xAB, position=3, at=AT)
    made = Writer(source="/shop/eu").event(one)
    assert json.loads(made.data) == {
        "specversion": "1.0",
        "id": "00000000000000AB-3",
        "source": "/shop/eu",
        "type": "sqlalchemy_watch.updated",
        "subject": "public/orders/7",
        "time": "2024-02-29T12:34:56.789012+00:00",
        "partitionkey": "7",
        "datacontenttype": "application/json",
        "data": one.to_dict(),
    }
    assert (made.id, made.key, made.type, made.subject, made.time) == (
        one.id, "7", "updated", "watch.public.orders.updated.7", AT,
    )  # fmt: skip
    assert made.content_type == "application/cloudevents+json; charset=UTF-8"
    assert made.is_structured


def test_plain_ones_are_the_event_with_the_same_headers() -> None:
    one = event("7", "x")
    plain, structured = Writer(format="plain").event(one), Writer().event(one)
    assert Event.from_json(plain.data, Base) == one
    assert plain.headers == structured.headers
    assert (plain.content_type, plain.is_structured) == ("application/json", False)


@pytest.mark.parametrize("format", ["cloudevents", "plain"])
def test_the_writer_s_trace_is_an_attribute(format: Any) -> None:
    traceparent, writer = f"00-{1:032x}-{2:016x}-01", Writer(format=format)
    made = writer.event(event("7", "x", context={"traceparent": traceparent, "user": 7}))
    assert made.headers["traceparent"] == traceparent
    assert json.loads(made.data).get("traceparent") == (traceparent if format == "cloudevents" else None)
    for wrong in (7, None, "", f"{traceparent}\n", traceparent.upper().replace("0", "A"), "x\r\nset-cookie: a"):
        assert "traceparent" not in writer.event(event("7", "x", context={"traceparent": wrong})).headers


def test_a_table_is_named_without_its_schema() -> None:
    class Elsewhere(DeclarativeBase):
        metadata = MetaData(schema="shop")

    class Order(Watched, Elsewhere):
        __tablename__ = "orders"
        __watch__ = ("updated",)
        id: Mapped[str] = mapped_column(primary_key=True)

    made = Writer().event(event("7", "x", model=Order, schema="shop"))
    assert (made.schema, made.table, made.subject) == ("shop", "orders", "watch.shop.orders.updated.7")
    assert made.headers["subject"] == "shop/orders/7"
    assert json.loads(made.data)["data"]["table"] == "shop.orders"


def test_truncation_names_no_row() -> None:
    made = message(1, None)
    assert (made.key, made.subject) == (None, "watch.public.orders.truncated._")
    assert made.headers["subject"] == "public/orders"
    assert "partitionkey" not in made.headers


@pytest.mark.parametrize("format", ["cloudevents", "plain"])
def test_resync_of_a_gap_has_the_same_id_again(format: Any) -> None:
    writer = Writer(format=format)
    made, again, other = writer.resync("lost", 0xAB), writer.resync("lost", 0xAB), writer.resync("lost")
    assert made.id == again.id == "resync-00000000000000AB" != other.id != writer.resync("lost").id
    assert (made.type, made.key, made.subject) == ("resync", None, "watch._._.resync._")
    told = json.loads(made.data)
    told = told["data"] if format == "cloudevents" else told
    assert told == {"id": made.id, "operation": "resync", "reason": "lost"}


def test_event_without_a_place_in_the_log_is_refused() -> None:
    one = event("7", "x")
    one._message.lsn = one._message.first_position = None
    with pytest.raises(ConfigurationError, match="not of a consumer group"):
        Writer().event(one)


@pytest.mark.parametrize("wrong", [{"format": "xml"}, {"source": ""}, {"source": "a b"}, {"source": "ö"}])
def test_wrong_argument_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Writer(**wrong)


@pytest.mark.parametrize(
    ("identity", "key"),
    [
        ([], None),
        ([7], "7"),
        (["a,b%"], "a,b%"),
        ([7, "DE"], "7,DE"),
        (["a,b", "c"], "a%2Cb,c"),
        (["a", "b,c"], "a,b%2Cc"),
        ([True], "true"),
        ([[1, 2]], "[1, 2]"),
        ([""], ""),
    ],
)
def test_key_is_the_identity_as_a_text(identity: list[Any], key: str | None) -> None:
    assert key_of(identity) == key


def test_key_of_several_columns() -> None:
    made = Writer().event(event("a.b", 7, model=Line, operation="inserted"))
    assert (made.key, made.subject) == ("a.b,7", "watch.public.lines.inserted.a%2Eb,7")


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("Order-7_x,y", "Order-7_x,y"), ("_", "%5F"), ("", "%"), ("%", "%25"), ("a.b", "a%2Eb"), ("*", "%2A"),
        (">", "%3E"), ("a b\n", "a%20b%0A"), ("~", "%7E"), ("größe", "gr%C3%B6%C3%9Fe"), ("$JS", "%24JS"),
        ("\ud800", "%ED%A0%80"),
    ],
)  # fmt: skip
def test_token(text: str, token: str) -> None:
    assert escape(text) == token
    assert unescape(token) == text


@given(st.text(st.characters(exclude_categories=[]), max_size=150))
def test_token_is_safe_and_leads_back(text: str) -> None:
    token = escape(text)
    assert 0 < len(token) <= MOST
    assert not set(token) & set(".*> \t\r\n\0")
    assert token.isascii()
    assert token.isprintable()
    if "~" not in token:
        assert unescape(token) == text


def test_long_keys_are_cut_and_stay_different() -> None:
    one, other = escape("ä" * 10_000 + "1"), escape("ä" * 10_000 + "2")
    assert len(one) == len(other) == MOST
    assert one != other
    assert one[:-32] == other[:-32]
    assert one[-33] == "~"


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        ("", "must not be empty"), (None, "must not be empty"), ("a.{tabel}", "'a.{tabel}': {tabel} is no field"),
        ("a.{}", "{} is no field"), ("a.{table!r}", "{table} is no field"), ("a.{table:>5}", "{table} is no field"),
        ("a.{table.x}", "{table.x} is no field"), ("a.{table", "can't be read"), ("a..b", "before, between and after"),
        (".a", "before, between and after"), ("a.", "before, between and after"), ("a b", "whitespace"),
        ("a\n", "whitespace"), ("a\0", "whitespace"), ("a.*", "'*', '>'"), ("a.>", "'*', '>'"),
        ("{{a}}", "'*', '>' and braces"),
        ("$JS.API.x", "the server's own"), ("_INBOX.x", "the server's own"), ("a" * 256, "longer than 255"),
    ],
)  # fmt: skip
def test_template_that_is_no_subject_is_refused(template: Any, rule: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Template(template)
    assert rule in str(raised.value)
    assert "{schema}, {table}, {operation}, {label}, {key}" in str(raised.value)


def test_template_says_what_to_subscribe_to() -> None:
    given = Template("shop.eu.x-{schema}.{table}.all.{key}")
    assert (given.prefix, given.pattern) == ("shop.eu", "shop.eu.*.*.all.*")
    assert Template("{table}").prefix == ""
    assert (Template("watch").prefix, Template("watch").pattern) == ("watch", "watch")


def test_ids_compare_as_numbers() -> None:
    assert order_of("00000000000000AB-10") > order_of("00000000000000AB-9")  # type: ignore[operator]
    assert order_of("0000000100000000-0") > order_of("00000000FFFFFFFF-9")  # type: ignore[operator]
    assert order_of("resync-00000000000000AB") is None
    assert order_of("771-watch_orders-0") is None


def test_run_has_each_row_once_and_what_names_none_alone() -> None:
    keys = ["a", "b", "a", "c", None, "a", None, None, "b", "b"]
    messages = [message(number, key) for number, key in enumerate(keys)]
    found = [[each.key for each in run] for run in runs(messages)]
    assert found == [["a", "b"], ["a", "c"], [None], ["a"], [None], [None], ["b"], ["b"]]
    many = [message(number, str(number)) for number in range(MOST_MESSAGES + 1)]
    assert [len(run) for run in runs(many)] == [MOST_MESSAGES, 1]
    assert list(runs([])) == []


def test_what_comes_after_a_refused_one_is_held() -> None:
    one, same, other, all_rows, later = (message(n, key) for n, key in enumerate(["a", "a", "b", None, "b"]))
    refusals = Refusals()
    refusals.check()
    refusals.add(one, "too large")
    assert [refusals.holds(each) for each in (same, other, all_rows, later)] == [True, False, True, True]
    with pytest.raises(Refused, match="00-0 .*updated.a.: too large") as raised:
        refusals.check()
    assert raised.value.reasons == [(one, "too large")]
    assert raised.value.held == [same, all_rows, later]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://localhost", "amqp://"), ("", "no broker"), (None, "no broker"), ("nats://", "name a host"),
        ("nats://h?strem=x", "'strem' is no option"), ("nats://h?credentials=/none", "no such file"),
        ("redis://h?maxlen=x", "whole number"), ("redis://h?maxlen=0", "whole number"),
        ("redis://h?stream=a..b", "stream="), ("nats://[h", "can't be read"),
        ("redis://h:x", "'x' is no port"), ("kafka:///t", "name a host"), ("kafka://h/a b", "whitespace"),
        ("kafka://h/{key}", "{key} is no field"), ("kafka://h/ä", "ASCII"), ("kafka://h?acks=0", "'acks' is no option"),
        ("kafka://h?idempotent=x", "true or false"),
    ],
)  # fmt: skip
def test_wrong_url_is_refused(url: Any, says: str) -> None:
    for client in ("nats", "redis", "aiokafka"):
        pytest.importorskip(client)
    with pytest.raises(ConfigurationError) as raised:
        publisher_for(url)
    assert says in str(raised.value)


@pytest.mark.parametrize("timeout", [0, -1, "5", True, float("inf"), float("nan")])
def test_wrong_timeout_is_refused(timeout: Any) -> None:
    pytest.importorskip("nats")
    with pytest.raises(ConfigurationError, match="timeout="):
        publisher_for("nats://localhost", timeout=timeout)


def test_password_is_in_no_error() -> None:
    pytest.importorskip("redis")
    with pytest.raises(ConfigurationError) as raised:
        publisher_for("redis://:secret@h:x")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("scheme", "client"), [("nats", "nats"), ("rediss", "redis"), ("kafka", "aiokafka")])
def test_missing_client_names_its_extra(scheme: str, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module in [name for name in sys.modules if name.split(".")[0] == client or ".relay.publishers." in name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, client, None)
    extra = {"rediss": "redis"}.get(scheme, scheme)
    with pytest.raises(ConfigurationError, match=rf'pip install "sqlalchemy-watch\[{extra}\]"'):
        publisher_for(f"{scheme}://h")
