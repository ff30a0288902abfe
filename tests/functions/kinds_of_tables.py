"""Tables of every kind, watched in every way, and the statements that are made on them."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import DeclarativeBase, mapped_column

from sqlalchemy_watch import Watch, Watched
from sqlalchemy_watch.functions.quoting import qualified, quote

LEVELS = ("statement", "row")

#: The schema of the unwatched twins.
TWINS = "twin"

#: The literals of the row of a number, which may be a long one.
Row: TypeAlias = Callable[[int, bool], list[str]]


@dataclass(frozen=True)
class Kind:
    """A table, and the statements that are made on it: `{t}` stands for its name.

    All values are literals, which are cast by no function, and no name or operator in them is looked up on the
    search_path, but for pg_catalog's.
    """

    table: sa.Table
    row: Row
    #: Sets other values in a row.
    change: str
    #: Gives all rows another key.
    shift: str
    before: str = ""

    def insert(self, *numbers: int, long: Container[int] = ()) -> str:
        """Return INSERT for rows of these numbers; those of odd numbers are NULL where they can be."""
        columns = ", ".join(quote(column.name) for column in self.table.columns)
        rows = ", ".join(f"({', '.join(self.row(number, number in long))})" for number in numbers)
        return f"INSERT INTO {{t}} ({columns}) VALUES {rows}"

    def statements(self) -> dict[str, str]:
        """Return statements by a name each; they leave the table empty."""
        names = [quote(column.name) for column in self.table.primary_key]
        key, keys = names[0], ", ".join(names)
        return {
            "insert one": self.insert(0),
            "insert two": self.insert(1, 2),
            "insert none": f"INSERT INTO {{t}} SELECT * FROM {{t}} AS x WHERE x.{key} IS NULL",
            "insert 60": self.insert(*range(10, 70)),
            "insert a long one": self.insert(100, long={100}),
            "insert long ones among others": self.insert(101, 102, 103, 104, 106, long={102, 104}),
            "insert one again": self.insert(0),
            "insert on conflict": f"{self.insert(0, 5)} ON CONFLICT ({keys}) DO UPDATE SET {self.change}",
            "insert on no conflict": f"{self.insert(0, 5)} ON CONFLICT DO NOTHING",
            "update one": f"UPDATE {{t}} SET {self.change} WHERE {key} OPERATOR(pg_catalog.=) {self.row(2, False)[0]}",
            "update nothing of it": f"UPDATE {{t}} SET {key} = {key}",
            "update none": f"UPDATE {{t}} SET {self.change} WHERE {key} IS NULL",
            "update all": f"UPDATE {{t}} SET {self.change}",
            "delete one": f"DELETE FROM {{t}} WHERE {key} OPERATOR(pg_catalog.=) {self.row(1, False)[0]}",
            "update the key": f"UPDATE {{t}} SET {self.shift}",
            "delete none": f"DELETE FROM {{t}} WHERE {key} IS NULL",
            "delete all": "DELETE FROM {t}",
            "context of 10,000 bytes": f"SET sqlalchemy_watch.context = '{'c' * 10_000}'",
            "insert one with it": self.insert(0),
            "insert two with it": self.insert(1, 2),
            "no context": "RESET sqlalchemy_watch.context",
            "truncate": "TRUNCATE {t} CASCADE",
        }

    @property
    def name(self) -> str:
        """The table's qualified name."""
        return qualified(self.table.schema or "public", self.table.name)

    @property
    def twin(self) -> str:
        """The name of its unwatched twin."""
        return qualified(TWINS, self.table.name)


#: Those that PostgreSQL also takes within others.
ROUND: Final = ("insert one", "insert two", "insert 60", "update all", "delete all")

#: Those that a hazard is tried with that does not depend on the rows.
BRIEF: Final = ("insert one", "insert two", "update all", "delete all")


#: A text that needs escapes in JSON, and most encodings lack; written so that every client can send it.
ODD_TEXT = r"E'q\"b\" \\\\ \u00e4 \u540d \U0001F642 \u0001'"

_THING = {
    "id": sa.Integer, "n": sa.Integer, "t": sa.Text, "d": sa.Numeric, "u": pg.UUID, "at": sa.DateTime(timezone=True),
    "b": sa.LargeBinary, "j": pg.JSONB, "f": sa.Boolean, "x": sa.Float, "i": sa.Interval, "day": sa.Date,
}  # fmt: skip


def _thing_row(number: int, long: bool, text: str) -> list[str]:
    if number % 2:
        return [f"'{number}'", "'7'", *["NULL"] * 10]
    return [
        f"'{number}'", f"'{number}'", f"'{'long' * 2_500}'" if long else text, "'1.0'",
        f"'00000000-0000-0000-0000-{number:012}'", "'2024-02-29 12:00:00.5+05'", r"E'\\xdeadbeef'",
        """'{"a": [1, 2.50]}'""", "true", "'0.1'", "'1 day 02:00'", "'2024-02-29'",
    ]  # fmt: skip


