"""SQLAlchemy's operators as PostgreSQL's own ones, each with its schema: `(a OPERATOR(pg_catalog.=) b)`.

A trigger runs with the rights of whoever writes, and an operator without a schema is looked for along the writer's
search_path, where anybody with CREATE on one of its schemas may have put one that fits better than PostgreSQL's own, or
just as well. IN, BETWEEN, LIKE, `CASE x`, NULLIF and IS DISTINCT FROM look operators up in the same way and can be
given no schema: they are written out, if need be with an operand twice, as PostgreSQL itself does for BETWEEN. The
functions and types that SQLAlchemy names of itself have their schema, too.

Every operation has its parentheses, since OPERATOR() has one precedence whatever the operator. Types resolve as they do
without a schema, among the operators of pg_catalog.

What is the user's own SQL stays as it is: text(), literal_column(), functions, op(), and operators on types that are
not PostgreSQL's own (citext, hstore, geometry, ...), which are in the schema of an extension.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import cast, null
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import operators as pg_operators
from sqlalchemy.dialects.postgresql.base import PGCompiler
from sqlalchemy.exc import CompileError
from sqlalchemy.sql import operators, sqltypes, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    ClauseList,
    ColumnClause,
    ExpressionClauseList,
    Grouping,
    OperatorExpression,
    TextClause,
    Tuple,
    UnaryExpression,
)
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.sql.selectable import SelectBase

from .dialect import Compiler, escape_backslashes
from .own_types import TypesDialect, are_own, unwrapped
from .parentheses import disclosed, enclosed, is_query, is_untyped

_SYMBOLS: Final[Mapping[Any, str]] = {
    operators.eq: "=", operators.ne: "<>", operators.lt: "<", operators.le: "<=", operators.gt: ">", operators.ge: ">=",
    operators.add: "+", operators.sub: "-", operators.mul: "*", operators.mod: "%", operators.concat_op: "||",
    operators.bitwise_and_op: "&", operators.bitwise_or_op: "|", operators.bitwise_xor_op: "#",
    operators.bitwise_lshift_op: "<<", operators.bitwise_rshift_op: ">>",
}  # fmt: skip

_ASSOCIATIVE: Final = frozenset({operators.add, operators.mul, operators.concat_op})

_PREFIXES: Final[Mapping[Any, str]] = {operators.neg: "-", operators.bitwise_not_op: "~"}

#: Those of SQLAlchemy's PostgreSQL dialect. One that the user made may be equal to one of these, but is none of them.
_OF_DIALECT: Final = tuple(op for op in vars(pg_operators).values() if isinstance(op, operators.custom_op))

#: Words of the grammar that call no operator.
_WORDS: Final = frozenset({
    operators.and_, operators.or_, operators.inv, operators.is_, operators.is_not, operators.is_true,
    operators.is_false, operators.collate, operators.comma_op, operators.getitem, operators.function_as_comparison_op,
    operators.exists, operators.any_op, operators.all_op, operators.distinct_op, operators.asc_op, operators.desc_op,
    operators.nulls_first_op, operators.nulls_last_op,
})  # fmt: skip

_MEMBERSHIPS: Final = frozenset({operators.in_op, operators.not_in_op})

#: How the comparisons of rows are made of those of their columns, which may be of anybody's types.
_OF_ROWS: Final[Mapping[Any, str]] = {
    operators.eq: " AND ", operators.ne: " OR ",
    operators.is_not_distinct_from: " AND ", operators.is_distinct_from: " OR ",
}  # fmt: skip

#: The family of LIKE: an operator, and a literal before and after the pattern.
_LIKES: Final[Mapping[Any, tuple[str, str, str]]] = {
    getattr(operators, f"{negated}{either_case}{kind}_op"): (f"{sign}~~{star}", *around)
    for negated, sign in (("", ""), ("not_", "!"))
    for either_case, star in (("", ""), ("i", "*"))
    for kind, around in {
        "like": ("", ""), "startswith": ("", "'%'"), "endswith": ("'%'", ""), "contains": ("'%'", "'%'"),
    }.items()
}  # fmt: skip

_WIDTHS: Final = ("bigint", "numeric", "double precision")

_NUMBER: Final = re.compile(r"-?[0-9.]+(?:[eE][+-]?[0-9]+)?")
_INTEGER: Final = re.compile(r"-?[0-9]+")
_STRING: Final = re.compile(r"'((?:[^']|'')*)'", re.DOTALL)

#: Types whose literals are strings, so that an array of them is one as well.
_TEXTUAL: Final = (sqltypes.String, sqltypes.Date, sqltypes.DateTime, sqltypes.Time, sqltypes.Uuid)


def _symbol(operator: Any) -> str | None:
    if isinstance(operator, operators.custom_op):
        return operator.opstring if any(operator is own for own in _OF_DIALECT) else None
    return _SYMBOLS.get(operator)


def _refuse_unknown(operator: Any) -> None:
    known = (_SYMBOLS, _PREFIXES, _WORDS, _MEMBERSHIPS, _WRITERS)
    if not (isinstance(operator, operators.custom_op) or any(operator in group for group in known)):
        raise CompileError(f"the operator {operator.__name__} of SQLAlchemy is not known here")


def _operation(symbol: str, left: str, right: str) -> str:
    return f"({left} OPERATOR(pg_catalog.{symbol}) {right})"


class _Compiler(Compiler):
    """Leaves to SQLAlchemy what it does not write itself. An operator that it has not heard of is refused."""

    def visit_binary(self, binary: Any, *args: Any, **kw: Any) -> str:
        _refuse_unknown(operator := binary.operator)
        written = None
        if operator in _OF_ROWS and isinstance(binary.left, Tuple) and isinstance(binary.right, Tuple):
            written = self._row_comparison(binary, **kw)
        elif operator in _MEMBERSHIPS:
            written = self._membership(binary, **kw)
        elif _symbol(operator):
            written = self._in_turn(binary, **kw)
        elif (write := _WRITERS.get(operator)) and are_own(binary.left, binary.right):
            written = write(self, binary, **kw)
        return str(super().visit_binary(binary, *args, **kw)) if written is None else written  # type: ignore[no-untyped-call]

    def visit_unary(self, unary: Any, *args: Any, **kw: Any) -> str:
        _refuse_unknown(unary.operator or unary.modifier)
        if unary.operator in _PREFIXES and are_own(unary.element):
            text = self._operand(unary.element, **kw)
            # A number's sign calls no operator: -2147483648 is an integer, and 2147483648 is none.
            is_sign = unary.operator is operators.neg and _NUMBER.fullmatch(text) and text[0] != "-"
            return f"-{text}" if is_sign else f"(OPERATOR(pg_catalog.{_PREFIXES[unary.operator]}) {text})"
        return str(super().visit_unary(unary, *args, **kw))  # type: ignore[no-untyped-call]

    def visit_expression_clauselist(self, clauselist: Any, **kw: Any) -> str:
        return self._in_turn(clauselist, **kw) or str(super().visit_expression_clauselist(clauselist, **kw))  # type: ignore[no-untyped-call]

    def visit_clauselist(self, clauselist: Any, **kw: Any) -> str:
        return self._in_turn(clauselist, **kw) or str(super().visit_clauselist(clauselist, **kw))  # type: ignore[no-untyped-call]

    def visit_grouping(self, grouping: Any, asfrom: bool = False, **kw: Any) -> str:
        text = str(super().visit_grouping(grouping, asfrom=asfrom, **kw))  # type: ignore[no-untyped-call]
        is_operation = isinstance(grouping.element, OperatorExpression | UnaryExpression)
        return enclosed(text[1:-1]) if is_operation and text.startswith("((") else text

    def visit_case(self, clause: Any, **kw: Any) -> str:
        value = clause.value
        if value is None or not are_own(value, *(when for when, _ in clause.whens)):
            return str(super().visit_case(clause, **kw))  # type: ignore[no-untyped-call]
        if is_untyped(self.process(value, **kw)):
            value = cast(value, sqltypes.Text())  # which PostgreSQL takes it for
        whens = [
            f"WHEN {self._compared(value, operators.eq, when, **kw)} THEN {self.process(then, **kw)} "
            for when, then in clause.whens
        ]
        otherwise = "" if clause.else_ is None else f"ELSE {self.process(clause.else_, **kw)} "
        return f"CASE {''.join(whens)}{otherwise}END"

    def visit_function(self, func: Any, *args: Any, **kw: Any) -> str:
        arguments = tuple(func.clauses)
        if func.name.lower() == "nullif" and not func.packagenames and len(arguments) == 2 and are_own(*arguments):
            return self._nullif(*arguments, **kw)
        return super().visit_function(func, *args, **kw)

    def visit_pow_func(self, fn: Any, **kw: Any) -> str:
        """Write what `**` stands for; otherwise `pow` is a function like any other."""
        is_operator = isinstance(fn, GenericFunction)
        name = "pg_catalog.power" if is_operator else ".".join(map(self.preparer.quote, (*fn.packagenames, fn.name)))
        return f"{name}{self.function_argspec(fn, **kw)}"

    def visit_aggregate_strings_func(self, fn: Any, **kw: Any) -> str:
        return f"pg_catalog.{super().visit_aggregate_strings_func(fn, **kw)}"  # type: ignore[no-untyped-call]

    def visit_sequence(self, seq: Any, **kw: Any) -> str:  # type: ignore[override]
        return f"pg_catalog.{super().visit_sequence(seq, **kw)}"  # type: ignore[no-untyped-call]

    def visit_empty_set_op_expr(self, type_: Any, expand_op: Any, **kw: Any) -> str:
        text: str = super().visit_empty_set_op_expr(type_, expand_op, **kw)  # type: ignore[no-untyped-call]
        return text.replace("1 = 1", "true").replace("1 != 1", "false")

    def visit_empty_set_expr(self, element_types: Any, **kw: Any) -> str:
        text: str = super().visit_empty_set_expr(element_types, **kw)  # type: ignore[no-untyped-call]
        return text.replace("1!=1", "false")

    # ---- parts ----

    def _operand(self, element: Any, **kw: Any) -> str:
        return enclosed(self.process(element, **kw))

    def _compared(self, left: Any, operator: Any, right: Any, **kw: Any) -> str:
        return self.visit_binary(BinaryExpression(left, right, operator), **kw)

    def _in_turn(self, expression: Any, **kw: Any) -> str | None:
        """Write `a + b + c` as PostgreSQL reads it: from the left, however it was put together."""
        if expression.operator is not None:
            _refuse_unknown(expression.operator)
        symbol = _symbol(expression.operator)
        operands = list(_operands(expression, expression.operator))
        if symbol is None or not are_own(*operands):
            return None
        text, *others = (self._operand(operand, **kw) for operand in operands)
        for other in others:
            text = _operation(symbol, text, other)
        return text

    def _row_comparison(self, binary: Any, **kw: Any) -> str | None:
        left, right = binary.left.clauses, binary.right.clauses
        if len(left) != len(right):
            return None
        compared = (self._compared(a, binary.operator, b, **kw) for a, b in zip(left, right, strict=True))
        return f"({_OF_ROWS[binary.operator].join(compared)})"

    def _nullif(self, value: Any, other: Any, **kw: Any) -> str:
        """Write NULLIF, which has the type that its first argument is compared as."""
        text, others = self.process(value, **kw), self.process(other, **kw)
        nothing = f"CASE WHEN false THEN {others} END" if is_untyped(text) else "NULL"
        width, others_width = _width(value, text), _width(other, others)
        if 0 <= width < others_width:
            nothing = f"CAST(NULL AS {_WIDTHS[others_width]})"
        return f"CASE WHEN {self._compared(value, operators.eq, other, **kw)} THEN {nothing} ELSE {text} END"

    def write_distinct(self, binary: Any, **kw: Any) -> str:
        is_same = binary.operator is operators.is_not_distinct_from
        left, right = self._operand(binary.left, **kw), self._operand(binary.right, **kw)
        if "NULL" in (left, right):
            return f"({right if left == 'NULL' else left} IS {'' if is_same else 'NOT '}NULL)"
        equal = _operation("=", left, right)
        if is_same:
            return f"({equal} IS TRUE OR ({left} IS NULL AND {right} IS NULL))"
        return f"({equal} IS NOT TRUE AND ({left} IS NOT NULL OR {right} IS NOT NULL))"

    def write_between(self, binary: Any, **kw: Any) -> str:
        is_inside = binary.operator is operators.between_op
        at_low, inner, at_high, outer = (
            (operators.ge, "AND", operators.le, "OR") if is_inside else (operators.lt, "OR", operators.gt, "AND")
        )
        low, high = binary.right.clauses
        either = [
            f"({self._compared(binary.left, at_low, a, **kw)} {inner} {self._compared(binary.left, at_high, b, **kw)})"
            for a, b in ((low, high), (high, low))
        ]
        return f"({either[0]} {outer} {either[1]})" if binary.modifiers.get("symmetric") else either[0]

    def write_like(self, binary: Any, **kw: Any) -> str:
        symbol, before, after = _LIKES[binary.operator]
        pattern = self._operand(binary.right, **kw)
        pattern = _operation("||", before, pattern) if before else pattern
        pattern = _operation("||", pattern, after) if after else pattern
        if (escape := binary.modifiers.get("escape")) is not None:
            pattern = f"pg_catalog.like_escape({pattern}, {self.render_literal_value(escape, sqltypes.STRINGTYPE)})"
        return _operation(symbol, self._operand(binary.left, **kw), pattern)

    def write_match(self, binary: Any, **kw: Any) -> str:
        configuration = binary.modifiers.get("postgresql_regconfig")
        first = f"{self.render_literal_value(configuration, sqltypes.STRINGTYPE)}, " if configuration else ""
        query = f"pg_catalog.plainto_tsquery({first}{self.process(binary.right, **kw)})"
        matches = _operation("@@", self._operand(binary.left, **kw), query)
        return f"(NOT {matches})" if binary.operator is operators.not_match_op else matches

    def write_regexp_match(self, binary: Any, **kw: Any) -> str:
        symbol = "~" if binary.operator is operators.regexp_match_op else "!~"
        flags = binary.modifiers["flags"]
        left, right = self._operand(binary.left, **kw), self._operand(binary.right, **kw)
        if flags == "i":
            symbol += "*"
        elif flags is not None:
            right = f"pg_catalog.concat('(?', {self.render_literal_value(flags, sqltypes.STRINGTYPE)}, ')', {right})"
        return _operation(symbol, left, right)

    def write_regexp_replace(self, binary: Any, **kw: Any) -> str:
        flags = binary.modifiers["flags"]
        last = "" if flags is None else f", {self.render_literal_value(flags, sqltypes.STRINGTYPE)}"
        return f"pg_catalog.regexp_replace({self.process(binary.left, **kw)}, {self.process(binary.right, **kw)}{last})"

    def write_truediv(self, binary: Any, **kw: Any) -> str:
        right = binary.right
        right = cast(right, right.type if _is(right, sqltypes.Numeric, sqltypes.Float) else sqltypes.Numeric())
        return _operation("/", self._operand(binary.left, **kw), self._operand(right, **kw))

    def write_floordiv(self, binary: Any, **kw: Any) -> str:
        quotient = _operation("/", self._operand(binary.left, **kw), self._operand(binary.right, **kw))
        is_floor = _is(binary.left, sqltypes.Integer) and _is(binary.right, sqltypes.Integer)
        return quotient if is_floor else f"pg_catalog.floor{quotient}"

    def write_json_item(self, binary: Any, _cast_applied: bool = False, **kw: Any) -> str:
        if not _cast_applied and not _is(binary, sqltypes.JSON):  # as_string(), as_integer(), ...
            return self.process(cast(binary, binary.type), _cast_applied=True, **kw)
        left, right = self._operand(binary.left, **kw), self._operand(binary.right, **kw)
        is_path = binary.operator is operators.json_path_getitem_op
        if isinstance(binary.left.type, postgresql.JSONB) and not is_path and not _cast_applied:
            # For a subscript, which PostgreSQL 13 does not have. It is no `->`: `['0']` is an element of an array, too.
            return _operation("#>", left, f"ARRAY[{_as_text(right)}]")
        return _operation(("#>" if is_path else "->") + ">" * _cast_applied, left, right)

    # ---- IN ----

    def _membership(self, binary: Any, **kw: Any) -> str | None:
        is_in = binary.operator is operators.in_op
        equal, between = (operators.eq, " OR ") if is_in else (operators.ne, " AND ")
        left, members = binary.left, _members(binary.right)
        text = self._operand(left, **kw)
        if members == []:
            return f"({text} IS NULL AND false)" if is_in else f"({text} IS NULL OR true)"
        if members is not None and isinstance(left, Tuple):
            return f"({between.join(self._compared(left, equal, member, **kw) for member in members)})"
        if not are_own(left, binary.right):
            return None
        if members is None:
            query = self.process(binary.right, **kw)
            if not is_query(query) and isinstance(left, Tuple):
                query = f"(VALUES {disclosed(query)})"
            if is_query(query):
                is_there = f"({text} OPERATOR(pg_catalog.=) ANY {query})"
                return is_there if is_in else f"(NOT {is_there})"
            # A list that is the user's own text.
            return _found_in(is_in, text, _array(left, text, [disclosed(query)]))
        # As PostgreSQL does: the left side, and what has no column in it, agree upon one type.
        together = [member for member in members if not _has_column(member)]
        alone = [member for member in members if _has_column(member)]
        if len(together) == 1:
            together, alone = [], members
        found = [self._compared(left, equal, member, **kw) for member in alone]
        if together:
            found.append(_found_in(is_in, text, _array(left, text, [self.process(each, **kw) for each in together])))
        return found[0] if len(found) == 1 else f"({between.join(found)})"


def _operands(element: Any, operator: Any) -> Iterator[Any]:
    """Iterate over what an operator stands between; `a + (b + c)` has no parentheses in SQLAlchemy's text."""
    parts: Iterable[Any] = ()
    if isinstance(element, BinaryExpression):
        parts = (element.left, element.right)
    elif isinstance(element, ExpressionClauseList | ClauseList):
        parts = element.clauses
    if not parts or element.operator is not operator:
        yield element
        return
    for part in parts:
        if operator in _ASSOCIATIVE:
            yield from _operands(part, operator)
        else:
            yield part


