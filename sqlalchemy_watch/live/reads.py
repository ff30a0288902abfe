"""The tables that a statement reads, and which of their rows: found in the compiled statement.

The plain one does not name what the ORM adds in compiling: joins of relationships, eager loads, column properties,
criteria of inheritance and of loaders. It does so for each SELECT within a statement by itself.
"""

from __future__ import annotations

import datetime
import itertools
import re
import uuid
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Table, types
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect
from sqlalchemy.sql import dml, elements, functions, operators, selectable, visitors
from sqlalchemy.sql.compiler import Compiled

from ..errors import ConfigurationError, one_line

#: Functions whose result changes while no row does.
VOLATILE = frozenset([
    "age", "clock_timestamp", "current_date", "current_time", "current_timestamp", "currval", "dblink",
    "gen_random_uuid", "lastval", "localtime", "localtimestamp", "next_value", "nextval", "now", "pg_current_snapshot",
    "pg_current_wal_lsn", "pg_current_xact_id", "random", "random_normal", "setval", "statement_timestamp", "sysdate",
    "timeofday", "transaction_timestamp", "txid_current", "txid_current_snapshot", "uuid_generate_v1",
    "uuid_generate_v1mc", "uuid_generate_v4", "uuidv4", "uuidv7",
])  # fmt: skip

#: Combinations of values that a statement is told apart by; one with longer lists concerns all rows of the table.
MOST_KEYS = 200

#: Texts, of `literal_column()` and `text()`, that read nothing.
_CONSTANT = re.compile(r"\*|[0-9.]+|'[^']*'|null|true|false", re.IGNORECASE)

#: By column type the Python types of values that equal what events carry exactly if PostgreSQL's `=` says so. Text is
#: not among them: its equality is the collation's.
_EXACT: tuple[tuple[type[types.TypeEngine[Any]], tuple[type, ...]], ...] = (
    (types.Boolean, (bool,)),
    (types.Integer, (int,)),
    (types.Uuid, (uuid.UUID,)),
    (types.Date, (datetime.date,)),
)


