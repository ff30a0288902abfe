"""Payloads of strangers, who can NOTIFY if they can connect: the listener counts them and goes on."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
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
from sqlalchemy_watch.events.messages import Extras
from sqlalchemy_watch.listener.decoding.payload import Decoded
from sqlalchemy_watch.listener.decoding.routes import MAX_CLASSES, Elsewhere, Router
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
OID = 4_294_967_295
for each in ROUTER.routes:
    each.known = {OID: "public"}

_VALUES: list[Any] = [
    1, "a", "large", "1.50", "2024-01-01T00:00:00", True, '{"a": 1}', "{1,2}", "00ff", "10.0.0.1",
    '["2024-01-01 00:00:00+00",)', "{0.5,NaN}",
]  # fmt: skip


def genuine(label: str) -> dict[str, Any]:
    """A payload as the trigger function makes it."""
    watch = ROUTES[label].watch
    row = _VALUES[: len(watch.carried)]
    rows: list[Any] = [[]] if label == "truncated" else [row, row]
    if label in ("inserted", "updated"):
        rows.append(row[:2])
    if label == "updated":
        rows.append([*row, "0" * len(watch.compared), *_VALUES])
    fields = {"oid": OID, "txid": 7, "at": "2024-02-29T13:45:01.5+05:53:28", "context": '{"a": 1}'}
    return {**wire.head_fields(watch), **fields, "rows": rows}


def encode(fields: dict[str, Any]) -> bytes:
    """Encode a payload as the trigger function does: without blanks."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")


def decode(fields: dict[str, Any]) -> Decoded:
    """Decode a payload by the router, which reads it alike where its beginning is not as declared."""
    compact, spaced = (
        ROUTER.decode(CHANNELS[fields["label"]], payload) for payload in (encode(fields), json.dumps(fields).encode())
    )
    assert isinstance(compact, tuple)
    assert isinstance(spaced, tuple)
    (route, decoded), (other_route, other) = compact, spaced
    assert route is other_route is ROUTES[fields["label"]]
    assert (repr(decoded.rows), decoded.message.schema) == (repr(other.rows), other.message.schema)
    assert isinstance(decoded, Decoded)
    return decoded


def read(payload: bytes) -> None:
    """Decode a payload as the dispatcher does, for each channel that it might come on."""
    refused: list[str] = []
    for channel in CHANNELS.values():
        try:
            found = ROUTER.decode(channel, payload)
        except PayloadError as error:
            refused.append(str(error))
            continue
        if found is not None and not isinstance(found, Elsewhere):
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
        "updated": [True, True, True, False],  # without their old values
        "deleted": [False, False],
    }.get(label, [False, False, True])
    assert (decoded.message.schema, decoded.message.txid, decoded.message.context) == ("public", 7, {"a": 1})
    assert decoded.message.at.astimezone(UTC) == datetime(2024, 2, 29, 7, 51, 33, 500_000, UTC)


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
@pytest.mark.parametrize("row", [[None], ["1"], [], [1], [1, None], {"partial": []}, [[]], {}, 7, None, "[1,"])
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


