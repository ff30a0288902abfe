"""A schema in which everything that the trigger functions name has a namesake, which tells that it was called.

It is told by a NOTICE, which no rollback takes back; by functions of types that PL/pgSQL does not take, by an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import psycopg

Client = psycopg.Connection[Any]

#: What SQL writes itself for IN, BETWEEN, LIKE, IS DISTINCT FROM and the like, or an expression may name.
SYMBOLS = {"=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%", "||", "~~", "!~~", "~~*", "!~~*", "~", "*<>", "*="}

#: Types that have a namesake, and operators that PostgreSQL has not: of a closer fit than its own.
TYPES = ("int2", "int4", "int8", "numeric", "float8", "text", "varchar", "bpchar", "name", "bool", "oid", "uuid",
         "timestamptz", "date", "bytea", "json", "jsonb", "xid8")  # fmt: skip

RELATIONS = ("pg_class", "pg_constraint", "pg_namespace", "pg_type")

_BASE = """
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.runs(what text) RETURNS boolean LANGUAGE plpgsql AS
  'BEGIN RAISE NOTICE USING MESSAGE = ''hostile: '' OPERATOR(pg_catalog.||) what; RETURN true; END';
CREATE TYPE hostile.record AS ();
CREATE TYPE hostile.trigger AS ();
CREATE VIEW hostile.watch_new AS SELECT 1 AS id WHERE hostile.runs('watch_new');
CREATE VIEW hostile.watch_old AS SELECT 1 AS id WHERE hostile.runs('watch_old');
"""

#: For types that no function of PL/pgSQL takes: one of the server's that only raises.
_RAISES = "LANGUAGE internal {}AS 'trigger_in'"

_OVERLOADS = """
SELECT proname, prokind, pg_get_function_arguments(oid), format_type(prorettype, NULL)
FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s)
"""

_OPERATORS = """
SELECT oprname, l.typname, r.typname, format_type(oprresult, NULL)
FROM pg_operator JOIN pg_type AS l ON l.oid = oprleft JOIN pg_type AS r ON r.oid = oprright WHERE oprname = ANY(%s)
"""


def make_hostile(admin: Client, functions: Iterable[str], symbols: Iterable[str], tables: Iterable[str]) -> None:
    """Make the schema.

    :param functions: names of functions of PostgreSQL's.
    :param symbols: those of operators, beside `SYMBOLS`.
    :param tables: names of tables in schema public.
    """
    statements = [
        _BASE,
        *(f"CREATE DOMAIN hostile.{name} AS pg_catalog.{name} CHECK (hostile.runs('{name}'))" for name in TYPES),
        *(_view("pg_catalog", name) for name in RELATIONS),
        *(_view("public", name) for name in tables),
        *_functions(admin, functions),
        *_operators(admin, SYMBOLS.union(symbols)),
    ]
    admin.execute(";\n".join(statements).encode())


def hostile_calls(client: Client) -> list[str]:
    """What was called in the schema by this session, from now on, in a list that grows."""
    calls: list[str] = []

    def keep(diagnostic: psycopg.errors.Diagnostic) -> None:
        if (diagnostic.message_primary or "").startswith("hostile: "):
            calls.append(diagnostic.message_primary or "")

    client.add_notice_handler(keep)
    return calls


def _view(schema: str, name: str) -> str:
    return f"CREATE VIEW hostile.{name} AS SELECT * FROM {schema}.{name} WHERE hostile.runs('{name}')"


def _functions(admin: Client, names: Iterable[str]) -> Iterator[str]:
    for name, kind, arguments, result in admin.execute(_OVERLOADS, [list(names)]):
        if kind == "a":
            state = "text" if result == "record" or result.startswith("any") else result
            arguments = arguments.replace('"any"', "bool")  # of which no step can be made
            yield _spy(f"{name}_step", ", ".join(filter(None, [state, arguments])), state)
            yield f"CREATE AGGREGATE hostile.{name}({arguments or '*'}) (SFUNC = hostile.{name}_step, STYPE = {state})"
        elif kind == "w" or re.search(r'"any"|cstring|internal', arguments):
            raises = _RAISES.format("WINDOW " if kind == "w" else "")
            yield f"CREATE FUNCTION hostile.{name}({arguments}) RETURNS {result} {raises}"
        else:
            yield _spy(name, arguments, result)


def _operators(admin: Client, symbols: Iterable[str]) -> Iterator[str]:
    pairs = {*zip(TYPES, TYPES, strict=True), *product(TYPES, ("text", "int4")), *product(("text", "int4"), TYPES)}
    results = {"||": "text"} | dict.fromkeys("+-*/%", "int4")
    made = {(symbol, *pair): results.get(symbol, "bool") for symbol in symbols for pair in pairs}
    made |= {(symbol, *pair): result for symbol, *pair, result in admin.execute(_OPERATORS, [list(symbols)])}
    for number, ((symbol, *pair), result) in enumerate(made.items()):
        left, right = (f'pg_catalog."{name}"' for name in pair)
        yield _spy(f"operator_{number}", f"{left}, {right}", result, symbol)
        yield (
            f"CREATE OPERATOR hostile.{symbol} "
            f"(FUNCTION = hostile.operator_{number}, LEFTARG = {left}, RIGHTARG = {right})"
        )


def _spy(name: str, arguments: str, result: str, shown: str = "") -> str:
    end = "" if result == "void" else "RETURN NULL; "
    body = f"BEGIN PERFORM hostile.runs('{shown or name}({arguments})'); {end}END"
    return f"CREATE FUNCTION hostile.{name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS $spy${body}$spy$"