def _things(base: Any, level: str, text: str, conditions: bool) -> Kind:
    all_stable = ("n", "t", "d", "u", "at", "b", "j", "f")
    of: Any = {"level": level, "delivery": "both"}
    watches = [
        Watch("inserted", extra_columns=all_stable, **of),
        Watch("inserted", label="odd", extra_columns=("x", "i", "day"), **of),
        Watch("updated", extra_columns=("n",), **of),
        Watch("updated", label="renamed", trigger_columns=("t", "d"), extra_columns=all_stable, old=True, **of),
        Watch("deleted", extra_columns=("t", "x"), old=True, **of),
        Watch("truncated", delivery="both"),
    ]
    if conditions:
        watches += [
            Watch("inserted", label="big", when=lambda old, new: new.n > 20, extra_columns=("n",), **of),
            Watch("updated", label="grown", when=lambda old, new: new.n > old.n, **of),
        ]
    columns = {name: mapped_column(type_, primary_key=name == "id", autoincrement=False)
               for name, type_ in _THING.items()}  # fmt: skip
    members: dict[str, Any] = {"__tablename__": f"{level}_things", "__watch__": watches, **columns}
    model: Any = type(f"{level}_thing", (Watched, base), members)
    return Kind(
        model.__table__, lambda number, long: _thing_row(number, long, text),
        "n = '30', t = 'other', d = '1.00'", "id = id OPERATOR(pg_catalog.+) 1000",
    )  # fmt: skip


def _pairs(base: Any, level: str, text: str) -> Kind:
    of: Any = {"level": level, "delivery": "notify" if level == "row" else "durable"}
    members: dict[str, Any] = {
        "__tablename__": f'{level} "Pärs', "__table_args__": {"schema": "app"},
        "__watch__": [
            Watch("inserted", extra_columns=("body",), **of),
            Watch("updated", trigger_columns=("flag", "body"), label="changed", **of),
            Watch("updated", old=True, extra_columns=("flag",), **of),
            Watch("deleted", **of),
            Watch("truncated", delivery=of["delivery"]),
        ],
        "word": mapped_column("Wörd", sa.Text, primary_key=True), "n": mapped_column(sa.BigInteger, primary_key=True),
        "flag": mapped_column(sa.Boolean), "body": mapped_column(sa.Text),
    }  # fmt: skip
    model: Any = type(f"{level}_pair", (Watched, base), members)
    return Kind(
        model.__table__,
        lambda number, long: [f"'w{number}'", "'7'", "NULL" if number % 2 else "false",
                              f"'{'long' * 2_500}'" if long else text],
        "flag = true", "\"Wörd\" = \"Wörd\" OPERATOR(pg_catalog.||) 'x'",
    )  # fmt: skip


def _managers(base: Any, level: str) -> Kind:
    """Of joined inheritance: the class of a row is looked up in the root's table."""
    people: dict[str, Any] = {
        "__tablename__": f"{level}_people", "__watch__": (Watch("updated", level=level),),  # type: ignore[arg-type]
        "__mapper_args__": {"polymorphic_on": "kind", "polymorphic_identity": "person"},
        "id": mapped_column(sa.Integer, primary_key=True, autoincrement=False), "kind": mapped_column(sa.Text),
    }  # fmt: skip
    person: Any = type(f"{level}_person", (Watched, base), people)
    members: dict[str, Any] = {
        "__tablename__": f"{level}_managers", "__mapper_args__": {"polymorphic_identity": "manager"},
        "id": mapped_column(sa.ForeignKey(person.id), primary_key=True), "budget": mapped_column(sa.Numeric),
    }  # fmt: skip
    manager: Any = type(f"{level}_manager", (person,), members)
    return Kind(
        manager.__table__, lambda number, long: [f"'{number}'", "NULL" if number % 2 else "'1.0'"],
        "budget = '2'", "id = id OPERATOR(pg_catalog.+) 1000",
        f"INSERT INTO public.{level}_people SELECT i, 'manager' FROM generate_series(0, 1200) AS i",
    )  # fmt: skip


def declare_kinds(text: str = ODD_TEXT, *, conditions: bool = True) -> tuple[sa.MetaData, list[Kind]]:
    """Declare a table of every kind at either level.

    :param text: the literal of the texts in it.
    :param conditions: have watches with one.
    """

    class Base(DeclarativeBase):
        pass

    kinds = [
        kind for level in LEVELS
        for kind in (_things(Base, level, text, conditions), _pairs(Base, level, text), _managers(Base, level))
    ]  # fmt: skip
    return Base.metadata, kinds
