"""Events: what they say of missing values, equality, copies, pickles, JSON. No server is needed here."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table, TypeDecorator, Uuid
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

from sqlalchemy_watch import ConfigurationError, Event, PayloadError, Watch, Watched, watch
from sqlalchemy_watch.events import python_values
from sqlalchemy_watch.events.json_values import codec_of
from sqlalchemy_watch.events.mappings import FrozenDict, Values
from sqlalchemy_watch.events.messages import EventKind, Extras, Message


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    """Of a module, as models are."""

    __tablename__ = "orders"
    __table_args__ = {"schema": "shop"}
    __watch__ = (Watch("updated", extra_columns=("total", "body"), old=True), "truncated", "deleted")
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    total: Mapped[Decimal]
    body: Mapped[Any] = mapped_column(pg.JSONB)


pins = Table("pins", MetaData(), Column("x", Integer, primary_key=True), Column("y", Integer, primary_key=True))
watch(pins, Watch("inserted"))

ID = uuid.UUID(int=7)
ROW = (ID, Decimal("12.50"), {"a": [1, 0.5, None]})


#: By the clock of a writer whose time zone has seconds.
AT = datetime(2023, 11, 15, 4, 6, 48, 1, timezone(timedelta(hours=5, minutes=53, seconds=28)))


def make(
    model: Any = Order,
    row: tuple[Any, ...] = ROW,
    operation: Any = "updated",
    attributes: tuple[str, ...] = ("id", "total", "body"),
    key_length: int = 1,
    extras: Extras | None = None,
    **message: Any,
) -> Event[Any]:
    kind = EventKind(operation, operation, key_length, attributes)
    made = Message(
        kind, message.pop("txid", 771), message.pop("at", AT), FrozenDict(message.pop("context", {})), "shop"
    )
    made.listener = object()
    made.lsn, made.first_position = message.pop("lsn", None), message.pop("position", None)
    made.channel, made.first_number = message.pop("channel", "watch_orders"), message.pop("number", 0)
    return Event(model, made, row, extras)


NOTHING: frozenset[str] = frozenset()

OLD = Extras(Values({"id": ID, "total": Decimal("10.00"), "body": None}), frozenset({"total", "body"}), False)

EVENTS: dict[str, Event[Any]] = {
    "whole": make(extras=OLD, context={"request": "r1", "deep": {"n": [1, 2.5, None, True]}}),
    "plain": make(),
    "durable": make(lsn=2**62, position=3),
    "partial": make(row=(ID,), extras=Extras(None, None, True)),
    "truncated": make(row=(), operation="truncated", attributes=(), key_length=0),
    "deleted": make(row=(ID,), operation="deleted", attributes=("id",), extras=Extras(Values(id=ID), NOTHING, False)),
    "table": make(pins, (1, 2), "inserted", ("x", "y"), 2),
    "odd context": make(context={"$python": {"a": 1}}),
    "infinite": make(context={"n": float("inf")}, row=(ID, Decimal("NaN"), float("inf"))),
}  # fmt: skip

PUBLIC = (
    "model", "operation", "label", "schema", "identity", "values", "old", "changed", "txid", "emitted_at", "context",
    "partial", "lsn", "position",
)  # fmt: skip


def from_json(event: Event[Any]) -> Event[Any]:
    return Event.from_json(event.to_json(), Base, pins)


def from_pickle(event: Event[Any]) -> Event[Any]:
    found: Event[Any] = pickle.loads(pickle.dumps(event))
    return found


WAYS: tuple[Callable[[Event[Any]], Event[Any]], ...] = (from_json, from_pickle, copy.copy, copy.deepcopy)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EVENTS)
def test_a_copy_equals_its_event_in_all_but_the_listener(name: str, way: Any) -> None:
    event = EVENTS[name]
    again = way(event)
    assert again == event
    assert hash(again) == hash(event)
    for attribute in PUBLIC:
        one, other = getattr(event, attribute), getattr(again, attribute)
        assert type(one) is type(other)
        assert repr(one) == repr(other) or one == other
    assert again.listener is None
    assert event.listener is not None
    assert repr(again) == repr(event)
    assert way(again) == event


def test_a_copy_shares_nothing_that_could_be_changed() -> None:
    event = make(row=(ID, Decimal(1), {"a": [1]}))
    copied = copy.deepcopy(event)
    copied.values["body"]["a"].append(2)
    assert event.values["body"] == {"a": [1]}
    assert copied.model is Order


def test_mappings_are_picklable_json_and_can_not_be_changed() -> None:
    event = EVENTS["whole"]
    for mapping in (event.values, event.old, event.context, EVENTS["partial"].values):
        again = pickle.loads(pickle.dumps(mapping))
        assert again == mapping == copy.copy(mapping) == copy.deepcopy(mapping)
        assert type(again) is type(mapping)
        for change in (
            lambda m: m.update(a=1), lambda m: m.pop("id"), lambda m: m.clear(), lambda m: m.setdefault("a", 1),
            lambda m: m.__setitem__("a", 1), lambda m: m.__delitem__("id"), lambda m: m.__ior__({"a": 1}),
            lambda m: m.popitem(),
        ):  # fmt: skip
            with pytest.raises(TypeError, match="can't be changed"):
                change(again)
        assert again == mapping
    assert json.loads(json.dumps(event.context)) == event.context


def test_a_missing_value_says_why() -> None:
    partial = EVENTS["partial"]
    with pytest.raises(KeyError, match=r"'total' was left out because the row would not fit: use load\(\) or get\(\)"):
        partial.values["total"]
    with pytest.raises(KeyError, match="'anything' is not carried: there is 'id'"):
        partial.values["anything"]
    with pytest.raises(KeyError, match="'anything' is not carried: there is 'id', 'total', 'body'"):
        EVENTS["plain"].values["anything"]
    with pytest.raises(KeyError, match="there is nothing"):
        EVENTS["truncated"].values["id"]
    for event in (partial, from_json(partial), from_pickle(partial), copy.copy(partial)):
        assert event.get("total", 7) == 7
        assert "total" not in event.values
        with pytest.raises(KeyError, match="left out because the row would not fit"):
            event.values["total"]


def test_events_differ_where_an_attribute_does() -> None:
    event = make(extras=OLD, lsn=1, position=2)
    others = [
        make(extras=OLD, lsn=2, position=2), make(extras=OLD, lsn=1, position=3), make(extras=OLD),
        make(lsn=1, position=2), make(extras=OLD, number=1), make(extras=OLD, channel="other"),
        make(row=(uuid.UUID(int=8), *ROW[1:]), extras=OLD, lsn=1, position=2),
        make(extras=OLD, lsn=1, position=2, txid=772), make(extras=OLD, lsn=1, position=2, context={"a": 1}),
        make(extras=OLD._replace(changed=frozenset()), lsn=1, position=2),
        make(extras=OLD._replace(partial=True), lsn=1, position=2), make(Base, extras=OLD, lsn=1, position=2),
    ]  # fmt: skip
    assert all(event != other for other in others)
    assert event != 7
    assert len({event, from_json(event), *others}) == 1 + len(others)


@pytest.mark.parametrize(
    ("event", "id_"),
    [
        (make(lsn=0x16B374D848, position=12), "00000016B374D848-12"),
        (make(number=3), "771-watch_orders-3"),
        (make(channel="watch-größe-7"), "771-watch-größe-7-0"),
    ],
)
def test_an_event_has_an_id_that_its_copies_keep(event: Event[Any], id_: str) -> None:
    assert event.id == id_
    assert from_json(event).id == pickle.loads(pickle.dumps(event)).id == copy.deepcopy(event).id == id_


@pytest.mark.parametrize("id_", ["", "771-watch_orders", "772-watch_orders-0", "771-x-" + "9" * 30])
def test_an_id_that_is_none_of_the_event_is_refused(id_: str) -> None:
    fields = make().to_dict() | {"id": id_}
    with pytest.raises(PayloadError, match="field 'id'"):
        Event.from_json(json.dumps(fields), Base, pins)


def test_an_id_that_is_not_that_of_lsn_and_position_is_refused() -> None:
    fields = make(lsn=5, position=1).to_dict()
    for changes in ({"lsn": 6}, {"position": 2}, {"position": None}, {"id": "5-1"}):
        with pytest.raises(PayloadError, match="field 'id'"):
            Event.from_json(json.dumps(fields | changes), Base, pins)


def test_events_with_keys_that_can_not_be_hashed_have_a_hash() -> None:
    event = make(row=([1], Decimal(1), None))
    assert hash(event) == hash(copy.copy(event))


def test_the_dictionary_of_an_event_is_as_documented() -> None:
    assert make(extras=OLD, context={"request": "r1"}, lsn=5, position=0).to_dict() == {
        "id": "0000000000000005-0",
        "model": "Order",
        "table": "shop.orders",
        "schema": "shop",
        "operation": "updated",
        "label": "updated",
        "identity": [str(ID)],
        "values": {"id": str(ID), "total": "12.50", "body": {"a": [1, 0.5, None]}},
        "old": {"id": str(ID), "total": "10.00", "body": None},
        "changed": ["body", "total"],
        "partial": False,
        "txid": 771,
        "emitted_at": "2023-11-14T22:13:20.000001+00:00",
        "context": {"request": "r1"},
        "lsn": 5,
        "position": 0,
    }
    assert EVENTS["table"].to_dict()["model"] == EVENTS["table"].to_dict()["table"] == "pins"
    assert EVENTS["truncated"].to_dict()["identity"] == []


# ---- Pickles of models that no module has


def test_events_of_local_classes_and_tables_are_pickled_within_the_process(Base: type[DeclarativeBase]) -> None:
    class Order(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "orders"
        __watch__ = ("updated",)
        id: Mapped[int] = mapped_column(primary_key=True)

    twin = Table("pins", MetaData(), Column("x", Integer, primary_key=True), Column("y", Integer))
    watch(twin, "inserted")
    for model in (Order, twin, pins):
        attributes = ("id",) if model is Order else ("x", "y")
        event = make(model, (1, 2)[: len(attributes)], "updated" if model is Order else "inserted", attributes, 1)
        assert from_pickle(event).model is model


PROGRAM = """
import pickle, sys
sys.path[:0] = {path!r}
{imports}
event = pickle.loads({pickled!r})
print(event.identity, event.model is {model}, event.listener)
"""


def other_process(event: Event[Any], imports: str, model: str) -> subprocess.CompletedProcess[str]:
    path = [str(Path(__file__).parent), *sys.path]
    code = PROGRAM.format(path=path, imports=imports, pickled=pickle.dumps(event), model=model)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_an_event_of_a_table_finds_the_table_of_the_process_that_reads_it() -> None:
    done = other_process(EVENTS["table"], f"import {__name__} as module", "module.pins")
    assert (done.stdout, done.stderr) == ("(1, 2) True None\n", "")


def test_an_event_of_a_class_finds_the_class_of_the_process_that_reads_it() -> None:
    done = other_process(EVENTS["plain"], f"import {__name__} as module", "module.Order")
    assert done.stdout == f"({ID!r},) True None\n", done.stderr


def test_an_event_of_a_table_that_is_not_there_says_so() -> None:
    done = other_process(EVENTS["table"], "import sqlalchemy_watch", "None")
    assert "UnpicklingError: no watched model here is named 'pins': import the module that declares it" in done.stderr


def test_a_name_that_two_tables_have_is_refused() -> None:
    copies = "\n".join(
        f"import sqlalchemy as sa, sqlalchemy_watch; t{i} = sa.Table('pins', sa.MetaData(), "
        f"sa.Column('x', sa.Integer, primary_key=True)); sqlalchemy_watch.watch(t{i}, 'inserted')"
        for i in range(2)
    )
    done = other_process(EVENTS["table"], copies, "t0")
    assert "UnpicklingError: 2 watched models are named 'pins' here: send event.to_json()" in done.stderr


# ---- Texts that are no events

GOOD = EVENTS["whole"].to_dict()


def changed(**fields: Any) -> str:
    return json.dumps({**GOOD, **fields})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        (changed(txid=float("nan")), "not JSON"),
        *((json.dumps({k: v for k, v in GOOD.items() if k != name}), name) for name in GOOD if name not in
          ("old", "changed", "lsn", "position")),
        *((changed(**{name: object_}), f"field '{name}'") for name in GOOD for object_ in (7.5, [[]], {"a": {}}, "1")
          if type(object_) not in (type(GOOD[name]), *((dict, list) if name in ("old", "changed") else ()))),
        (changed(txid=True), "txid"),
        (changed(operation="inserted"), "operation 'inserted' of a watch of 'updated'"),
        (changed(identity=[]), "identity"),
        (changed(identity=["x"]), "identity"),
        (changed(values={}), "identity"),
        (changed(values={**GOOD["values"], "total": 12.5}), "a value of 'total'"),
        (changed(values={**GOOD["values"], "total": "twelve"}), "a value of 'total'"),
        (changed(values={**GOOD["values"], "total": {"$python": {"set": 7}}}), "a value of 'total'"),
        (changed(old={"total": []}), "a value of 'total'"),
        (changed(changed=[7]), "changed"),
        (changed(emitted_at="yesterday"), "emitted_at"),
        (changed(emitted_at="2024-01-01T00:00:00"), "emitted_at"),
        (changed(context={"$python": [1]}), "context"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_event_is_refused(text: Any, words: str) -> None:
    with pytest.raises(PayloadError, match=words.replace("(", r"\(")):
        Event.from_json(text, Base)


@pytest.mark.parametrize(
    ("fields", "targets", "words"),
    [
        ({"model": "User"}, (Base,), "the targets have no model 'User' of table 'shop.orders' that watches 'updated'"),
        ({"table": "orders"}, (Base,), "no model 'Order' of table 'orders'"),
        ({"label": "shipped"}, (Base,), "that watches 'shipped'"),
        ({"label": "\x1b[2J" + "x" * 10_000}, (Base,), r"that watches '\\x1b"),
        ({}, (pins,), "no model 'Order'"),
        ({}, (), "nothing to watch is given"),
        ({}, (7,), "7 can't be watched"),
    ],
)
def test_an_event_of_no_model_of_the_targets_is_refused(fields: Any, targets: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        Event.from_json(changed(**fields), *targets)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("target", [Base, Base.registry, Base.metadata, Order, Order.__table__])
def test_targets_are_those_of_a_listener(target: Any) -> None:
    assert Event.from_json(EVENTS["whole"].to_json().encode(), target) == EVENTS["whole"]


def test_only_a_text_is_read() -> None:
    with pytest.raises(ConfigurationError, match="a text or bytes, not from dict"):
        Event.from_json(GOOD, Base)  # type: ignore[arg-type]


def test_an_attribute_that_is_not_carried_any_more_is_left_out() -> None:
    values, old = {**GOOD["values"], "gone": 1}, {**GOOD["old"], "gone": 2}
    assert Event.from_json(changed(values=values, old=old), Base) == EVENTS["whole"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


#: The machine may be busy.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@PATIENT
@given(st.dictionaries(st.sampled_from([*GOOD, "more"]), json_values))
def test_whatever_a_text_says_it_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        Event.from_json(json.dumps({**GOOD, **fields}), Base)
    except (PayloadError, ConfigurationError):
        pass


# ---- Values


class Colour(enum.Enum):
    red = "Rot"


class Guid(TypeDecorator[uuid.UUID]):
    """As the manual of SQLAlchemy has it."""

    impl = Uuid
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class Tags(TypeDecorator[frozenset[str]]):
    """A set, without a way back."""

    impl = pg.ARRAY(pg.TEXT)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else frozenset(value)


class Lossy(TypeDecorator[Decimal]):
    """Stores less than it loads."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return 0

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return Decimal(value)


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


