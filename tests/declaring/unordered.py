"""Models whose watches are declared with sets; run as a program, it writes the functions' text and their states.

Where a database is named, the first process of several makes the triggers.
"""

from __future__ import annotations

import enum
import json
import sys
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Watch, Watched, status, watch
from sqlalchemy_watch.declaring.targets import watches_of
from sqlalchemy_watch.functions.body import function_body

NAMES = frozenset({"ant", "bee", "cat", "it's", "zebra", "100%"})


class Kind(enum.Enum):
    FIRST = 1
    SECOND = 2
    THIRD = 3


class Base(DeclarativeBase):
    pass


class Columns:
    id: Mapped[int] = mapped_column(primary_key=True)
    zulu: Mapped[str] = mapped_column("z")
    alpha: Mapped[str]
    mike: Mapped[str]
    number: Mapped[int]
    kind: Mapped[Kind]
    tags: Mapped[list[str]] = mapped_column(pg.ARRAY(sa.Text))


CONDITIONS: dict[str, Any] = {
    "in_set": lambda o, n: n.alpha.in_(NAMES),
    "in_generator": lambda o, n: n.alpha.in_(name for name in NAMES),
    "not_in": lambda o, n: n.alpha.not_in(set(NAMES)),
    "numbers": lambda o, n: n.number.in_({1, 10, 2, 2**40, -1}),
    "enums": lambda o, n: n.kind.in_({Kind.THIRD, Kind.FIRST, Kind.SECOND}),
    "tuples": lambda o, n: sa.tuple_(n.alpha, n.mike).in_({(a, b) for a in NAMES for b in NAMES}),
    "expressions": lambda o, n: n.alpha.in_({n.mike, n.zulu, sa.func.lower(n.mike), sa.literal("x")}),
    "any_array": lambda o, n: n.alpha == sa.any_(pg.array(NAMES)),
    "any_list": lambda o, n: n.alpha == sa.any_(sa.literal(list(NAMES), pg.ARRAY(sa.Text))),
    "all_array": lambda o, n: n.alpha != sa.all_(pg.array(NAMES)),
    "overlap": lambda o, n: n.tags.overlap(pg.array(NAMES)) | n.tags.contained_by(pg.array(NAMES)),
    "set_as_array": lambda o, n: n.tags == sa.literal(NAMES, pg.ARRAY(sa.Text)),
    "expanding": lambda o, n: sa.text("alpha IN :names").bindparams(sa.bindparam("names", list(NAMES), expanding=True)),
    "nested": lambda o, n: sa.or_(n.number > 1, sa.and_(n.alpha.in_(NAMES), ~n.mike.in_(NAMES | {"dog"}))),
    "subquery": lambda o, n: sa.exists().where(Other.__table__.c.id.in_({n.number, n.id}), Other.alpha.in_(NAMES)),
    "in_case": lambda o, n: sa.case((n.alpha.in_(NAMES), 1), else_=0) == 1,
}


class Other(Columns, Base):
    __tablename__ = "other"


class Sets(Watched, Columns, Base):
    __tablename__ = "sets"
    __watch__ = {
        "inserted",
        "deleted",
        Watch("updated", label="changed", trigger_columns={"zulu", "alpha", "mike", "number"}),
        Watch("updated", label="carried", extra_columns=frozenset({"zulu", "alpha", "mike", "number"}), old=True),
        Watch(
            "updated", label="rows", level="row", extra_columns={"zulu", "alpha"}, trigger_columns={"mike", "number"}
        ),
        *(Watch("inserted", label=label, when=when) for label, when in CONDITIONS.items()),
    }


class Person(Watched, Base):
    __tablename__ = "people"
    __watch__ = {Watch("updated", label="moved", trigger_columns={"street", "town", "wage", "office"}), "truncated"}
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    street: Mapped[str]
    town: Mapped[str]
    wage: Mapped[int]
    office: Mapped[int]


class Worker(Person):
    __tablename__ = "workers"
    __watch__ = {Watch("updated", label="works", trigger_columns={"street", "town", "desk", "shift"})}
    __mapper_args__ = {"polymorphic_identity": "worker"}
    id: Mapped[int] = mapped_column(sa.ForeignKey("people.id"), primary_key=True)
    desk: Mapped[int]
    shift: Mapped[int]


core = sa.Table("core", Base.metadata, *(sa.Column(name, sa.Integer, primary_key=name == "b") for name in "bcad"))
watch(core, Watch("updated", label="columns", extra_columns={core.c.a, core.c.b, core.c.c, "d"}))


class Attributes(Columns, Base):
    __tablename__ = "attributes"


watch(Attributes, Watch("inserted", extra_columns={Attributes.zulu, Attributes.alpha, Attributes.mike, "number"}))


def main() -> None:
    result: dict[str, Any] = {f"{w.table}/{w.label}": function_body(w) for w in watches_of(Base)}
    result["signals"] = [signal.name for signal in Sets.watch]
    if len(sys.argv) > 1:
        engine = sa.create_engine(sys.argv[1])
        Base.metadata.create_all(engine)
        result["states"] = sorted({item.state for item in status(engine, Base)})
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
