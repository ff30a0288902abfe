"""What is read by a statement: no database."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import pytest
from models import declare_base
from sqlalchemy import (
    Date,
    Enum,
    ForeignKey,
    Integer,
    TypeDecorator,
    Uuid,
    bindparam,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
    text,
    update,
)  # fmt: skip
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, aliased, joinedload, mapped_column, with_loader_criteria

from live.conftest import declare_shop
from sqlalchemy_watch import ConfigurationError
from sqlalchemy_watch.live.reads import MOST_KEYS, Analysis, Read, reads_of, reads_of_executed

pytestmark = pytest.mark.sqlalchemy

shop = declare_shop(declare_base())
Customer, Order, Item = shop.Customer, shop.Order, shop.Item


def analysis(statement: Any) -> Analysis:
    return reads_of(statement)[0]


def reads(statement: Any) -> dict[str, Any]:
    """Return by table the values that rows are told apart by; None for all rows."""
    found, parameters = reads_of(statement)
    return {
        read.table.name: None if read.values is None else [dict(zip(read.columns, v, strict=True)) for v in read.values]
        for read in found.reads(parameters)
    }


def test_conditions_at_the_top_tell_rows_apart() -> None:
    assert reads(select(Order).where(Order.customer_id == 3)) == {"orders": [{"customer_id": 3}]}
    assert reads(select(Order).where(Order.customer_id == 3, Order.id == 4)) == {
        "orders": [{"customer_id": 3, "id": 4}]
    }
    assert reads(select(Order.id).filter_by(customer_id=3).limit(1)) == {"orders": [{"customer_id": 3}]}
    assert reads(select(Order).where(Order.customer_id == bindparam("c", 7))) == {"orders": [{"customer_id": 7}]}
    found = reads(select(Order).where(Order.customer_id.in_([3, 4])))["orders"]
    assert sorted(each["customer_id"] for each in found) == [3, 4]


def test_the_parameters_that_a_statement_is_run_with_count() -> None:
    statement = select(Order).where(Order.customer_id == bindparam("c"))
    executed = statement.compile(dialect=postgresql.dialect())
    expected = {Read(Order.__table__, ("customer_id",), frozenset({(8,)}))}
    assert reads_of_executed(executed).reads({"c": 8}) == expected
    with pytest.raises(ConfigurationError, match=r"required for bind parameter 'c'.*: give bindparam\(\) a value"):
        reads_of(statement)


def test_statements_of_one_shape_have_their_own_values() -> None:
    for number in (1, 2):
        assert reads(select(Order).where(Order.customer_id == number)) == {"orders": [{"customer_id": number}]}
        found = reads(select(Order).where(Order.customer_id.in_([number, 9])))["orders"]
        assert sorted(each["customer_id"] for each in found) == [number, 9]


class Doubled(TypeDecorator[int]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value * 2


def test_a_type_that_makes_another_value_tells_nothing_apart() -> None:
    assert reads(select(Order).where(Order.customer_id == bindparam("q", 2, type_=Doubled()))) == {"orders": None}
    assert reads(select(Order).where(Order.customer_id == literal(2, Doubled()))) == {"orders": None}


def test_selects_within_are_taken_as_the_orm_makes_them() -> None:
    baskets = select(shop.Basket).where(shop.Basket.customer_id == 3)
    for statement in (select(baskets.subquery()), select(baskets.cte()), select(shop.Basket).from_statement(baskets)):
        assert reads(statement) == {"orders": [{"customer_id": 3}], "items": None}


@pytest.mark.parametrize(
    "statement",
    [
        select(Order).where(Order.total > 3),
        select(Order).where((Order.customer_id == 3) | (Order.id == 4)),
        select(Order).where(~(Order.customer_id == 3)),
        select(Order).where(Order.customer_id == Order.total),
        select(Order).where(Order.customer_id == "3"),  # 3 for the server, and not for a dictionary
        select(Order).where(Order.customer_id == None),  # noqa: E711
        select(Order).where(Order.customer_id.in_([3, None])),
        select(Order).where(Order.customer_id.in_(range(MOST_KEYS + 1))),
        select(Order).where(Order.customer_id.not_in([3])),
        select(Order).join(aliased(Order), Order.total > 1).where(Order.customer_id == 3),
        select(aliased(Order)).where(aliased(Order).customer_id == 3),
    ],
)  # fmt: skip
def test_any_other_condition_leaves_all_rows(statement: Any) -> None:
    assert reads(statement) == {"orders": None}


def test_text_is_not_told_apart_since_its_equality_is_the_collation_s() -> None:
    assert reads(select(Customer).where(Customer.name == "Ada")) == {"customers": None}


def test_a_condition_on_the_table_of_an_outer_statement_says_nothing_of_its_rows() -> None:
    inner = select(Item.id).where(Item.order_id == Order.id, Order.customer_id == 3)
    assert reads(select(Order.id).where(~inner.exists())) == {"orders": None, "items": None}


def test_what_the_orm_adds_is_found() -> None:
    statement = select(Item).where(Item.order_id == 5).options(joinedload(Item.order).joinedload(Order.customer))
    assert reads(statement) == {"items": [{"order_id": 5}], "orders": None, "customers": None}
    criteria = with_loader_criteria(Order, Order.customer_id == 3)
    assert reads(select(Order).options(criteria)) == {"orders": [{"customer_id": 3}]}


class Colour(enum.Enum):
    RED = "red"


def test_keys_of_exact_types_are_told_apart() -> None:
    Base: Any = declare_base()

    class Thing(Base):
        __tablename__ = "things"
        id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
        as_text: Mapped[str] = mapped_column(Uuid(as_uuid=False))
        colour: Mapped[Colour] = mapped_column(Enum(Colour))
        is_new: Mapped[bool]
        day: Mapped[Any] = mapped_column(Date)
        parent: Mapped[int] = mapped_column(ForeignKey("things.id"))

    key = uuid.uuid4()
    assert reads(select(Thing).where(Thing.id == key)) == {"things": [{"id": key}]}
    assert reads(select(Thing).where(Thing.as_text == str(key).upper())) == {"things": None}
    assert reads(select(Thing).where(Thing.colour == Colour.RED)) == {"things": [{"colour": Colour.RED}]}
    assert reads(select(Thing).where(Thing.parent == True)) == {"things": None}  # noqa: E712


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        (select(Order).where(text("total > 1")), "text('total > 1')"),
        (select(literal_column("total * 2")).select_from(Order), "literal_column('total * 2')"),
        (select(table("views", column("id"))), "table('views')"),
        (select(Order.id, func.now()), "now()"),
        (select(Order).where(func.random() > 0.5), "random()"),
        (select(Order).from_statement(text("SELECT * FROM orders")), "text('SELECT * FROM orders')"),
        (select(Order.__table__.tablesample(10)), "tablesample()"),
    ],
)  # fmt: skip
def test_what_no_event_tells_of_is_named(statement: Any, word: str) -> None:
    assert word in analysis(statement).refusals


def test_what_writes_or_locks_is_named() -> None:
    assert analysis(update(Order).values(total=1)).forbidden == ("a statement that writes",)
    assert analysis(select(Order).with_for_update()).forbidden == ("with_for_update()",)
    written = update(Order).values(total=1).returning(Order.id).cte()
    assert analysis(select(written.c.id)).forbidden == ("a statement that writes",)


def test_constants_are_nothing_to_hear_of() -> None:
    assert analysis(select(Order.id, literal_column("1"), func.count(text("*")))).refusals == ()
    assert analysis(select(Order.id, literal_column("'x'"), func.count())).refusals == ()
