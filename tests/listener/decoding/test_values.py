"""Values carried by events are what loading the row gives, in value and in type, whatever the driver."""

from __future__ import annotations

import asyncio
import enum
import json
import math
import pickle
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy as sa
from conftest import Recorder
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres import VERSION, Cluster, needs
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from support import created_database, resync_reasons

from sqlalchemy_watch import ConfigurationError, Event, Listener, Watch, Watched

pytestmark = pytest.mark.sqlalchemy

#: Types that older servers do not have.
SINCE = {"int4multirange": 14, "datemultirange": 14}

DRIVERS = ("psycopg", "psycopg2", "asyncpg", "pg8000")


class Color(enum.Enum):
    red = "Rot"
    green = "Grün"


class Money(sa.types.TypeDecorator[tuple[str, int]]):
    """Python sees a pair, the database an integer."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value[1]

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else ("EUR", value)


class Never(sa.types.TypeDecorator[str]):
    """Python never sees NULL."""

    impl = sa.String
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return "nothing" if value is None else f"<{value}>"


class Tags(sa.types.TypeDecorator[frozenset[str]]):
    """A set in Python, JSON in the database."""

    impl = sa.JSON
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else frozenset(value)


def _native(name: str, **options: Any) -> sa.Enum:
    return sa.Enum(Color, name=name, **options)


_INTEGERS = ["0", "-1", "7"]
_EVERY_CONTROL = "(SELECT string_agg(chr(i), '') FROM generate_series(1, 0xA0) AS i)".replace("0xA0", "160")
_TEXTS = [
    "''", "' padded '", "'it''s \"quoted\"'", r"E'back\\slash \\n \\u0041 {} , \"'", "'100 % :name {brace}'",
    "'🙂 👩‍👩‍👧 ' || chr(101) || chr(769)", "U&'\\2028\\2029\\FEFF\\FFFD\\+10FFFF'", _EVERY_CONTROL, "'null'",
]  # fmt: skip
_STAMPS = ["'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'", "'2024-02-29 12:34:56.000001'", "'1970-01-01'"]
_ZONED = [
    "'0001-01-01 00:00:00+00'", "'9999-12-31 23:59:59.999999+00'", "'2024-06-30 12:34:56.1+05:45'",
    "'1900-01-01 00:00:00+00'",
]  # fmt: skip
_INTERVALS = ["'1 day'", "'-1 day -02:03:04.000005'", "'0'", "'100 days 23:59:59.999999'"]
_MONTHS = ["'3 years 2 mons -4 days'", "'-14 mons'", "'1 mon -1 day +00:00:01'"]
_JSON = [
    '\'{"a": [1, 2.5, -0.0, 1e400, 12345678901234567890123456789, null, true, {"b": {}}]}\''.replace(" 1e400,", ""),
    "'null'", "'\"text\"'", "'[]'", r"""E'"\\u00e4 \\ud83d\\ude42 \\" \\\\ \\n"'""", "'0.1'", "'[[[[1]]]]'",
]  # fmt: skip

#: Name: the type, and values as SQL.
CASES: dict[str, tuple[Any, list[str]]] = {
    "smallint": (sa.SmallInteger(), ["-32768", "32767", *_INTEGERS]),
    "integer": (sa.Integer(), ["-2147483648", "2147483647", *_INTEGERS]),
    "bigint": (sa.BigInteger(), ["-9223372036854775808", "9223372036854775807", *_INTEGERS]),
    "numeric": (sa.Numeric(30, 10), ["1", "'NaN'", "-12345678901234567890.0123456789", "0.0000000001"]),
    "numeric_unbounded": (sa.Numeric(), ["1e-200", "1e200", "1.00"]),
    "numeric_as_float": (sa.Numeric(10, 2, asdecimal=False), ["1.25", "'NaN'"]),
    "float": (sa.Float(), ["'NaN'", "'Infinity'", "'-Infinity'", "5e-324", "'-0'", "0.1", "1.7976931348623157e308"]),
    "double": (sa.Double(), ["0.1", "1e23", "2.2250738585072014e-308"]),
    "real": (sa.REAL(), ["'NaN'", "'-Infinity'", "1e-45", "0.1", "3.4028235e38"]),
    "float_24": (sa.Float(24), ["0.1", "'NaN'"]),
    "float_as_decimal": (sa.Float(asdecimal=True), ["0.1", "2.5"]),
    "text": (sa.Text(), _TEXTS),
    "varchar": (sa.String(400), _TEXTS),
    "varchar_collated": (sa.String(400, collation="C"), _TEXTS),
    "char": (sa.CHAR(10), ["'a'", "''", "'  b'", "'ä🙂'"]),
    "char_collated": (sa.CHAR(10, collation="C"), ["'a'"]),
    "bytes": (sa.LargeBinary(), ["''", "decode((SELECT string_agg(lpad(to_hex(i), 2, '0'), '') "
                                       "FROM generate_series(0, 255) AS i), 'hex')"]),
    "boolean": (sa.Boolean(), ["true", "false"]),
    "date": (sa.Date(), ["'0001-01-01'", "'9999-12-31'", "'2024-02-29'"]),
    "time": (sa.Time(), ["'00:00'", "'23:59:59.999999'"]),
    "time_zoned": (sa.Time(timezone=True), ["'12:34:56.5+05:45'", "'00:00-12'"]),
    "timestamp": (sa.DateTime(), _STAMPS),
    "timestamp_3": (pg.TIMESTAMP(precision=3), _STAMPS[2:]),
    "timestamp_zoned": (sa.DateTime(timezone=True), _ZONED),
    "interval": (sa.Interval(), _INTERVALS),
    "interval_months": (pg.INTERVAL(), _MONTHS),
    "interval_fields": (pg.INTERVAL(fields="DAY TO SECOND", precision=3), _INTERVALS),
    "uuid": (sa.Uuid(), ["'00000000-0000-0000-0000-000000000000'", "'6f1c2a3e-0b6d-4c58-9b7a-2f1d3c4b5a69'"]),
    "uuid_text": (sa.Uuid(as_uuid=False), ["'6f1c2a3e-0b6d-4c58-9b7a-2f1d3c4b5a69'"]),
    "enum_native": (_native("color"), ["'red'", "'green'"]),
    "enum_values": (_native("color_values", values_callable=lambda e: [m.value for m in e]), ["'Rot'", "'Grün'"]),
    "enum_plain": (_native("color_plain", native_enum=False), ["'red'"]),
    "enum_strings": (sa.Enum("a b", "c,d", 'e"f', "g'h", "{i}", name="strings"), ["'a b'", "'c,d'", "'e\"f'", "'{i}'"]),
    "enum_elsewhere": (_native('Odd "Color"', schema="odd schema"), ["'green'"]),
    "array_integer": (pg.ARRAY(sa.Integer), ["'{}'", "'{1,NULL,-3}'", "'{{1,2},{3,4}}'"]),
    "array_numeric": (pg.ARRAY(sa.Numeric(30, 10)), ["'{1.5,NaN,NULL}'"]),
    "array_float": (pg.ARRAY(sa.Float), ["'{NaN,Infinity,0.1,NULL}'"]),
    "array_text": (pg.ARRAY(sa.Text), [r"""ARRAY['', 'NULL', NULL, 'a,b', '{x}', 'q"q', E'b\\s', E'\n\t']""", "'{}'"]),
    "array_char": (pg.ARRAY(sa.CHAR(4)), ["'{a,bb}'"]),
    "array_bytes": (pg.ARRAY(sa.LargeBinary), [r"ARRAY['\x00ff'::bytea, ''::bytea]"]),
    "array_boolean": (pg.ARRAY(sa.Boolean), ["'{t,f,NULL}'"]),
    "array_date": (pg.ARRAY(sa.Date), ["'{2024-02-29,0001-01-01}'"]),
    "array_time": (pg.ARRAY(sa.Time), ["'{12:30,23:59:59.999999}'"]),
    "array_timestamp": (pg.ARRAY(sa.DateTime), ["'{2024-02-29 01:02:03.4}'"]),
    "array_timestamp_zoned": (pg.ARRAY(sa.DateTime(timezone=True)), ["'{2024-02-29 01:02:03.4+05}'"]),
    "array_interval": (pg.ARRAY(sa.Interval), ["ARRAY['-1 day -01:00'::interval]"]),
    "array_uuid": (pg.ARRAY(sa.Uuid), ["'{6f1c2a3e-0b6d-4c58-9b7a-2f1d3c4b5a69,NULL}'"]),
    "array_enum": (pg.ARRAY(_native("color_array")), ["'{red,green}'", "'{}'", "'{red,NULL}'"]),
    "array_jsonb": (pg.ARRAY(pg.JSONB), ["ARRAY['{\"a\": [1, 2.5]}'::jsonb, 'null', NULL]"]),
    "array_json": (pg.ARRAY(sa.JSON), ["ARRAY['{\"a\": 1}'::json]"]),
    "array_tuple": (pg.ARRAY(sa.Integer, as_tuple=True), ["'{1,2}'", "'{{1},{2}}'"]),
    "array_inet": (pg.ARRAY(pg.INET), ["'{10.0.0.1,10.0.0.0/8}'"]),
    "json": (sa.JSON(), [*_JSON, r"E'\"\\u0000\"'", '\'{"b": 1,   "a": 2}\'']),
    "jsonb": (pg.JSONB(), _JSON),
    "inet": (pg.INET(), ["'10.0.0.1'", "'10.1.2.3/8'", "'::1'", "'2001:db8::/32'"]),
    "cidr": (pg.CIDR(), ["'10.0.0.0/8'", "'10.0.0.1/32'", "'2001:db8::/32'"]),
    "macaddr": (pg.MACADDR(), ["'08:00:2b:01:02:03'"]),
    "macaddr8": (pg.MACADDR8(), ["'08:00:2b:01:02:03:04:05'"]),
    "int4range": (pg.INT4RANGE(), ["'[1,5)'", "'empty'", "'(,)'", "'[2,]'"]),
    "int8range": (pg.INT8RANGE(), ["'[1,9223372036854775807)'"]),
    "numrange": (pg.NUMRANGE(), ["'(1.50,2.5]'"]),
    "daterange": (pg.DATERANGE(), ["'[2024-01-01,2024-02-29]'"]),
    "tsrange": (pg.TSRANGE(), ["'[2024-01-01 01:02:03.4,)'"]),
    "tstzrange": (pg.TSTZRANGE(), ["'[2024-01-01 01:02:03.4+02,2024-06-01 00:00+00)'"]),
    "int4multirange": (pg.INT4MULTIRANGE(), ["'{}'", "'{[1,3),[5,9)}'"]),
    "datemultirange": (pg.DATEMULTIRANGE(), ["'{[2024-01-01,2024-02-01)}'"]),
    "bit": (pg.BIT(5), ["B'10110'"]),
    "varbit": (pg.BIT(varying=True), ["B'1'", "B''"]),
    "money": (pg.MONEY(), ["'1234.5'", "'-0.01'"]),
    "oid": (pg.OID(), ["4294967295", "0"]),
    "tsvector": (pg.TSVECTOR(), ["'a:1A ''it''''s'':2,3'::tsvector"]),
    "domain_integer": (pg.DOMAIN("positive", sa.Integer, check="VALUE > 0"), ["7"]),
    "domain_text": (pg.DOMAIN("short text", sa.String(10)), ["'ä\"'"]),
    "domain_json": (pg.DOMAIN("document", sa.JSON), ['\'{"a": 1}\'']),
    "decorated": (Money(), ["7", "-9223372036854775808"]),
    "decorated_null": (Never(), ["'x'"]),
    "decorated_json": (Tags(), ["'[\"a\", \"b\"]'"]),
    "variant": (sa.JSON().with_variant(pg.JSONB(), "postgresql"), _JSON[:2]),
}  # fmt: skip

#: Types that a driver loads in its own way: pg8000 has a class for months, and a wrong sign after a negative hour;
#: asyncpg, up to SQLAlchemy 2.0, a class for bits.
OWN_WAYS: dict[tuple[str, str], type] = {
    ("pg8000", "interval_months"): timedelta,
    ("pg8000", "interval"): timedelta,
    ("pg8000", "interval_fields"): timedelta,
    ("asyncpg", "bit"): str,
    ("asyncpg", "varbit"): str,
}


class Types:
    """A table for each case, watched."""

    def __init__(self, cases: dict[str, tuple[Any, list[str]]]) -> None:
        class Base(DeclarativeBase):
            pass

        self.Base = Base
        self.cases = cases
        self.models: dict[str, Any] = {
            name: type(
                f"Of_{name}",
                (Watched, Base),
                {
                    "__tablename__": f"of_{name}",
                    "__watch__": [Watch("inserted", extra_columns=("value",))],
                    "id": mapped_column(sa.Integer, primary_key=True),
                    "value": mapped_column(kind, nullable=True),
                },
            )
            for name, (kind, _) in cases.items()
        }

    def insert(self, client: psycopg.Connection[Any], names: list[str], first: int) -> None:
        """Insert each case's values and NULL, as ids from `first` on."""
        for name in names:
            values = [*self.cases[name][1], "NULL"]
            rows = ", ".join(f"({first + i}, {value})" for i, value in enumerate(values))
            client.execute(f"INSERT INTO of_{name} (id, value) VALUES {rows}".encode())

    def load(self, session: Session) -> dict[str, dict[int, Any]]:
        session.expunge_all()
        return {
            name: {row.id: row.value for row in session.scalars(select(model)).all()}
            for name, model in self.models.items()
        }