def _is(element: Any, *types: type[Any]) -> bool:
    return isinstance(unwrapped(element.type), types)


def _width(element: Any, text: str) -> int:
    """Return which of `_WIDTHS` a number is compared as; -1 for what is no number, or not known to be one."""
    if _NUMBER.fullmatch(text):  # of a float, too
        return 0 if _INTEGER.fullmatch(text) else 1
    kinds = (sqltypes.Float, 2), (sqltypes.Numeric, 1), (sqltypes.Integer, 0)
    return next((width for kind, width in kinds if _is(element, kind)), -1)


def _as_text(sql: str) -> str:
    if _INTEGER.fullmatch(sql):
        return f"'{sql}'"
    return sql if is_untyped(sql) else f"CAST({sql} AS pg_catalog.text)"


def _members(element: Any) -> list[Any] | None:
    """Return the members of a list; None for a query, and for text."""
    if isinstance(element, Grouping):
        return _members(element.element)
    if isinstance(element, ClauseList):
        return list(element.clauses)
    if not isinstance(element, BindParameter) or element.effective_value is None:
        return None
    type_ = element.type
    if isinstance(type_, sqltypes.TupleType):
        return [Tuple(*map(_value, values, type_.types)) for values in element.effective_value]
    return [_value(value, type_) for value in element.effective_value]


