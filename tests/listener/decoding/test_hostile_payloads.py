"""Payloads of strangers, who can NOTIFY if they can connect: the listener counts them and goes on."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import Cluster
from sqlalchemy import Engine, create_engine
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched, wire
from sqlalchemy_watch.errors import PayloadError
from sqlalchemy_watch.listener.decoding.payload import Decoded
from sqlalchemy_watch.listener.decoding.routes import MAX_CLASSES, Router
from sqlalchemy_watch.listener.decoding.values import ValueDecoders


class Kind(enum.Enum):
    small = 1
    large = 2


def make_base() -> tuple[Any, Any]:
    class Base(DeclarativeBase):
        pass

    extra = ("kind", "number", "zoned", "flag", "document", "numbers", "body", "net", "span", "floats")
    members = {
        "__tablename__": "items",
        "__watch__": [
            Watch("inserted", extra_columns=extra),
            Watch("updated", extra_columns=extra, old=True),
            Watch("deleted", old=True),
            "truncated",
        ],
        "id": mapped_column(sa.BigInteger, primary_key=True),
        "name": mapped_column(sa.Text, primary_key=True),
        "kind": mapped_column(sa.Enum(Kind, name="kind")),
        "number": mapped_column(sa.Numeric(10, 2)),
        "zoned": mapped_column(sa.DateTime(timezone=True)),
        "flag": mapped_column(sa.Boolean),
        "document": mapped_column(pg.JSONB),
        "numbers": mapped_column(pg.ARRAY(sa.Integer)),
        "body": mapped_column(sa.LargeBinary),
        "net": mapped_column(pg.INET),
        "span": mapped_column(pg.TSTZRANGE),
        "floats": mapped_column(pg.ARRAY(sa.REAL)),
    }
    return Base, type("Item", (Watched, Base), members)


BASE, ITEM = make_base()
ROUTER = Router(BASE.metadata.tables.values(), ValueDecoders(create_engine("postgresql+asyncpg://")))
ROUTES = {route.watch.label: route for route in ROUTER.routes}
CHANNELS = {label: route.watch.channel for label, route in ROUTES.items()}

_VALUES: list[Any] = [
    1, "a", "large", "1.50", "2024-01-01T00:00:00", True, '{"a": 1}', "{1,2}", "00ff", "10.0.0.1",
    '["2024-01-01 00:00:00+00",)', "{0.5,NaN}",
]  # fmt: skip


def genuine(label: str) -> dict[str, Any]:
    """A payload as the trigger function makes it."""
    watch = ROUTES[label].watch
    row = _VALUES[: len(watch.carried)]
    rows: list[Any] = [[]] if label == "truncated" else [row, row, {"partial": row[:2]}]
    if label == "updated":
        rows.append([*row, "0" * len(watch.compared), *_VALUES[2:]])
    fields = {"schema": "public", "txid": 7, "at": 1_700_000_000_000_000, "wal": "0/1", "context": '{"a": 1}'}
    return {**wire.head_fields(watch), **fields, "rows": rows}


def encode(fields: dict[str, Any]) -> bytes:
    """Encode a payload as the trigger function does: without blanks."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def decode(fields: dict[str, Any]) -> Decoded:
    """Decode a payload by the router, which reads it alike where its beginning is not as declared."""
    compact, spaced = (
        ROUTER.decode(CHANNELS[fields["label"]], payload) for payload in (encode(fields), json.dumps(fields).encode())
    )
    assert compact is not None
    assert spaced is not None
    assert compact[0] is spaced[0] is ROUTES[fields["label"]]
    assert repr(compact[1].rows) == repr(spaced[1].rows)
    return compact[1]


def read(payload: bytes) -> None:
    """Decode a payload as the dispatcher does, for each channel that it might come on."""
    refused: list[str] = []
    for channel in CHANNELS.values():
        try:
            found = ROUTER.decode(channel, payload)
        except PayloadError as error:
            refused.append(str(error))
            continue
        if found is not None:
            route, decoded = found
            for values, _ in decoded.rows:
                route.destinations(values)
            assert decoded.resync is None or len(decoded.resync) < 200
    assert all(len(message) < 200 for message in refused)


@pytest.mark.parametrize("label", [*ROUTES])
def test_genuine_payload_is_read(label: str) -> None:
    decoded = decode(genuine(label))
    assert decoded.resync is None
    assert [extras is not None and extras.partial for _, extras in decoded.rows] == {
        "truncated": [False],
        "updated": [False, False, True, False],
    }.get(label, [False, False, True])


