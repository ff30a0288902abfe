"""No name and no operator in a function's text can be led elsewhere by the search_path of a writer.

What the text has to reach: every function is called as pg_catalog.x(...), but for constructs of the grammar (coalesce,
EXISTS, CASE WHEN, greatest, ROW); every type is pg_catalog.x or a word of the grammar (integer, bigint, boolean,
numeric; `record` is none); every operator stands in OPERATOR(pg_catalog.x); nothing is IN, BETWEEN, LIKE, IS DISTINCT
FROM, NULLIF, or CASE with an operand; every table is of pg_catalog, a transition table, or the root of the hierarchy.
The user's own SQL in `when` is exempt: text(), functions, and operators that are not SQLAlchemy's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Column, text
from sqlalchemy.dialects import postgresql as pg

from sqlalchemy_watch import wire
from sqlalchemy_watch.declaring.conditions import compile_condition
from sqlalchemy_watch.declaring.spec import DELIVERIES, LEVELS, CarriedColumn, Discriminator, RootLookup
from sqlalchemy_watch.declaring.spec import TableWatch as Filed
from sqlalchemy_watch.functions import values
from sqlalchemy_watch.functions.body import function_body

from .matrix.declarations import COMPARISONS, CONDITIONS, HOSTILE_NAMES, TYPES
from .qualification import faults

COLUMNS: dict[str, Column[Any]] = {
    name: Column(name, kind)
    for name, kind in (("a", sa.Integer), ("b", sa.Integer), ("s", sa.Text), ("t", sa.DateTime), ("f", sa.Boolean))
}
#: They have a table: conditions with a subquery are looked at beside it.
CASES = sa.Table("cases", sa.MetaData(), *COLUMNS.values())

ID, PART, NOTE = (
    CarriedColumn("id", "id", sa.Integer(), is_primary=True),
    CarriedColumn("part", 'quo"ted', sa.Text(), is_primary=True),
    CarriedColumn("note", "note", sa.Text()),
)
NUMBER, KIND = CarriedColumn("number", "number", sa.BigInteger()), CarriedColumn("kind", "kind", sa.Text())

DISCRIMINATORS = {
    "none": None,
    "own": Discriminator(KIND),
    "of the table above": Discriminator(KIND, RootLookup(None, "roots", ("root_id", "root_part"))),
    "of the topmost": Discriminator(KIND, RootLookup(None, "roots", ("root_id", "root_part"), ("middles", "others"))),
    "in a schema": Discriminator(KIND, RootLookup("Shop", "roots", ("root_id", "root_part"))),
}
ROOTS = ("roots", '"shop".roots')

#: Text of the user's own, which is exempt.
OWN = "1 + 1 = 2 AND now() > 'yesterday'::date"

WHENS: dict[str, Any] = {
    "none": None,
    "new": lambda old, new: (new.a + 1) * 2 > new.b,
    "old": lambda old, new: (old.a + 1) * 2 > old.b,
    "both": lambda old, new: (new.a > old.a) & (new.s != old.s),
    "own": lambda old, new: text(OWN),
}


def _cut(discriminator: Discriminator | None, key: int) -> Discriminator | None:
    if discriminator is None or discriminator.lookup is None:
        return discriminator
    lookup = discriminator.lookup
    return Discriminator(KIND, RootLookup(lookup.schema, lookup.table, lookup.key[:key], lookup.between))


def _kinds(operation: Any, level: Any, delivery: Any) -> Iterator[tuple[str, Filed]]:
    """Every kind of function on rows, with its name."""
    whens = {"inserted": ("none", "new", "own"), "deleted": ("none", "old", "own")}.get(operation, tuple(WHENS))
    olds = (False,) if operation == "inserted" else (False, True)
    trigger_columns = ((), (NOTE,), (NOTE, NUMBER)) if operation == "updated" else ((),)
    for when, old, triggers, (place, discriminator), key, schema in itertools.product(
        whens, olds, trigger_columns, DISCRIMINATORS.items(), ((ID,), (ID, PART)), (None, "Shop")
    ):
        name = (
            f"when {when}, old {old}, {len(triggers)} trigger columns, root {place}, {len(key)} keys, schema {schema}"
        )
        yield name, Filed(
            schema, "orders", "label", operation, key, (NOTE, NUMBER), triggers, _cut(discriminator, len(key)),
            WHENS[when] and compile_condition("Order", operation, WHENS[when], COLUMNS), old, level, "shop", delivery,
        )  # fmt: skip


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("operation", ["inserted", "updated", "deleted"])
def test_every_kind_of_function_is_qualified(operation: str, level: str, delivery: str) -> None:
    for name, filed in _kinds(operation, level, delivery):
        found = faults(function_body(filed), own=(OWN,), tables=ROOTS)
        assert not found, f"{name}:\n" + "\n".join(found)


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("schema", [None, "Shop"])
def test_functions_of_truncated_are_qualified(delivery: Any, schema: str | None) -> None:
    assert faults(function_body(Filed(schema, "orders", "truncated", "truncated", (), delivery=delivery))) == []


KINDS: dict[str, Any] = {
    **TYPES, "names_of": pg.ARRAY(sa.String(5)), "at": sa.Time(timezone=True), "label": pg.CITEXT(),
    "words_of": pg.TSVECTOR(), "value": sa.types.NullType(), "zone": pg.DOMAIN("zone", sa.Integer), "map": pg.HSTORE(),
    "fixed": sa.NCHAR(3), "enums": pg.ARRAY(sa.Enum("a", name="letters")), "cash": pg.MONEY(), "number_of": pg.OID(),
    "flags": pg.BIT(varying=True), "mac": pg.MACADDR8(), "floating": sa.Float(), "precise": sa.Float(53),
}  # fmt: skip


def test_every_type_that_is_encoded_in_a_way_of_its_own_is_tried() -> None:
    assert values._ENCODINGS.keys() <= {wire.sql_type(kind) for kind in KINDS.values()}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("operation", ["inserted", "updated", "deleted"])
def test_values_of_every_type_are_qualified(operation: Any, level: Any) -> None:
    found = {}
    for name, kind in KINDS.items():
        key, extra = CarriedColumn("key", "key", kind, is_primary=True), CarriedColumn(name, name, kind)
        columns, old = (extra,) if operation == "updated" else (), operation != "inserted"
        filed = Filed(
            None, "orders", "label", operation, (key,), (extra,), columns, old=old, level=level, delivery="both"
        )  # fmt: skip
        found[name] = faults(function_body(filed))
    assert not any(found.values()), _shown(found)


@pytest.mark.parametrize("level", LEVELS)
def test_names_of_columns_are_no_names_of_anything_else(level: Any) -> None:
    words = "in between integer nullif case operator declare raise message cast"
    columns = tuple(
        CarriedColumn(f"a{n}", name, sa.Integer()) for n, name in enumerate([*HOSTILE_NAMES, *words.split()])
    )
    key, table = columns[:2], "Order's \\ lines"
    filed = Filed('Sche"ma', table, "label", "updated", key, columns, columns, old=True, level=level, delivery="both")
    assert faults(function_body(filed)) == []


#: What the user wrote in the conditions: functions, and text().
CALLED, WRITTEN = ("lower",), ("1 / 1 = 1",)


@pytest.mark.parametrize("level", LEVELS)
def test_operators_of_sqlalchemy_are_qualified(level: Any) -> None:
    found = {}
    for label, condition in (CONDITIONS | COMPARISONS).items():
        when = condition if label in COMPARISONS else lambda old, new, condition=condition: condition(new)
        compiled = compile_condition("Case", "updated", when, COLUMNS)
        filed = Filed(None, "cases", label, "updated", (ID,), condition=compiled, level=level)
        found[label] = faults(function_body(filed), own=WRITTEN, functions=CALLED, tables=("public.vips",))
    assert not any(found.values()), _shown(found)


def _shown(found: dict[str, list[str]]) -> str:
    return "\n".join(f"{name}: {fault}" for name, all_faults in found.items() for fault in all_faults)
