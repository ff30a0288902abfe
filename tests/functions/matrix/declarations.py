"""The models of the matrix: each variant of delivery and level declares all of them alike."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ForeignKey, text
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched
from sqlalchemy_watch.declaring.spec import DELIVERIES, LEVELS, Delivery, Level


class Variant(NamedTuple):
    """How all watches are declared."""

    delivery: Delivery
    level: Level

    @property
    def routes(self) -> tuple[Literal["notified", "logged"], ...]:
        """The ways in which it is heard."""
        return ("notified",) * (self.delivery != "durable") + ("logged",) * (self.delivery != "notify")

    def heard_by(self, route: str) -> str:
        """Who hears it by this route, in the golden files."""
        return f"{self.delivery} {self.level} {route}"

    def __str__(self) -> str:
        return f"{self.delivery}-{self.level}"


VARIANTS = [Variant(delivery, level) for level in LEVELS for delivery in DELIVERIES]

#: Columns of every type that has an encoding of its own, and of some that have none, by attribute.
TYPES: dict[str, Any] = {
    "small": sa.SmallInteger(), "number": sa.Integer(), "big": sa.BigInteger(), "flag": sa.Boolean(),
    "amount": sa.Numeric(), "price": sa.Numeric(10, 2), "ratio": sa.Double(), "rough": sa.REAL(),
    "words": sa.Text(), "short": sa.String(20), "padded": sa.CHAR(5), "token": sa.Uuid(),
    "day": sa.Date(), "moment": sa.DateTime(), "instant": sa.DateTime(timezone=True), "clock": sa.Time(),
    "span": sa.Interval(), "data": sa.LargeBinary(), "document": sa.JSON(), "tree": pg.JSONB(),
    "numbers": pg.ARRAY(sa.Integer), "names": pg.ARRAY(sa.Text), "color": sa.Enum("red", "green", "it's", name="color"),
    "address": pg.INET(), "network": pg.CIDR(), "hardware": pg.MACADDR(), "bits": pg.BIT(4), "reach": pg.INT4RANGE(),
}  # fmt: skip

#: A table name, a schema and column names that need quotes, or mean something else in a function.
HOSTILE_SCHEMA = 'Ware "house"'
HOSTILE_TABLE = "Order's \\ lines"
HOSTILE_NAMES = [
    "r", "o", "w", "p", "j", "q", "k0", "new", "old", "watch", "watch_new", "watch_old", "watch_rows", "watch_piece",
    "watch_head", "tg_op", "order", "select", "Mixed Case", "größe", "名前", 'quo"ted', "it's", "per%cent", "co:lon",
    "back\\slash", "--", "/*", "$1", "values", "row", "text", "count", "pg_catalog", "two\nlines",
]  # fmt: skip

#: PL/pgSQL's own words. `loop` is left out: with it no function can be made as yet.
KEYWORDS = ("begin", "by", "declare", "execute", "foreach", "if", "strict", "while")


def declare(variant: Variant) -> tuple[type[DeclarativeBase], list[Any]]:
    """Declare the models of the matrix; return their base, and those that are watched."""

    class Base(DeclarativeBase):
        metadata = sa.MetaData(info={"sqlalchemy_watch_delivery": variant.delivery})

    def on(operation: Any, label: str | None = None, **options: Any) -> Watch:
        return Watch(operation, label=label, level=None if operation == "truncated" else variant.level, **options)

    declaring = (
        _rows, _long_rows, _types, _keys, _joined, _joined_in_a_schema, _single_table, _hostile_names, _conditions,
        _triggers, _partitions, _faults, _stored_bytes, _retyped, _references, _steps,
    )  # fmt: skip
    return Base, [model for declare_some in declaring for model in declare_some(Base, on)]


def _rows(Base: Any, on: Any) -> list[Any]:
    class Item(Watched, Base):
        __tablename__ = "items"
        __watch__ = [
            on("inserted", extra_columns=("name", "total")),
            on("updated"),
            on("deleted"),
            on("truncated"),
            on("inserted", "large", when=lambda old, new: new.total > 10),
            on("updated", "told", extra_columns=("name", "total"), old=True),
            on("updated", "renamed", trigger_columns=("name",), extra_columns=("name",), old=True),
            on("updated", "touched", trigger_columns=("name", "total")),
            on("updated", "raised", when=lambda old, new: new.total > old.total, extra_columns=("total",)),
            on("updated", "high", when=lambda old, new: new.total > 10),
            on("updated", "renamed_and_raised", trigger_columns=("name",), when=lambda old, new: new.total > old.total),
            on("deleted", "lost", when=lambda old, new: old.total > 10, old=True, extra_columns=("total",)),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        name: Mapped[str | None]
        total: Mapped[int] = mapped_column(server_default="0")

    class Big(Watched, Base):
        __tablename__ = "bigs"
        __watch__ = [
            on("inserted", extra_columns=("name",)),
            on("updated", "renamed", trigger_columns=("name",), old=True),
            on("deleted", "odd", when=lambda old, new: old.id % 2 == 1),
        ]
        id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
        name: Mapped[str]

    return [Item, Big]


def _long_rows(Base: Any, on: Any) -> list[Any]:
    class Document(Watched, Base):
        __tablename__ = "documents"
        __watch__ = [
            on("inserted", extra_columns=("title", "body")),
            on("updated", extra_columns=("body",)),
            on("updated", "rewritten", trigger_columns=("body",), extra_columns=("title",), old=True),
            on("deleted", extra_columns=("body",), when=lambda old, new: old.title.is_(None), label="untitled"),
            on("deleted", extra_columns=("body",)),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        title: Mapped[str | None]
        body: Mapped[str]

    class Tag(Watched, Base):
        __tablename__ = "tags"
        __watch__ = [
            on("inserted", extra_columns=("note",)),
            on("updated", extra_columns=("note",), old=True),
            on("deleted"),
        ]
        name: Mapped[str] = mapped_column(primary_key=True)
        note: Mapped[str] = mapped_column(server_default="")

    return [Document, Tag]


def _types(Base: Any, on: Any) -> list[Any]:
    # Some columns for each watch: events with all of them could not be read.
    groups = [tuple(TYPES)[start : start + 7] for start in range(0, len(TYPES), 7)]
    watches: list[Any] = [on("updated", "any", trigger_columns=tuple(TYPES))]
    for number, names in enumerate(groups):
        watches += [
            on("inserted", f"inserted_{number}", extra_columns=names),
            on("updated", f"updated_{number}", extra_columns=names, trigger_columns=names, old=True),
            on("deleted", f"deleted_{number}", extra_columns=names, old=True),
        ]
    members = {
        "__tablename__": "specimens",
        "__watch__": watches,
        "id": mapped_column(sa.Integer, primary_key=True, autoincrement=False),
    }
    return [type("Specimen", (Watched, Base), members | {name: mapped_column(kind) for name, kind in TYPES.items()})]


def _keys(Base: Any, on: Any) -> list[Any]:
    class Line(Watched, Base):
        __tablename__ = "lines"
        __watch__ = [
            on("inserted", extra_columns=("note",)),
            on("updated", extra_columns=("note",), old=True),
            on("updated", "noted", trigger_columns=("note",), when=lambda old, new: old.note.is_not(None)),
            on("deleted", extra_columns=("note",)),
        ]
        order_id: Mapped[int] = mapped_column("order", primary_key=True)
        number: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
        kind: Mapped[str] = mapped_column(primary_key=True)
        note: Mapped[str | None]

    class Account(Watched, Base):
        __tablename__ = "accounts"
        __watch__ = ["inserted", on("updated", "balanced", trigger_columns=("balance",), old=True), "deleted"]
        token: Mapped[str] = mapped_column(sa.Uuid(as_uuid=False), primary_key=True)
        day: Mapped[Any] = mapped_column(sa.Date, primary_key=True)
        balance: Mapped[Any] = mapped_column(sa.Numeric, server_default="0")

    return [Line, Account]


def _joined(Base: Any, on: Any) -> list[Any]:
    class Animal(Watched, Base):
        __tablename__ = "animals"
        __watch__ = [
            on("inserted", extra_columns=("name",)),
            on("updated"),
            on("updated", "renamed", trigger_columns=("name",), extra_columns=("name",), old=True),
            on("deleted"),
        ]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        kind: Mapped[str]
        name: Mapped[str | None]

    class Dog(Animal):
        __tablename__ = "dogs"
        __watch__ = [
            *Animal.__watch__,
            on("updated", "bred", trigger_columns=("breed",), extra_columns=("breed",), old=True,
               when=lambda old, new: new.breed != "mixed"),
        ]  # fmt: skip
        __mapper_args__ = {"polymorphic_identity": "dog"}
        id: Mapped[int] = mapped_column(ForeignKey("animals.id", ondelete="CASCADE"), primary_key=True)
        breed: Mapped[str | None]

    class Puppy(Dog):
        __tablename__ = "puppies"
        __mapper_args__ = {"polymorphic_identity": "puppy"}
        puppy_id: Mapped[int] = mapped_column("dog", ForeignKey("dogs.id", ondelete="CASCADE"), primary_key=True)
        toy: Mapped[str | None]

    return [Animal, Dog, Puppy]


def _joined_in_a_schema(Base: Any, on: Any) -> list[Any]:
    class Vehicle(Watched, Base):
        __tablename__ = "vehicles"
        __table_args__ = {"schema": "garage"}
        __watch__ = [on("inserted"), on("updated", extra_columns=("wheels",)), on("deleted")]
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": 1}
        country: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[int]
        wheels: Mapped[int] = mapped_column(server_default="4")

    class Truck(Vehicle):
        __tablename__ = "trucks"
        __table_args__ = (
            sa.ForeignKeyConstraint(["country", "number"], ["garage.vehicles.country", "garage.vehicles.number"]),
            {"schema": "garage"},
        )
        __watch__ = [*Vehicle.__watch__, on("updated", "loaded", trigger_columns=("load",), old=True)]
        __mapper_args__ = {"polymorphic_identity": 2}
        country: Mapped[str] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(primary_key=True)
        load: Mapped[Any] = mapped_column(sa.Numeric, server_default="0")

    return [Vehicle, Truck]


def _single_table(Base: Any, on: Any) -> list[Any]:
    class Rank(enum.Enum):
        employee = 1
        manager = 2

    class Employee(Watched, Base):
        __tablename__ = "employees"
        __watch__ = [
            on("inserted", extra_columns=("name",)),
            on("updated", extra_columns=("name",), old=True),
            on("deleted", extra_columns=("name",), old=True),
        ]
        __mapper_args__ = {"polymorphic_on": "rank", "polymorphic_identity": Rank.employee}
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        rank: Mapped[Any] = mapped_column(sa.Enum(Rank, name="rank"))
        name: Mapped[str]

    class Manager(Employee):
        __watch__ = [*Employee.__watch__, on("updated", "budgeted", trigger_columns=("budget",), old=True)]
        __mapper_args__ = {"polymorphic_identity": Rank.manager}
        budget: Mapped[int | None]

    return [Employee, Manager]


def _hostile_names(Base: Any, on: Any) -> list[Any]:
    attributes = [f"a{number}" for number in range(len(HOSTILE_NAMES))]
    members: dict[str, Any] = {
        "__tablename__": HOSTILE_TABLE,
        "__table_args__": {"schema": HOSTILE_SCHEMA},
        "__watch__": [
            on("inserted", extra_columns=tuple(attributes)),
            on("updated", "größer", extra_columns=tuple(attributes), trigger_columns=tuple(attributes), old=True,
               when=lambda old, new: new.a0 >= old.a0),
            on("deleted"),
            on("truncated"),
        ],
        "k1": mapped_column("id", sa.Integer, primary_key=True, autoincrement=False),
        "k2": mapped_column("per cent %s", sa.Text, primary_key=True),
    }  # fmt: skip
    columns = {a: mapped_column(name, sa.Integer) for a, name in zip(attributes, HOSTILE_NAMES, strict=True)}
    keywords: dict[str, Any] = {
        "__tablename__": "keywords",
        "__watch__": [
            on("inserted", extra_columns=KEYWORDS),
            on("updated", extra_columns=KEYWORDS, trigger_columns=KEYWORDS, old=True, label="changed"),
            on("deleted", extra_columns=KEYWORDS),
        ],
        "id": mapped_column(sa.Integer, primary_key=True, autoincrement=False),
    }
    words = {word: mapped_column(sa.Text) for word in KEYWORDS}
    return [type("Hostile", (Watched, Base), members | columns), type("Keyword", (Watched, Base), keywords | words)]


_VIPS = sa.table("vips", sa.column("id", sa.Integer), schema="public")

#: Conditions over the new row, by label.
CONDITIONS: dict[str, Any] = {
    "added_first": lambda row: (row.a + row.b) * 3 == 9,
    "multiplied_first": lambda row: row.a + row.b * 3 == 7,
    "subtracted_in_order": lambda row: row.a - (row.b - 1) > 0,
    "divided": lambda row: row.a / 2 >= 1,
    "remainder": lambda row: row.a % 2 == 1,
    "negated": lambda row: -row.a < 0,
    "and_or": lambda row: (row.a > 0) & (row.b > 0) | (row.s == "x"),
    "or_and": lambda row: (row.a > 0) & ((row.b > 0) | (row.s == "x")),
    "no": lambda row: ~((row.a > 1) | (row.b > 1)),
    "among": lambda row: row.a.in_([1, 3, -1]),
    "not_among": lambda row: row.a.not_in([1, 3]),
    "among_none": lambda row: row.a.in_([]),
    "among_texts": lambda row: row.s.in_(["x", "it's", "back\\slash"]),
    "pairs": lambda row: sa.tuple_(row.a, row.b).in_([(1, 2), (3, 0)]),
    "between": lambda row: row.a.between(1, 2),
    "not_between": lambda row: ~row.a.between(1, 2),
    "like": lambda row: row.s.like("%x%"),
    "not_like": lambda row: row.s.not_like("_x"),
    "escaped": lambda row: row.s.startswith("50%", autoescape=True),
    "ignoring_case": lambda row: row.s.ilike("X%"),
    "matching": lambda row: row.s.regexp_match("^[a-x]+$"),
    "joined": lambda row: row.s + "y" == "xy",
    "null": lambda row: row.s.is_(None),
    "not_null": lambda row: row.s.is_not(None),
    "distinct": lambda row: row.a.is_distinct_from(row.b),
    "not_distinct": lambda row: row.a.is_not_distinct_from(row.b),
    "cases": lambda row: sa.case((row.a > 1, row.b), (row.b > 1, row.a), else_=0) == 1,
    "case_of": lambda row: sa.case({1: "one", 2: "two"}, value=row.a, else_="many") == "two",
    "nullif": lambda row: sa.func.nullif(row.a, 1).is_(None),
    "coalesced": lambda row: sa.func.coalesce(row.a, row.b, 7) == 7,
    "lower": lambda row: sa.func.lower(row.s) == "x",
    "cast": lambda row: sa.cast(row.s, sa.Text) < sa.cast(row.a, sa.Text),
    "any": lambda row: row.a == sa.any_(sa.literal([1, 2], pg.ARRAY(sa.Integer))),
    "later": lambda row: row.t > datetime(2024, 1, 1),
    "flag": lambda row: row.f,
    "no_flag": lambda row: ~row.f,
    "exists": lambda row: sa.exists().where(_VIPS.c.id == row.a),
    "text": lambda row: text("1 / 1 = 1"),
}

#: Conditions over both rows.
COMPARISONS: dict[str, Any] = {
    "grown": lambda old, new: new.a > old.a,
    "changed_or_null": lambda old, new: (new.s != old.s) | old.s.is_(None),
    "sum_kept": lambda old, new: new.a + new.b * 2 == old.a + old.b * 2,
    "moved_in": lambda old, new: new.a.in_([1, 2]) & ~old.a.in_([1, 2]),
    "swapped": lambda old, new: sa.tuple_(new.a, new.b) == sa.tuple_(old.b, old.a),
    "was": lambda old, new: old.s.between("a", "x"),
}


def _conditions(Base: Any, on: Any) -> list[Any]:
    def of_new(condition: Any) -> Any:
        return lambda old, new: condition(new)

    def of_old(condition: Any) -> Any:
        return lambda old, new: condition(old)

    class Case(Watched, Base):
        __tablename__ = "cases"
        __watch__ = [
            *(on("inserted", label, when=of_new(condition)) for label, condition in CONDITIONS.items()),
            *(on("updated", label, when=condition) for label, condition in COMPARISONS.items()),
            *(on("deleted", f"{label}_gone", when=of_old(CONDITIONS[label])) for label in ("and_or", "among", "like")),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        a: Mapped[int | None]
        b: Mapped[int | None]
        s: Mapped[str | None]
        t: Mapped[Any] = mapped_column(sa.DateTime, nullable=True)
        f: Mapped[bool | None]

    return [Case]


def _triggers(Base: Any, on: Any) -> list[Any]:
    class Gate(Watched, Base):
        __tablename__ = "gates"
        __watch__ = [
            on("inserted", extra_columns=("number",)),
            on("updated", extra_columns=("number",), old=True),
            on("deleted", extra_columns=("number",)),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        number: Mapped[int]

    class Passage(Watched, Base):
        __tablename__ = "passages"
        __watch__ = [on("inserted", extra_columns=("gate", "number"))]
        id: Mapped[int] = mapped_column(primary_key=True)
        gate: Mapped[int]
        number: Mapped[int]

    return [Gate, Passage]


def _partitions(Base: Any, on: Any) -> list[Any]:
    class Visit(Watched, Base):
        __tablename__ = "visits"
        __table_args__ = {"postgresql_partition_by": "LIST (country)"}
        __watch__ = ["inserted", Watch("updated", extra_columns=("pages",), old=True), "deleted", "truncated"]
        id: Mapped[int] = mapped_column(primary_key=True)
        country: Mapped[str] = mapped_column(primary_key=True)
        pages: Mapped[int] = mapped_column(server_default="0")

    return [Visit]


def _faults(Base: Any, on: Any) -> list[Any]:
    class Fault(Watched, Base):
        __tablename__ = "faults"
        __watch__ = [
            on("inserted", extra_columns=("n",)),
            on("inserted", "divided", when=lambda old, new: 100 / new.n > 10),
            on("updated", "told", extra_columns=("n",), old=True),
            on("updated", "divided_again", when=lambda old, new: 100 / new.n > 100 / old.n),
            on("deleted", extra_columns=("n",), old=True),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        n: Mapped[int]

    return [Fault]


def _stored_bytes(Base: Any, on: Any) -> list[Any]:
    columns = {
        "amount": sa.Numeric(), "ratio": sa.Double(), "span": sa.Interval(), "amounts": pg.ARRAY(sa.Numeric),
        "tree": pg.JSONB(), "document": sa.JSON(), "words": sa.Text(),
    }  # fmt: skip

    members = {
        "__tablename__": "measures",
        "__watch__": [
            on("updated", "changed", trigger_columns=tuple(columns)),
            on("updated", "told", extra_columns=tuple(columns), old=True),
        ],
        "id": mapped_column(sa.Integer, primary_key=True, autoincrement=False),
    }
    return [type("Measure", (Watched, Base), members | {name: mapped_column(kind) for name, kind in columns.items()})]


def _retyped(Base: Any, on: Any) -> list[Any]:
    """Each is of a single part: sessions keep the types of a row that they saw first."""

    class Person(Watched, Base):
        __tablename__ = "people"
        __watch__ = [
            on("inserted", extra_columns=("name",)),
            on("updated", extra_columns=("name",), old=True),
            on("updated", "renamed", trigger_columns=("name",)),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        name: Mapped[str] = mapped_column(sa.Text)

    class Reading(Watched, Base):
        __tablename__ = "readings"
        __watch__ = [
            on("inserted", extra_columns=("number",)),
            on("updated", extra_columns=("number",), old=True),
            on("deleted", extra_columns=("number",)),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        number: Mapped[int]

    return [Person, Reading]


def _references(Base: Any, on: Any) -> list[Any]:
    class City(Watched, Base):
        __tablename__ = "cities"
        __watch__ = [on("updated"), on("deleted")]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)

    class Route(Watched, Base):
        __tablename__ = "routes"
        __watch__ = [
            on("updated", extra_columns=("start", "end"), old=True),
            on("updated", "redirected", trigger_columns=("start", "end")),
            on("deleted", extra_columns=("home",)),
        ]
        id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
        start: Mapped[int | None] = mapped_column(ForeignKey(City.id, ondelete="SET NULL", onupdate="CASCADE"))
        end: Mapped[int | None] = mapped_column(ForeignKey(City.id, ondelete="SET NULL", onupdate="CASCADE"))
        home: Mapped[int | None] = mapped_column(ForeignKey(City.id, ondelete="CASCADE", onupdate="CASCADE"))

    return [City, Route]


def _steps(Base: Any, on: Any) -> list[Any]:
    class StepEnd(Watched, Base):
        """A row for each step of the workload, which tells in the stream of events where it ends."""

        __tablename__ = "steps"
        __watch__ = ["inserted"]
        id: Mapped[int] = mapped_column(primary_key=True)

    return [StepEnd]