def same(loaded: Any, heard: Any) -> bool:
    """Equal in value and in type, all the way down; NaN is NaN, and -0.0 is not 0.0."""
    if isinstance(loaded, UUID):  # asyncpg has a subclass of its own
        return bool(loaded == heard and isinstance(heard, UUID))
    if type(loaded) is not type(heard):
        return False
    if isinstance(loaded, (list, tuple)):
        return len(loaded) == len(heard) and all(map(same, loaded, heard))
    if isinstance(loaded, dict):
        return list(loaded) == list(heard) and all(same(loaded[key], heard[key]) for key in loaded)
    if isinstance(loaded, float):
        return repr(loaded) == repr(heard)
    if isinstance(loaded, Decimal) and loaded.is_nan():
        return bool(heard.is_nan())
    if isinstance(loaded, (datetime, time)) and (loaded.tzinfo is None) != (heard.tzinfo is None):
        return False
    return bool(loaded == heard)


@pytest.fixture(scope="module")
def types(cluster: Cluster) -> Iterator[Types]:
    with created_database(cluster, "test_values") as name:
        cases = {case: found for case, found in CASES.items() if SINCE.get(case, 0) <= VERSION}
        with cluster.connect(name) as client:
            client.execute('CREATE SCHEMA "odd schema"')
            if client.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'hstore'").fetchone():
                client.execute("CREATE EXTENSION hstore")
                client.execute("CREATE EXTENSION citext")
                cases["hstore"] = (
                    pg.HSTORE(),
                    [r"""hstore(ARRAY['a', 'b c', E'q"\\\\'], ARRAY['1', NULL, 'ä, =>'])""", "''"],
                )
                cases["citext"] = (pg.CITEXT(), _TEXTS)
        types = Types(cases)
        engine = create_engine(cluster.url(name, "psycopg"))
        types.Base.metadata.create_all(engine)
        engine.dispose()
        yield types