@dataclass(frozen=True)
class Read:
    """Rows of one table: all of them, or those with certain values.

    :param columns: the names of columns.
    :param values: combinations of values of these columns: the rows that have one of them. None for all rows.
    """

    table: Table
    columns: tuple[str, ...] = ()
    values: frozenset[tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class _Condition:
    """`column = bind` or `column IN (bind)`, which all rows that are read fulfil."""

    column: str
    #: The name of the parameter.
    bind: str
    types: tuple[type, ...]


@dataclass(frozen=True)
class Analysis:
    """The tables of a statement, each with the conditions on its rows; and what can't be told of it, in words."""

    tables: tuple[tuple[Table, tuple[_Condition, ...]], ...]
    #: In words, for what no event tells of.
    refusals: tuple[str, ...]
    #: In words, for what must not stand in such a statement at all.
    forbidden: tuple[str, ...]

    def reads(self, parameters: Mapping[str, Any]) -> frozenset[Read]:
        """Return the rows that the statement reads with these parameters."""
        return frozenset(_read(table, conditions, parameters) for table, conditions in self.tables)


def _read(table: Table, conditions: tuple[_Condition, ...], parameters: Mapping[str, Any]) -> Read:
    chosen: dict[str, list[Any]] = {}
    count = 1
    for condition in conditions:
        value = parameters.get(condition.bind)
        values = list(dict.fromkeys(value)) if isinstance(value, (list, tuple)) else [value]
        if condition.column in chosen or not all(type(each) in condition.types for each in values):
            continue
        if count * len(values) > MOST_KEYS:
            continue
        count *= len(values)
        chosen[condition.column] = values
    if not chosen:
        return Read(table)
    columns = tuple(sorted(chosen))
    return Read(table, columns, frozenset(itertools.product(*(chosen[column] for column in columns))))


class _Compiler(PGCompiler):
    """Compiles as PostgreSQL's does, and keeps each SELECT as it is in the end, with the tables in its FROM."""

    selects: list[tuple[selectable.Select[Any], list[Table]]]
    #: How often each table stands in some FROM.
    times: dict[Table, int]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.selects, self.times = [], defaultdict(int)
        super().__init__(*arguments, **options)

    def translate_select_structure(self, select_stmt: Any, **kwargs: Any) -> Any:
        """Note a SELECT, at any level; a hook for dialects that need another one in its place."""
        self.selects.append((select_stmt, []))
        return select_stmt

    def visit_table(self, table: Any, asfrom: Any = False, **kwargs: Any) -> Any:  # type: ignore[override]
        """Note a table that is rendered in a FROM, so that those of an enclosing SELECT don't count."""
        if asfrom:
            plain = _plain(table)
            self.times[plain] += 1
            rendered = self.stack[-1]["selectable"] if self.stack else None
            alias = kwargs.get("enclosing_alias")
            is_aliased = alias is not None and _plain(alias.element) is plain
            for select, tables in self.selects:
                if select is rendered and not is_aliased:
                    tables.append(plain)
        return super().visit_table(table, asfrom=asfrom, **kwargs)  # type: ignore[no-untyped-call]


class _Dialect(PGDialect):
    statement_compiler = _Compiler
    supports_statement_cache = True


_DIALECT = _Dialect()  # type: ignore[no-untyped-call]

#: By the key that SQLAlchemy caches by: the statement as compiled, and what it reads. Of web pages there are many with
#: other values, and few of another shape.
_shapes: dict[Any, tuple[_Compiler, Analysis]] = {}

#: Shapes that are kept.
MOST_SHAPES = 500

#: By the statement that is executed.
_executed: weakref.WeakKeyDictionary[Compiled, Analysis] = weakref.WeakKeyDictionary()


def reads_of(statement: Any) -> tuple[Analysis, Mapping[str, Any]]:
    """Return what a statement reads, and the parameters that it has of itself.

    :raises ConfigurationError: for a parameter without a value.
    """
    key = statement._generate_cache_key()  # noqa: SLF001 - SQLAlchemy's own word for what identical statements are
    found = None if key is None else _shapes.get(key.key)
    if found is None:
        compiled = cast(_Compiler, statement.compile(dialect=_DIALECT, cache_key=key))
        found = compiled, _analyse(compiled)
        if key is not None:
            if len(_shapes) >= MOST_SHAPES:
                _shapes.clear()
            _shapes[key.key] = found
    compiled, analysis = found
    try:
        return analysis, compiled.construct_params(extracted_parameters=None if key is None else key.bindparams)
    except sa_exc.InvalidRequestError as error:
        raise ConfigurationError(
            f"live(): {one_line(error)}: give bindparam() a value, or a function of a session"
        ) from None


def reads_of_executed(statement: Compiled) -> Analysis:
    """Return what a statement reads that is about to be executed. SQLAlchemy keeps it, and so this is kept with it."""
    found = _executed.get(statement)
    if found is None:
        compiled = cast(Any, statement.statement).compile(dialect=_DIALECT)
        found = _executed[statement] = _analyse(compiled)
    return found


def _analyse(compiled: _Compiler) -> Analysis:
    return _Finder(compiled).analysis()


class _Finder:
    """Looks through one statement."""

    def __init__(self, compiled: _Compiler) -> None:
        self._compiled = compiled
        self._names: Mapping[elements.BindParameter[Any], str] = getattr(compiled, "bind_names", {})
        self._conditions: dict[Table, tuple[_Condition, ...]] = {}
        self._refusals: dict[str, None] = {}
        self._forbidden: dict[str, None] = {}

    def analysis(self) -> Analysis:
        """Return all that is found."""
        seen: dict[Table, None] = {}
        times = self._compiled.times
        for root in (self._compiled.statement, *(select for select, _ in self._compiled.selects)):
            for element in visitors.iterate(cast(Any, root)):
                self._look(element)
                if isinstance(element, Table):
                    seen[_plain(element)] = None
        for select, own in self._compiled.selects:
            self._look_at_conditions(select, own)
        seen.update(dict.fromkeys(times))
        tables = tuple((t, self._conditions.get(t, ()) if times[t] == 1 else ()) for t in seen)
        return Analysis(tables, tuple(self._refusals), tuple(self._forbidden))

    def _look(self, element: Any) -> None:
        if isinstance(element, dml.UpdateBase):
            self._forbidden["a statement that writes"] = None
        elif getattr(element, "_for_update_arg", None) is not None:
            self._forbidden["with_for_update()"] = None
        elif isinstance(element, elements.TextClause):
            if not _CONSTANT.fullmatch(element.text.strip()):
                self._refusals[text_words(element.text)] = None
        elif isinstance(element, elements.ColumnClause) and element.is_literal:
            if not _CONSTANT.fullmatch(element.name):
                self._refusals[f"literal_column({_cut(element.name)})"] = None
        elif isinstance(element, functions.FunctionElement):
            name = str(getattr(element, "name", "")).lower()
            if name in VOLATILE:
                self._refusals[f"{name}()"] = None
        elif isinstance(element, selectable.TableSample):
            self._refusals["tablesample()"] = None
        elif isinstance(element, selectable.TableClause) and not isinstance(element, Table):
            self._refusals[f"table({_cut(element.name)})"] = None

    def _look_at_conditions(self, select: selectable.Select[Any], own: list[Table]) -> None:
        # A condition on the table of an enclosing statement says nothing about that table's rows.
        conditions: dict[Table, list[_Condition]] = defaultdict(list)
        for clause in _conjuncts(select.whereclause):
            for table, condition in self._equalities(clause):
                if table in own:
                    conditions[table].append(condition)
        for table, found in conditions.items():
            self._conditions[table] = tuple(found)

    def _equalities(self, clause: Any) -> Iterator[tuple[Table, _Condition]]:
        if not isinstance(clause, elements.BinaryExpression) or clause.operator not in (operators.eq, operators.in_op):
            return
        sides = [(clause.left, clause.right)]
        if clause.operator is operators.eq:
            sides.append((clause.right, clause.left))
        for column, bind in sides:
            table, name = _plain(getattr(column, "table", None)), getattr(column, "name", None)
            if not (isinstance(bind, elements.BindParameter) and isinstance(table, Table) and isinstance(name, str)):
                continue
            # The parameter's own type may make another value of it.
            allowed = _exact_types(column.type) if _exact_types(column.type) == _exact_types(bind.type) else ()
            if allowed and bind in self._names and bind.expanding is (clause.operator is operators.in_op):
                yield table, _Condition(name, self._names[bind], allowed)


def text_words(sql: str) -> str:
    """Return words for SQL as text."""
    return f"text({_cut(sql)})"


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _plain(element: Any) -> Any:
    """Return the table itself, where the ORM has written something beside it."""
    while getattr(element, "_annotations", None):
        plain = element._deannotate()  # noqa: SLF001 - no public way back from an annotated table
        if plain is element:
            break
        element = plain
    return element


def _conjuncts(clause: Any) -> Iterator[Any]:
    if isinstance(clause, elements.BooleanClauseList) and clause.operator is operators.and_:
        for each in clause.clauses:
            yield from _conjuncts(each)
    elif isinstance(clause, elements.Grouping):
        yield from _conjuncts(clause.element)
    elif clause is not None:
        yield clause


def _exact_types(type_: types.TypeEngine[Any]) -> tuple[type, ...]:
    found = type_.dialect_impl(_DIALECT)
    if isinstance(type_, types.TypeDecorator) or isinstance(found, types.TypeDecorator):
        return ()
    if isinstance(found, types.Enum):
        return (str,) if found.enum_class is None else (cast(type, found.enum_class),)
    return next((allowed for column_type, allowed in _EXACT if isinstance(found, column_type)), ())