_strings = st.text(max_size=12) | st.sampled_from(["\\ud800", "NaN", "infinity", "{", "9" * 5000, "\x00", "{{1},2}"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _strings | st.just(10**4000),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_strings, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100) | _json.map(lambda value: json.dumps(value).encode()))
def test_anything_is_read_or_refused(payload: bytes) -> None:
    read(payload)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), label=st.sampled_from([*ROUTES]))
def test_mutated_payload_is_read_or_refused(data: st.DataObject, label: str) -> None:
    fields = genuine(label)
    for _ in range(data.draw(st.integers(1, 3))):
        target: Any = fields
        while True:
            keys = list(target) if isinstance(target, dict) else list(range(len(target)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(target[key], (list, dict)) and target[key] and data.draw(st.booleans()):
                target = target[key]
                continue
            if data.draw(st.integers(0, 3)) == 0:
                del target[key]
            else:
                target[key] = data.draw(_json)
            break
    read(encode(fields))


@pytest.mark.parametrize("label", [*ROUTES])
@pytest.mark.parametrize("row", [[None], ["1"], {"partial": []}, {"partial": [None]}, [[]], {}])
def test_row_that_does_not_fit_is_refused_or_lost(label: str, row: Any) -> None:
    read(encode({**genuine(label), "rows": [row]}))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), label=st.sampled_from([*ROUTES]))
def test_cut_and_overwritten_payload_is_read_or_refused(data: st.DataObject, label: str) -> None:
    payload = bytearray(encode(genuine(label)))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    read(bytes(payload[: data.draw(st.integers(0, len(payload)))]))


@pytest.mark.parametrize("depth", [500, 1_300, 3_500])
@pytest.mark.parametrize("field", ["rows", "resync", "context", "columns", "other"])
def test_deep_nesting_is_read_or_refused(field: str, depth: int) -> None:
    for opening, closing in ("[]", ('{"a":', "}")):
        nested = opening * depth + "1" + closing * depth
        fields = genuine("inserted")
        fields[field] = "@"
        read(encode(fields).replace(b'"@"', nested.encode()))
        fields[field] = nested
        read(encode(fields))


@pytest.mark.parametrize("at", [10**30, -(10**30), 10**17 * 9, -(10**17), 10**4000])
def test_impossible_time_is_refused(at: int) -> None:
    with pytest.raises(PayloadError):
        decode({**genuine("inserted"), "at": at})


@pytest.mark.parametrize(
    "text", ['"' + "\\" * 70, '"a"=>"' + "\\" * 7_000, '"a"=>' * 1_500, '"a"=>"b",' * 800 + "x", " " * 7_000]
)
def test_no_text_of_hstore_takes_long(text: str) -> None:
    # An expression that tries all ways to split it would hold every thread of the process for ever.
    decode = ValueDecoders(create_engine("postgresql+psycopg://")).decoder(pg.HSTORE())
    assert decode is not None
    with contextlib.suppress(psycopg.DataError):
        decode(text)


def test_hstore_is_read_as_it_is_written() -> None:
    decode = ValueDecoders(create_engine("postgresql+psycopg://")).decoder(pg.HSTORE())
    assert decode is not None
    assert decode(r'''"a"=>"1", "b c"=>NULL, "q\"\\"=>"ä, =>"''') == {"a": "1", "b c": None, 'q"\\': "ä, =>"}
    assert decode("") == {}
    assert decode(None) is None


def test_unknown_field_is_ignored_and_unknown_version_refused() -> None:
    fields = {**genuine("inserted"), "new": [1]}
    assert len(decode(fields).rows) == 3
    with pytest.raises(PayloadError, match="version"):
        decode({**fields, "v": 2})


def test_columns_of_an_earlier_and_a_later_declaration_are_understood() -> None:
    fields = genuine("updated")
    fields["columns"], fields["old"] = ["new", "name", "id", "number"], ["number", "dropped"]
    fields["rows"] = [["x", "a", 1, "1.50", "10", "2.50", 7], ["x", "a", 1, None]]
    decoded = decode(fields)
    (first, first_extras), (second, second_extras) = decoded.rows
    assert decoded.message.kind.attributes == ("id", "name", "number")
    assert [str(value) for value in first] == ["1", "a", "1.50"]
    assert first_extras is not None
    assert first_extras.changed == frozenset(["number"])
    assert second == (1, "a", None)
    assert first_extras.partial
    assert second_extras is not None
    assert second_extras.partial


def test_reason_of_a_resync_is_not_taken_from_a_stranger() -> None:
    for reason in ("secret\nline", ["secret"], {"secret": 1}, 7, True, [] * 3):
        fields = {**genuine("inserted"), "resync": reason}
        found = decode(fields).resync
        assert found == "the database says that rows are missing"