def _value(value: Any, type_: Any) -> Any:
    return null() if value is None and not type_.should_evaluate_none else BindParameter(None, value, type_)


def _has_column(element: Any) -> bool:
    return any(isinstance(part, ColumnClause | TextClause | SelectBase) for part in visitors.iterate(element))


def _found_in(is_in: bool, left: str, array: str) -> str:
    return _operation("=" if is_in else "<>", left, f"{'ANY' if is_in else 'ALL'} ({array})")


def _array(left: Any, text: str, members: Sequence[str]) -> str:
    """Return an array of what IN compares with its left side.

    :param text: the left side's.
    """
    if _is(left, sqltypes.Integer) and all(map(_INTEGER.fullmatch, members)):
        return f"ARRAY[{', '.join(members)}]"
    strings = [_STRING.fullmatch(member) for member in members]
    if _is(left, *_TEXTUAL) and all(
        string or member == "NULL" for string, member in zip(strings, members, strict=True)
    ):
        # As text, which takes its type from the left side as each of them would.
        quoted = ",".join("NULL" if string is None else _quoted(string[1]) for string in strings)
        return escape_backslashes(f"'{{{quoted}}}'")
    # The left side has a say in the array's type, and is not evaluated.
    first = text if is_untyped(text) else f"CASE WHEN false THEN {text} END"
    return f"(ARRAY[{first}, {', '.join(members)}])[2:]"