class Points(TypeDecorator[Point]):
    """Objects without equality."""

    impl = pg.JSONB
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return {"$python": value.x}

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return Point(value["$python"])


class Vector(UserDefinedType[list[float]]):
    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: json.dumps(value)

    def result_processor(self, dialect: Any, coltype: Any) -> Any:
        return json.loads


CASES: list[tuple[Any, Any, Any]] = [
    (Guid(), ID, str(ID)),
    (Tags(), frozenset({"b", "a"}), {"$python": {"frozenset": ["a", "b"]}}),
    (Lossy(), Decimal(7), {"$python": {"Decimal": "7"}}),
    (Lossy(), Decimal(0), 0),
    (Vector(), [1.5, 2.0], "[1.5, 2.0]"),
    (pg.ENUM(Colour, name="colour"), Colour.red, "red"),
    (pg.JSONB(), {"$python": 1}, {"$stored": {"$python": 1}}),
    (pg.JSONB(), {"$stored": {"set": [1]}}, {"$stored": {"$stored": {"set": [1]}}}),
    (pg.JSONB(), [Decimal("0.1"), {1, 2}], {"$python": [{"Decimal": "0.1"}, {"set": [1, 2]}]}),
    (pg.INTERVAL(), timedelta(days=1, microseconds=500_000), 86400.5),
    (pg.INTERVAL(), timedelta(days=999_999_999, microseconds=1), "86399999913600000001"),
    (pg.TIMESTAMP(), datetime(2024, 2, 29, 1, 2, 3, 4, UTC), "2024-02-29T01:02:03.000004+00:00"),
    (pg.TIMESTAMP(), "infinity", {"$python": "infinity"}),
    (pg.ARRAY(pg.BYTEA), [[b"\x00\xff"], [None]], [["AP8="], [None]]),
    (pg.ARRAY(pg.DATE, as_tuple=True), ((date(2024, 1, 1),),), [["2024-01-01"]]),
    (pg.NUMRANGE(), pg.Range(Decimal("1.50"), None, bounds="[)"),
     {"lower": "1.50", "upper": None, "bounds": "[)", "empty": False}),
    (pg.FLOAT(), float("-inf"), "-Infinity"),
    (Integer(), True, {"$python": True}),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "value", "written"), CASES)