@pytest.fixture(
    scope="module",
    params=[driver if driver == "psycopg" else pytest.param(driver, marks=pytest.mark.slow) for driver in DRIVERS],
)
def mismatches(request: pytest.FixtureRequest, cluster: Cluster, types: Types) -> dict[str, Any]:
    """Differences between values loaded by a driver and values heard, by case; rows are written by plain SQL."""
    driver = request.param
    url = cluster.url("test_values", driver)
    recorder = Recorder()
    with cluster.connect("test_values") as client:
        for name in types.cases:
            client.execute(f"TRUNCATE of_{name}")
        engine: Any = create_async_engine(url) if driver == "asyncpg" else create_engine(url)
        for model in types.models.values():
            model.watch.inserted.connect(recorder)
        with Listener(engine, types.Base) as listener:
            types.insert(client, list(types.cases), 1)
            listener.catch_up()
    for model in types.models.values():
        model.watch.inserted.disconnect(recorder)
    heard = {"driver": driver, "base": types.Base, "events": recorder.events}
    return heard | _differences(recorder, _load(engine, types))


def _load(engine: Any, types: Types) -> dict[str, dict[int, Any]]:
    if isinstance(engine, Engine):
        with Session(engine) as session:
            loaded = types.load(session)
        engine.dispose()
        return loaded

    async def load() -> dict[str, dict[int, Any]]:
        async with engine.connect() as connection:
            found: dict[str, dict[int, Any]] = await connection.run_sync(lambda sync: types.load(Session(sync)))
        await engine.dispose()
        return found

    return asyncio.run(load())