def test_discriminators_that_name_no_class_are_not_remembered_without_end() -> None:
    class Base(DeclarativeBase):
        pass

    members = {
        "__tablename__": "users",
        "__watch__": ("inserted",),
        "__mapper_args__": {"polymorphic_on": "kind", "polymorphic_identity": "user"},
        "id": mapped_column(sa.Integer, primary_key=True),
        "kind": mapped_column(sa.Text),
    }
    User: Any = type("User", (Watched, Base), members)
    route = Router(Base.metadata.tables.values(), ValueDecoders(create_engine("postgresql://"))).routes[0]
    for number in range(MAX_CLASSES * 2):
        assert route.destinations((number, f"kind {number}"))[0][0] is User
    assert len(route._by_class) == MAX_CLASSES


@pytest.fixture(scope="module")
def listening(cluster: Cluster) -> Iterator[tuple[Engine, Listener, Recorder, Any]]:
    """A listener, and a connection of a role that owns nothing and may read nothing."""
    name = "test_hostile"
    with cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        connection.execute("DROP ROLE IF EXISTS stranger")
        connection.execute("CREATE ROLE stranger LOGIN")
    engine = create_engine(cluster.url(name, "psycopg"))
    BASE.metadata.create_all(engine)
    recorder = Recorder()
    ITEM.watch.connect(recorder)
    with Listener(engine, BASE) as listener, cluster.connect(name, user="stranger") as stranger:
        yield engine, listener, recorder, stranger
    engine.dispose()
    with cluster.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.execute("DROP ROLE stranger")


@pytest.mark.parametrize(
    "garbage", ["secret", "", "{}", "[]", '{"v": 1, "secret": 1}', '{"v": 99}', "[" * 3000, "9" * 7900, "\x01🙂"]
)
def test_garbage_is_counted_and_logged_without_contents(
    listening: Any, caplog: pytest.LogCaptureFixture, garbage: str
) -> None:
    engine, listener, recorder, stranger = listening
    recorder.events.clear()
    before = listener.stats().garbage
    channel = ITEM.watch.inserted.details.channel
    with caplog.at_level(logging.DEBUG, "sqlalchemy_watch"):
        stranger.execute("SELECT pg_notify(%s, %s)", [channel, garbage])
        listener.catch_up()
    assert listener.stats().garbage == before + 1
    assert listener.running
    messages = [record.getMessage() for record in caplog.records]
    assert any(channel in message and f"{len(garbage.encode())} bytes" in message for message in messages)
    assert not any("secret" in message or (len(garbage) > 2 and garbage in message) for message in messages)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO items (id, name) VALUES (1, 'a')"))
        connection.execute(sa.text("DELETE FROM items"))
    listener.catch_up()
    assert [event.label for event in recorder.events] == ["inserted", "deleted"]


@pytest.mark.parametrize("forged", [[None, "a"], [1, None], {"partial": [1, None]}])
@pytest.mark.parametrize("honest", [[], [[1, "a"]]], ids=["alone", "with another"])
def test_a_row_without_a_key_is_no_event_and_lost_like_any_other_that_can_not_be_read(
    listening: Any, forged: Any, honest: list[Any]
) -> None:
    _, listener, recorder, stranger = listening
    recorder.events.clear()
    before = listener.stats()
    fields = {**genuine("deleted"), "rows": [*honest, forged]}
    stranger.execute("SELECT pg_notify(%s, %s)", [ROUTES["deleted"].watch.channel, encode(fields).decode()])
    listener.catch_up()
    after = listener.stats()
    assert [event.identity for event in recorder.events] == [tuple(row) for row in honest]
    assert after.events == before.events + len(honest)
    assert after.resyncs == before.resyncs + 1


@settings(max_examples=60, deadline=None)
@given(data=st.data(), label=st.sampled_from([*ROUTES]))
def test_listener_survives_whatever_a_stranger_sends(listening: Any, data: st.DataObject, label: str) -> None:
    engine, listener, recorder, stranger = listening
    recorder.events.clear()
    fields: Any = genuine(label)
    fields[data.draw(st.sampled_from([*fields]))] = data.draw(_json)
    payload = json.dumps(fields if data.draw(st.booleans()) else data.draw(_json)).replace("\x00", "")[:7999]
    heard = listener.stats().notifications
    stranger.execute("SELECT pg_notify(%s, %s)", [ROUTES[label].watch.channel, payload])
    with engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE items"))
    listener.catch_up()
    assert listener.stats().notifications == heard + 2
    assert listener.running
    assert recorder.events[-1].label == "truncated"