def _quoted(string: str) -> str:
    # Of a string with backslashes no array's text is made.
    escaped = string.replace('"', '\\"')
    return f'"{escaped}"'


#: How each operator that takes more than a symbol is written where the types are PostgreSQL's own.
_WRITERS: Final[Mapping[Any, Callable[..., str]]] = {
    operators.is_distinct_from: _Compiler.write_distinct,
    operators.is_not_distinct_from: _Compiler.write_distinct,
    operators.between_op: _Compiler.write_between,
    operators.not_between_op: _Compiler.write_between,
    operators.match_op: _Compiler.write_match,
    operators.not_match_op: _Compiler.write_match,
    operators.regexp_match_op: _Compiler.write_regexp_match,
    operators.not_regexp_match_op: _Compiler.write_regexp_match,
    operators.regexp_replace_op: _Compiler.write_regexp_replace,
    operators.truediv: _Compiler.write_truediv,
    operators.floordiv: _Compiler.write_floordiv,
    operators.json_getitem_op: _Compiler.write_json_item,
    operators.json_path_getitem_op: _Compiler.write_json_item,
    **dict.fromkeys(_LIKES, _Compiler.write_like),
}


class _Dialect(TypesDialect):
    statement_compiler: type[PGCompiler] = _Compiler
    supports_statement_cache: bool = True


#: Writes conditions.
QUALIFIED: Final = _Dialect()