def _differences(recorder: Recorder, loaded: dict[str, dict[int, Any]]) -> dict[str, Any]:
    heard = {(event.model.__tablename__, event.identity[0]): event for event in recorder.events}
    found: dict[str, Any] = {}
    for name, values in loaded.items():
        found[name] = []
        for id_, value in values.items():
            event = heard.pop((f"of_{name}", id_))
            if event.partial or not same(value, event.values["value"]):
                found[name].append((value, event))
    assert not heard
    return found


@pytest.mark.parametrize("case", [pytest.param(case, marks=needs(SINCE.get(case, 0), case)) for case in CASES])
def test_carried_value_is_what_loading_gives(mismatches: dict[str, Any], case: str) -> None:
    usual = OWN_WAYS.get((mismatches["driver"], case))
    if usual is None:
        assert mismatches[case] == []
    else:
        assert all(isinstance(event.values["value"], usual) for _, event in mismatches[case])


def test_events_come_back_from_json_and_from_a_pickle_with_every_value_as_it_was(mismatches: dict[str, Any]) -> None:
    own_ways = {f"of_{case}" for driver, case in OWN_WAYS if driver == mismatches["driver"]}
    for event in mismatches["events"]:
        value = event.values["value"]
        if event.model.__tablename__ in own_ways:
            continue
        for again in (Event.from_json(event.to_json(), mismatches["base"]), pickle.loads(pickle.dumps(event))):
            assert same(value, again.values["value"]), (event.model.__tablename__, value, again, event.to_json())
            assert again == event
            assert (again.model, again.identity, again.context) == (event.model, event.identity, event.context)
            assert again.emitted_at == event.emitted_at


