"""What has no order gets one: the text of a function must not follow the hash seed of the process that wrote it."""

from __future__ import annotations

from collections.abc import Iterable, MappingView, Set
from typing import Any, TypeVar

from sqlalchemy import literal
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.dialects.postgresql import operators as pg_operators
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    ClauseElement,
    ClauseList,
    CollectionAggregate,
    Grouping,
)
from sqlalchemy.types import TupleType, TypeEngine
from sqlalchemy.util import OrderedSet

from .dialect import POSTGRESQL

C = TypeVar("C", bound=ClauseElement)

_MEMBERSHIP = (operators.in_op, operators.not_in_op)

#: Between arrays of which only the elements count.
_OF_ARRAYS = (pg_operators.CONTAINS, pg_operators.CONTAINED_BY, pg_operators.OVERLAP)


def is_unordered(value: object) -> bool:
    """Return True for a set, and False for the views of a dict, which have its order."""
    return isinstance(value, Set) and not isinstance(value, MappingView)


def in_order(clause: C) -> C:
    """Return the clause with the values of IN, ANY and ALL, and those of sets, in an order of their own.

    :raises sqlalchemy.exc.SQLAlchemyError: where a value has no literal.
    """
    copy = visitors.cloned_traverse(clause, {}, {})
    for element in visitors.iterate(copy):
        if isinstance(element, BindParameter):
            _order_value(element)
        elif isinstance(element, CollectionAggregate):
            _order_members(element.element)
        elif isinstance(element, BinaryExpression):
            if element.operator in _MEMBERSHIP:
                _order_members(element.right)
            elif element.operator in _OF_ARRAYS:
                for side in (element.left, element.right):
                    if isinstance(_inner(side), array):
                        _order_members(side)
    return copy


def _inner(element: Any) -> Any:
    while isinstance(element, Grouping):
        element = element.element
    return element


def _order_members(element: Any) -> None:
    """Order the members of a list of which only the members count."""
    element = _inner(element)
    if isinstance(element, ClauseList | array):
        element.clauses = type(element.clauses)(sorted(element.clauses, key=_sql))
    elif isinstance(element, BindParameter) and isinstance(element.value, list):
        element.value = _sorted(element.value, _member_type(element))


def _order_value(element: BindParameter[Any]) -> None:
    value: Any = element.value
    if element.expanding and isinstance(value, Iterable):
        element.value = _sorted(value, element.type)
    elif is_unordered(value):
        element.value = OrderedSet(_sorted(value, _member_type(element)))


def _member_type(element: BindParameter[Any]) -> TypeEngine[Any] | None:
    """Return the type of an array's elements; None where the type has none, or is the user's own."""
    return getattr(element.type, "item_type", None)


def _sorted(values: Iterable[Any], type_: TypeEngine[Any] | None) -> list[Any]:
    return sorted(values, key=repr if type_ is None else lambda value: _literal(value, type_))


def _literal(value: Any, type_: TypeEngine[Any]) -> str:
    if isinstance(type_, TupleType):
        return ", ".join(_literal(*pair) for pair in zip(value, type_.types, strict=True))
    return repr(value) if isinstance(value, list) else _sql(literal(value, type_))


def _sql(element: ClauseElement) -> str:
    return str(element.compile(dialect=POSTGRESQL, compile_kwargs={"literal_binds": True}))