NO_TIMES = [
    None, True, 7, 10**4000, [], {}, "", "now", "2024-02-29", "2024-02-29T13:45:01", "2023-02-29T13:45:01+00:00",
    "2024-02-29T13:45:01+24:00", "10000-01-01T00:00:00+00:00", "0001-01-01T00:00:00+14:00", "-1-01-01T00:00:00+00:00",
    "9999-12-31T23:59:59.999999-12:00", "2024-02-29T13:45:01+00:00 BC", "infinity", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("at", NO_TIMES, ids=lambda at: ascii(at)[:30])
def test_time_that_is_none_is_refused(at: Any) -> None:
    with pytest.raises(PayloadError, match="'at'|not JSON"):
        decode({**genuine("inserted"), "at": at})


@pytest.mark.parametrize("missing", ["at", "txid", "rows", "oid"])
def test_payload_that_lacks_a_field_is_refused_and_tells_of_rows(missing: str) -> None:
    fields = genuine("inserted")
    del fields[missing]
    with pytest.raises(PayloadError, match="'schema'" if missing == "oid" else f"'{missing}'") as refused:
        ROUTER.decode(CHANNELS["inserted"], encode(fields))
    assert refused.value.tells_of_rows


@pytest.mark.parametrize("oid", [0, -1, 2**32, 10**30, True, False, "16400", 16400.0, [], {}])
def test_oid_that_is_none_is_refused(oid: Any) -> None:
    for others in ({}, {"schema": "public"}):
        with pytest.raises(PayloadError, match="'oid'"):
            decode({**genuine("inserted"), **others, "oid": oid})


@pytest.mark.parametrize("schema", [7, True, [], {}])
def test_schema_that_is_no_name_is_refused(schema: Any) -> None:
    for others in ({}, {"oid": None}):
        with pytest.raises(PayloadError, match="'schema'"):
            decode({**genuine("inserted"), **others, "schema": schema})


@pytest.mark.parametrize(
    ("place", "schema"),
    [
        ({"schema": "public"}, "public"),  # of a statement-level function, for the log as well
        ({"schema": "anything"}, "anything"),  # nothing says here whose that is
        ({"oid": OID}, "public"),
        ({"oid": OID, "schema": "public"}, "public"),
        ({"oid": None, "schema": "public"}, "public"),
        ({"oid": OID, "schema": None}, "public"),
        ({"oid": OID, "schema": "moved"}, None),
        ({"oid": OID - 1}, None),
        ({"oid": OID - 1, "schema": "public"}, None),
    ],
)
def test_payload_is_of_the_table_whose_oid_is_known_or_else_of_that_schema(place: Any, schema: str | None) -> None:
    fields = {**genuine("inserted"), "oid": None, **place}
    for payload in (encode(fields), json.dumps(fields).encode()):
        found = ROUTER.decode(CHANNELS["inserted"], payload)
        if schema is None:
            assert isinstance(found, Elsewhere)
            assert (found.oid, found.schema, found.stamp[0]) == (place.get("oid"), place.get("schema"), 7)
        else:
            assert isinstance(found, tuple)
            assert found[1].message.schema == schema


def test_bare_head_tells_of_rows() -> None:
    """A trigger function that could not build more sends it."""
    for label, route in ROUTES.items():
        with pytest.raises(PayloadError) as raised:
            ROUTER.decode(CHANNELS[label], f"{wire.head_json(route.watch)}}}".encode())
        assert raised.value.tells_of_rows


@pytest.mark.parametrize("broken", ["[[abc]]", "[[1]", "[[NaN]]", "[[1],,[2]]", "[[1]]}{", ""])
def test_payload_that_begins_as_ours_and_is_no_json_tells_of_rows(broken: str) -> None:
    # A column that somebody retyped: its text is no number.
    fields = genuine("inserted")
    for head in (fields, {**fields, "columns": ["id", "another"]}):
        payload = encode({**head, "rows": "@"}).replace(b'"@"', broken.encode())
        with pytest.raises(PayloadError, match="not JSON") as refused:
            ROUTER.decode(CHANNELS["inserted"], payload)
        assert refused.value.tells_of_rows
    with pytest.raises(PayloadError) as refused:
        ROUTER.decode(CHANNELS["inserted"], encode({**fields, "table": "another"})[:-9])
    assert not refused.value.tells_of_rows


def test_transaction_and_time_of_the_log_count_for_more_than_those_of_a_payload() -> None:
    at = datetime(2020, 1, 1, tzinfo=UTC)
    for odd in ({"txid": 2**62}, {"txid": "x", "at": 7}):
        found = ROUTER.decode(CHANNELS["inserted"], encode({**genuine("inserted"), **odd}), (771, at))
        assert isinstance(found, tuple)
        assert (found[1].message.txid, found[1].message.at) == (771, at)


@pytest.mark.parametrize(
    "text", ['{"a":"%s"}', '{"ä🙂":"%s"}', r'{"\n":"%s"}', r'{"\ud800":"%s"}', '{"a":\n"%s"}'], ids=ascii
)
def test_context_counts_as_not_set_where_it_is_longer_than_context_allows(text: str) -> None:
    # It has as many bytes as it takes in the payload, with its quotes: what `context()` counts.
    for total in (wire.MAX_CONTEXT_BYTES, wire.MAX_CONTEXT_BYTES + 1):
        context = text % ("x" * (total - len(json.dumps(text % "", ensure_ascii=False).encode())))
        assert len(json.dumps(context, ensure_ascii=False).encode()) == total
        found = decode({**genuine("inserted"), "context": context}).message.context
        assert found == (json.loads(context) if total == wire.MAX_CONTEXT_BYTES else {})


@pytest.mark.parametrize("context", ["", " ", "7", "[]", "{", '{"a":NaN}', '{"a":"\1"}', 7, [], {"a": 1}, True, None])
def test_context_that_is_no_json_object_counts_as_not_set(context: Any) -> None:
    assert decode({**genuine("inserted"), "context": context}).message.context == {}


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
    fields["columns"], fields["old"] = ["new", "name", "id", "number"], ["id", "number", "dropped"]
    fields["rows"] = [["x", "a", 1, "1.50", "110", 2, "2.50", 7], ["x", "a", 1, None], ["x", "a", 3], ["x", "a"]]
    decoded = decode(fields)
    (first, first_extras), (second, second_extras), (third, third_extras) = decoded.rows
    assert decoded.message.kind.attributes == ("id", "name", "number")
    assert [str(value) for value in first] == ["1", "a", "1.50"]
    assert first_extras is not None
    assert first_extras.old == {"id": 2, "number": Decimal("2.50")}
    assert first_extras.changed == frozenset(["id", "number"])
    assert second == (1, "a", None)
    assert first_extras.partial
    assert second_extras is not None
    assert second_extras.partial
    assert (third, third_extras) == ((3, "a"), Extras(None, None, True))
    assert decoded.lost == [3]  # without a column of the key


@pytest.mark.parametrize("number", range(4))
def test_row_that_can_not_be_read_takes_no_other_with_it(number: int) -> None:
    fields, good = genuine("updated"), [*_VALUES, "1" + "0" * 11, 2, *_VALUES[1:]]
    for bad in ([*_VALUES, "1", *_VALUES], [*good[:12], 7, *good[13:]], good[:13], [*good, 1], [], [1], ["x", "a"], {}):
        fields["rows"] = [*[good] * number, bad, *[good] * (3 - number)]
        decoded = decode(fields)
        assert len(decoded.rows) + len(decoded.lost) == 4
        assert decoded.lost in ([number], [])  # such as a row whose previous values can't be read
        for index, (values, extras) in enumerate(decoded.rows):
            if index != number or decoded.lost:
                assert extras is not None
                assert (values[0], extras.old and extras.old["id"], extras.changed) == (1, 2, {"id"})


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


@pytest.mark.parametrize("forged", [[None, "a"], [1, None], [1], [], {"partial": [1, "a"]}])
@pytest.mark.parametrize("honest", [[], [[1, "a"]]], ids=["alone", "with another"])
def test_a_row_without_a_key_is_no_event_and_lost_like_any_other_that_can_not_be_read(
    listening: Any, forged: Any, honest: list[Any]
) -> None:
    _, listener, recorder, stranger = listening
    recorder.events.clear()
    before = listener.stats()
    fields = {**genuine("deleted"), "oid": None, "schema": "public", "rows": [*honest, forged]}
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