def test_extension_types_are_what_loading_gives(mismatches: dict[str, Any]) -> None:
    extensions = {name: found for name, found in mismatches.items() if name not in {*CASES, "driver", "base", "events"}}
    if not extensions:
        pytest.skip("the server comes without the extensions hstore and citext")
    assert all(found == [] for found in extensions.values())


SESSIONS = {
    "dates": "SET DateStyle = 'German, DMY'; SET IntervalStyle = 'iso_8601'",
    "sql": "SET DateStyle = 'SQL, MDY'; SET IntervalStyle = 'sql_standard'",
    "west": "SET TimeZone = 'America/Los_Angeles'",
    "east": "SET TimeZone = 'Pacific/Kiritimati'; SET IntervalStyle = 'postgres_verbose'",
    "forms": "SET extra_float_digits = -15; SET bytea_output = 'escape'; SET xmlbinary = 'hex'",
    "encoding": "SET client_encoding = 'LATIN1'",
}


@pytest.mark.parametrize("session", SESSIONS.values(), ids=[*SESSIONS])
def test_settings_of_the_writers_session_change_no_value(cluster: Cluster, types: Types, session: str) -> None:
    recorder = Recorder()
    engine = create_engine(cluster.url("test_values", "psycopg"))
    with cluster.connect("test_values") as client:
        for name, model in types.models.items():
            client.execute(f"TRUNCATE of_{name}; DROP TABLE IF EXISTS copy_{name}")
            client.execute(f"CREATE TABLE copy_{name} AS SELECT * FROM of_{name}")
            client.execute(f"INSERT INTO copy_{name} VALUES {_rows(types.cases[name][1])}".encode())
            model.watch.inserted.connect(recorder)
        with Listener(engine, types.Base) as listener:
            client.execute(session)
            for name in types.cases:
                client.execute(f"INSERT INTO of_{name} SELECT * FROM copy_{name}")
            listener.catch_up()
    for model in types.models.values():
        model.watch.inserted.disconnect(recorder)
    differences = _differences(recorder, _load(engine, types))
    assert {name: found for name, found in differences.items() if found} == {}