def test_values_have_a_documented_form_from_which_they_come_back(type_: Any, value: Any, written: Any) -> None:
    codec = codec_of(type_)
    assert codec.write(value) == written
    again = codec.read(json.loads(json.dumps(codec.write(value), allow_nan=False)))
    assert (type(again), again) == (type(value), value)


def test_an_object_without_equality_takes_its_types_way_back() -> None:
    codec = codec_of(Points())
    assert codec.read(codec.write(Point(7))).x == 7


def test_a_value_that_has_no_form_in_json_is_refused_with_the_remedy(Base: type[DeclarativeBase]) -> None:
    class Odd(TypeDecorator[Point]):
        impl = Integer
        cache_ok = True

        def process_result_value(self, value: Any, dialect: Any) -> Any:
            return Point(value)

    class Place(Watched, Base):  # type: ignore[misc,valid-type]
        __tablename__ = "places"
        __watch__ = (Watch("inserted", extra_columns=("point",)),)
        id: Mapped[int] = mapped_column(primary_key=True)
        point: Mapped[Any] = mapped_column(Odd)

    event = make(Place, (1, Point(1)), "inserted", ("id", "point"))
    with pytest.raises(
        ConfigurationError, match=r"Place\.inserted: 'point' can't be written as JSON \(a Point.*process_"
    ):
        event.to_json()
    assert from_pickle(make(Place, (1, None), "inserted", ("id", "point"))).model is Place


python_objects = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.uuids()
    | st.decimals(allow_nan=False) | st.datetimes() | st.dates() | st.times() | st.timedeltas() | st.ip_addresses(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text(max_size=5) | st.sampled_from(["set", "dict"]) | st.integers(), inner, max_size=3),
)  # fmt: skip


@PATIENT
@given(python_objects | st.frozensets(st.integers()) | st.sets(st.text()))
def test_python_values_come_back_with_their_types(value: Any) -> None:
    again = python_values.read(json.loads(json.dumps(python_values.write(value), allow_nan=False)))
    assert repr(again) == repr(value) or again == value
    assert type(again) is type(value)
