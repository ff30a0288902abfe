"""The tables that a statement reads, and which of their rows: found in the compiled statement.

The plain one does not name what the ORM adds in compiling: joins of relationships, eager loads, column properties,
criteria of inheritance and of loaders.
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
from sqlalchemy.sql import dml, elements, functions, operators, selectable, visitors
from sqlalchemy.sql.compiler import Compiled

from ..declaring.dialect import POSTGRESQL

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

    :param keys: column names with values: the rows that have one of these combinations. None for all rows.
    """

    table: Table
    columns: tuple[str, ...] = ()
    values: frozenset[tuple[Any, ...]] | None = None


@dataclass(frozen=True)
class _Condition:
    """`column = bind` or `column IN (bind)`, which all rows that are read fulfil."""

    column: str
    bind: elements.BindParameter[Any]
    types: tuple[type, ...]


@dataclass(frozen=True)
class Analysis:
    """The tables of a statement, each with the conditions on its rows; and what can't be told of it, in words."""

    tables: tuple[tuple[Table, tuple[_Condition, ...]], ...]
    refusals: tuple[str, ...]
    #: In words, for what must not stand in such a statement at all.
    forbidden: tuple[str, ...]


_analysed: weakref.WeakKeyDictionary[Compiled, Analysis] = weakref.WeakKeyDictionary()


def compiled(statement: Any) -> Compiled:
    """Return a statement as it would be run on PostgreSQL."""
    return cast(Compiled, statement.compile(dialect=POSTGRESQL))


def analyse(statement: Compiled) -> Analysis:
    """Return what a compiled statement reads. SQLAlchemy keeps compiled statements, and so this is kept with them."""
    found = _analysed.get(statement)
    if found is None:
        found = _analysed[statement] = _Finder(statement).analysis()
    return found


def reads_of(statement: Compiled, parameters: Mapping[str, Any] | None) -> frozenset[Read]:
    """Return the rows that a statement reads with these parameters; None for those that it has of itself."""
    names = cast("Mapping[elements.BindParameter[Any], str]", getattr(statement, "bind_names", {}))
    given = statement.params if parameters is None else parameters
    return frozenset(_read(table, conditions, names, given) for table, conditions in analyse(statement).tables)


def _read(
    table: Table,
    conditions: tuple[_Condition, ...],
    names: Mapping[elements.BindParameter[Any], str],
    parameters: Mapping[str, Any],
) -> Read:
    chosen: dict[str, list[Any]] = {}
    count = 1
    for condition in conditions:
        value = parameters.get(names.get(condition.bind, ""))
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


class _Finder:
    """Looks through one statement."""

    def __init__(self, statement: Compiled) -> None:
        state = getattr(statement, "compile_state", None)
        self._root = getattr(state, "statement", None)
        if self._root is None:
            self._root = statement.statement
        self._times: dict[Table, int] = defaultdict(int)
        self._conditions: dict[Table, tuple[_Condition, ...]] = {}
        self._refusals: dict[str, None] = {}
        self._forbidden: dict[str, None] = {}

    def analysis(self) -> Analysis:
        """Return all that is found."""
        seen: dict[Table, None] = {}
        for element in visitors.iterate(cast(Any, self._root)):
            self._look(element)
            if isinstance(element, Table):
                seen[_plain(element)] = None
            if isinstance(element, selectable.Select):
                self._look_at_select(element)
        for table in self._times:
            seen[table] = None
        tables = tuple((t, self._conditions.get(t, ()) if self._times[t] == 1 else ()) for t in seen)
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

    def _look_at_select(self, select: selectable.Select[Any]) -> None:
        own = []
        for source in select.get_final_froms():
            for leaf in _leaves(source):
                base = leaf
                while isinstance(base, selectable.AliasedReturnsRows):
                    base = base.element
                base = _plain(base)
                if isinstance(base, Table):
                    self._times[base] += 1
                if isinstance(table := _plain(leaf), Table):
                    own.append(table)
        # A condition on the table of an enclosing statement says nothing about that table's rows.
        conditions: dict[Table, list[_Condition]] = defaultdict(list)
        for clause in _conjuncts(select.whereclause):
            for table, condition in _equalities(clause):
                if table in own:
                    conditions[table].append(condition)
        for table, found in conditions.items():
            self._conditions[table] = tuple(found)


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


def _leaves(source: Any) -> Iterator[Any]:
    if isinstance(source, selectable.Join):
        yield from _leaves(source.left)
        yield from _leaves(source.right)
    elif isinstance(source, selectable.FromGrouping):
        yield from _leaves(source.element)
    else:
        yield source


def _conjuncts(clause: Any) -> Iterator[Any]:
    if isinstance(clause, elements.BooleanClauseList) and clause.operator is operators.and_:
        for each in clause.clauses:
            yield from _conjuncts(each)
    elif isinstance(clause, elements.Grouping):
        yield from _conjuncts(clause.element)
    elif clause is not None:
        yield clause


def _equalities(clause: Any) -> Iterator[tuple[Table, _Condition]]:
    if not isinstance(clause, elements.BinaryExpression) or clause.operator not in (operators.eq, operators.in_op):
        return
    sides = [(clause.left, clause.right)]
    if clause.operator is operators.eq:
        sides.append((clause.right, clause.left))
    for column, bind in sides:
        table, name = _plain(getattr(column, "table", None)), getattr(column, "name", None)
        allowed = _exact_types(getattr(column, "type", None))
        if not (isinstance(bind, elements.BindParameter) and isinstance(table, Table) and isinstance(name, str)):
            continue
        if allowed and bind.expanding is (clause.operator is operators.in_op):
            yield table, _Condition(name, bind, allowed)


def _exact_types(type_: Any) -> tuple[type, ...]:
    if isinstance(type_, types.Enum):
        return (str,) if type_.enum_class is None else (cast(type, type_.enum_class),)
    return next((allowed for column_type, allowed in _EXACT if isinstance(type_, column_type)), ())