def test_literals_hold_where_backslashes_escape(
    engine: Engine, client: Any, Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    class User(Watched, Base):
        __tablename__ = "users\\'"
        __watch__ = [Watch("inserted", extra_columns=("name", "data"))]
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column("na\\'me")
        data: Mapped[bytes]

    Base.metadata.create_all(engine)
    User.watch.inserted.connect(recorder)
    with Listener(engine, Base) as listener:
        client.execute("SET standard_conforming_strings = off; SET escape_string_warning = off")
        client.execute('INSERT INTO "users\\\'" VALUES (1, %s, %s)', ["a\\b'c", b"\\\x00"])
        listener.catch_up()
    assert [event.values["name"] for event in recorder.events] == ["a\\b'c"]
    assert [event.values["data"] for event in recorder.events] == [b"\\\x00"]


def _rows(values: list[str]) -> str:
    return ", ".join(f"({id_}, {value})" for id_, value in enumerate([*values, "NULL"], 1))


def test_json_deserializer_of_the_engine_is_used(
    cluster: Cluster, database: str, Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = [Watch("inserted", extra_columns=("body", "bodies"))]
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[Any] = mapped_column(pg.JSONB)
        bodies: Mapped[Any] = mapped_column(pg.ARRAY(sa.JSON))

    def deserialize(value: str | bytes) -> Any:
        return json.loads(value, parse_float=Decimal)

    engine = create_engine(cluster.url(database, "psycopg"), json_deserializer=deserialize)
    Base.metadata.create_all(engine)
    Order.watch.inserted.connect(recorder)
    with Listener(engine, Base) as listener, Session(engine) as session:
        session.execute(text("INSERT INTO orders VALUES (1, '[0.1]', ARRAY['0.2']::json[])"))
        session.commit()
        listener.catch_up()
        order = session.get_one(Order, 1)
        assert same(order.body, recorder.events[0].values["body"])
        assert same(order.body, [Decimal("0.1")])
        assert same(order.bodies, recorder.events[0].values["bodies"])
    engine.dispose()


@pytest.mark.parametrize("native", [True, False, None])
def test_native_inet_types_of_the_engine_are_respected(
    cluster: Cluster, database: str, Base: type[DeclarativeBase], recorder: Recorder, native: bool | None
) -> None:
    class Host(Watched, Base):
        __tablename__ = "hosts"
        __watch__ = [Watch("inserted", extra_columns=("net",))]
        address: Mapped[Any] = mapped_column(pg.INET, primary_key=True)
        net: Mapped[Any] = mapped_column(pg.CIDR)

    engine = create_engine(cluster.url(database, "psycopg"), native_inet_types=native)
    Base.metadata.create_all(engine)
    Host.watch.inserted.connect(recorder)
    with Listener(engine, Base) as listener, Session(engine) as session:
        session.execute(text("INSERT INTO hosts VALUES ('10.0.0.1', '10.0.0.0/8')"))
        session.commit()
        listener.catch_up()
        loaded = session.scalars(select(Host)).one()
        assert same((loaded.address, loaded.net), tuple(recorder.events[0].values.values()))
        assert recorder.events[0].load(session) is loaded
    engine.dispose()


KEYS: dict[str, tuple[Any, list[Any]]] = {
    "uuid": (sa.Uuid(), [UUID(int=0), UUID(int=2**128 - 1)]),
    "text": (sa.Text(), ["", "a'b\"c\\d", "🙂\n\t\x01", "%s :name {}", "null"]),
    "char": (sa.CHAR(4), ["a", "ä"]),
    "date": (sa.Date(), [date(1, 1, 1), date(9999, 12, 31)]),
    "timestamp": (sa.DateTime(timezone=True), [datetime.fromisoformat("2024-06-30T12:34:56.000001+05:45")]),
    "numeric": (sa.Numeric(30, 10), [Decimal("-1.0000000001"), Decimal("12345678901234567890.5")]),
    "bytes": (sa.LargeBinary(), [bytes(range(256)), b""]),
    "enum": (sa.Enum(Color, name="color"), [Color.red, Color.green]),
    "bigint": (sa.BigInteger(), [-(2**63), 2**63 - 1]),
    "boolean": (sa.Boolean(), [True, False]),
    "float": (sa.Float(), [0.1, math.inf]),
    "interval": (sa.Interval(), [timedelta(days=-1, microseconds=1)]),
    "array": (pg.ARRAY(sa.Integer, as_tuple=True), [(1, 2)]),
    "decorated": (Money(), [("EUR", 7)]),
}


@pytest.mark.parametrize("level", ["statement", "row"])
@pytest.mark.parametrize("second", [False, True], ids=["single", "composite"])
@pytest.mark.parametrize("case", [*KEYS])
def test_key_of_any_type_is_the_loaded_identity(
    engine: Engine, Base: type[DeclarativeBase], recorder: Recorder, case: str, second: bool, level: Any
) -> None:
    kind, keys = KEYS[case]

    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = [
            Watch("inserted", level=level),
            Watch("updated", old=True, extra_columns=("number",), level=level),
            Watch("deleted", level=level),
        ]
        key: Mapped[Any] = mapped_column(kind, primary_key=True, autoincrement=False)
        if second:
            other: Mapped[str] = mapped_column(primary_key=True, default="ö'\"")
        number: Mapped[int | None]

    Base.metadata.create_all(engine)
    Item.watch.connect(recorder)
    with Listener(engine, Base) as listener, Session(engine) as session:
        for key in keys:
            session.add(Item(key=key))
            session.commit()
        session.execute(sa.update(Item).values(number=1))
        session.commit()
        items = list(session.scalars(select(Item)))
        listener.catch_up()
        identities: list[Any] = [sa.inspect(item).identity for item in items]
        inserted = [event for event in recorder.events if event.label == "inserted"]
        updated = [event for event in recorder.events if event.label == "updated"]
        assert _same_keys([event.identity for event in inserted], identities)
        assert {event.load(session) for event in updated} == set(items)
        assert [event.changed for event in updated] == [{"number"}] * len(keys)
        session.execute(sa.delete(Item))
        session.commit()
        listener.catch_up()
    deleted = [event.identity for event in recorder.events if event.label == "deleted"]
    assert _same_keys(deleted, identities)


def _same_keys(heard: list[Any], loaded: list[Any]) -> bool:
    return len(heard) == len(loaded) and all(any(same(key, other) for other in heard) for key in loaded)


UNHOLDABLE: dict[str, tuple[Any, list[str]]] = {
    "date": (sa.Date(), ["'infinity'", "'-infinity'", "'20000-01-01'", "'0044-03-15 BC'"]),
    "timestamp": (sa.DateTime(), ["'infinity'", "'20000-01-01'", "'0044-03-15 BC'"]),
    "zoned": (sa.DateTime(timezone=True), ["'infinity'", "'294276-12-31'", "'0044-03-15 BC'"]),
    "time": (sa.Time(), ["'24:00'"]),
    "array": (pg.ARRAY(sa.Date), ["'{infinity}'"]),
    "range": (pg.DATERANGE(), ["'[2024-01-01,20000-01-01)'"]),
    "enum": (sa.Enum("a", "b", name="ab", native_enum=False, create_constraint=False, length=9), ["'unknown'"]),
    "json": (sa.JSON(), ["('[' || repeat('9', 5000) || ']')::json"]),
}  # fmt: skip


@pytest.mark.parametrize("case", [*UNHOLDABLE])
def test_value_that_python_cannot_hold_makes_the_event_partial(
    engine: Engine, client: Any, Base: type[DeclarativeBase], recorder: Recorder, case: str
) -> None:
    kind, values = UNHOLDABLE[case]

    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = [Watch("inserted", extra_columns=("value",)), Watch("updated", extra_columns=("value",), old=True)]
        id: Mapped[int] = mapped_column(primary_key=True)
        value: Mapped[Any] = mapped_column(kind, nullable=True)

    Base.metadata.create_all(engine)
    Item.watch.connect(recorder)
    with Listener(engine, Base) as listener:
        client.execute(f"INSERT INTO items (id, value) VALUES (0, NULL), {_rows(values)[: -len(', (0, NULL)')]}")
        client.execute("UPDATE items SET value = NULL")
        listener.catch_up()
        assert listener.stats().garbage == listener.stats().resyncs == 0
    count = len(values)
    inserted, updated = recorder.events[: count + 1], recorder.events[count + 1 :]
    assert [(e.identity, e.partial) for e in inserted] == [((i,), i > 0) for i in range(count + 1)]
    assert "value" not in inserted[1].values
    assert sorted(e.identity for e in updated) == [(i,) for i in range(count + 1)]


def test_key_that_python_cannot_hold_asks_to_resync(
    engine: Engine, client: Any, Base: type[DeclarativeBase], recorder: Recorder
) -> None:
    class Day(Watched, Base):
        __tablename__ = "days"
        __watch__ = ("inserted",)
        day: Mapped[date] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    Day.watch.inserted.connect(recorder)
    with Listener(engine, Base) as listener:
        reasons = resync_reasons(listener)
        client.execute("INSERT INTO days VALUES ('infinity'), ('2024-01-01')")
        listener.catch_up()
    assert recorder.heard() == [("inserted", (date(2024, 1, 1),))]
    assert reasons == ["a row could not be decoded"]


def test_pickles_are_refused_since_anybody_can_notify(Base: type[DeclarativeBase]) -> None:
    for kind in (sa.PickleType(), type("Own", (sa.PickleType,), {"cache_ok": True})()):
        with pytest.raises(ConfigurationError, match="pickle"):
            type(
                f"User{type(kind).__name__}",
                (Watched, Base),
                {
                    "__tablename__": f"users_{type(kind).__name__}",
                    "__watch__": [Watch("inserted", extra_columns=("body",))],
                    "id": mapped_column(sa.Integer, primary_key=True),
                    "body": mapped_column(kind),
                },
            )


_texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)
_floats = st.floats(allow_nan=True)
COLUMNS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "small": (sa.SmallInteger(), st.integers(-(2**15), 2**15 - 1)),
    "big": (sa.BigInteger(), st.integers(-(2**63), 2**63 - 1)),
    "number": (sa.Numeric(30, 10), st.decimals(-(10**19), 10**19, places=10)),
    "real_": (sa.Double(), _floats),
    "text_": (sa.Text(), _texts),
    "bytes_": (sa.LargeBinary(), st.binary(max_size=40)),
    "flag": (sa.Boolean(), st.booleans()),
    "day": (sa.Date(), st.dates()),
    "clock": (sa.Time(), st.times()),
    "stamp": (sa.DateTime(), st.datetimes()),
    "zoned": (sa.DateTime(timezone=True), st.datetimes(timezones=st.timezones())),
    "span": (sa.Interval(), st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6))),
    "uuid_": (sa.Uuid(), st.uuids()),
    "color": (sa.Enum(Color, name="color"), st.sampled_from(Color)),
    "texts": (pg.ARRAY(sa.Text), st.lists(st.none() | _texts, max_size=4)),
    "floats": (pg.ARRAY(sa.Double), st.lists(_floats, max_size=4)),
    "stamps": (pg.ARRAY(sa.DateTime(timezone=True)), st.lists(st.datetimes(timezones=st.timezones()), max_size=3)),
    "document": (sa.JSON(), _json),
    "documentb": (pg.JSONB(), _json),
    "inet_": (pg.INET(), st.ip_addresses()),
}  # fmt: skip


@pytest.fixture(scope="module")
def anything(cluster: Cluster) -> Iterator[tuple[Engine, Any, Listener, Recorder]]:
    """A table with a column of every type, and a listener."""
    name = "test_any_values"
    with cluster.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")

    class Base(DeclarativeBase):
        pass

    columns = {name: mapped_column(kind, nullable=True) for name, (kind, _) in COLUMNS.items()}
    watches = [
        Watch("inserted", extra_columns=tuple(COLUMNS)),
        Watch("updated", extra_columns=tuple(COLUMNS), old=True),
    ]
    members = {"__tablename__": "items", "__watch__": watches, "id": mapped_column(sa.Integer, primary_key=True)}
    Item: Any = type("Item", (Watched, Base), members | columns)
    engine = create_engine(cluster.url(name, "psycopg"))
    Base.metadata.create_all(engine)
    recorder = Recorder()
    Item.watch.connect(recorder)
    with Listener(engine, Base) as listener:
        yield engine, Item, listener, recorder
    engine.dispose()
    with cluster.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


_rows_of_anything = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in COLUMNS.items()})


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(before=_rows_of_anything, after=_rows_of_anything)
def test_any_row_is_heard_as_it_is_loaded(anything: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    engine, Item, listener, recorder = anything
    recorder.events.clear()
    with Session(engine) as session:
        item = Item(**before)
        session.add(item)
        session.commit()
        first = {name: getattr(item, name) for name in COLUMNS}
        for name, value in after.items():
            setattr(item, name, value)
        sa.orm.attributes.flag_modified(item, "text_")
        session.commit()
        second = {name: getattr(item, name) for name in COLUMNS}
        session.delete(item)
        session.commit()
    listener.catch_up()
    inserted, updated = recorder.events
    for event, loaded in ((inserted, first), (updated, second)):
        wrong = {
            name: (value, event.values[name]) for name, value in loaded.items() if not same(value, event.values[name])
        }
        assert not event.partial
        assert not wrong
    wrong = {name: (value, updated.old[name]) for name, value in first.items() if not same(value, updated.old[name])}
    assert not wrong
