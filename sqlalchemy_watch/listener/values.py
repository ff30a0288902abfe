"""Payload values become the Python values that loading the row would give.

First psycopg's own loader for the type reads PostgreSQL's text form, then SQLAlchemy's result processor
(Enum, TypeDecorator, ...) does what it does to a loaded value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import psycopg.types.string
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq import Format
from sqlalchemy import Engine, create_engine
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from .. import wire

Decode = Callable[[Any], Any]

#: Drivers that give text where psycopg gives ipaddress objects.
_TEXT_INET_DRIVERS = frozenset({"psycopg2", "psycopg2cffi", "pg8000"})

#: Spellings psycopg's registry doesn't know.
_ALIASES = {"float": "float8", "decimal": "numeric", "char": "bpchar"}


class _Context:
    """What psycopg asks of the owner of adapters."""

    connection = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters


class ValueDecoders:
    """Makes decoders for column types, with the settings of one engine (JSON deserializer, INET)."""

    def __init__(self, engine: Engine) -> None:
        options: dict[str, Any] = {}
        self._json_loads = getattr(engine.dialect, "_json_deserializer", None) or json.loads
        if engine.dialect.driver in _TEXT_INET_DRIVERS:
            options["native_inet_types"] = False
        elif (native := getattr(engine.dialect, "_native_inet_types", None)) is not None:
            options["native_inet_types"] = native
        # An engine that never connects, for SQLAlchemy's own result processing over psycopg.
        own = create_engine("postgresql+psycopg://", json_deserializer=self._json_loads, **options)
        self._dialect = own.dialect
        adapters = self._dialect.create_connect_args(own.url)[1].get("context", psycopg.adapters)
        if options.get("native_inet_types") is False:
            adapters = AdaptersMap(adapters)
            for name in ("inet", "cidr"):
                adapters.register_loader(name, psycopg.types.string.TextLoader)
        self._types = adapters.types
        self._transformer = Transformer(_Context(adapters))

    def decoder(self, type_: TypeEngine[Any]) -> Decode | None:
        """How to decode one value as it stands in the payload; None where it is already right."""
        load = self._loader(type_)
        process = self._processor(type_)
        if load is None or process is None:
            return load or process
        return lambda value: process(load(value))

    def _processor(self, type_: TypeEngine[Any]) -> Decode | None:
        if isinstance(type_, postgresql.HSTORE):
            return None
        return type_.dialect_impl(self._dialect).result_processor(self._dialect, None)

    def _loader(self, type_: TypeEngine[Any]) -> Decode | None:
        name = wire.sql_type(type_)
        if wire.bare_type(type_) is not None:
            return None
        if name == "bytea":
            return _not_null(bytes.fromhex)
        if name in ("json", "jsonb"):
            return self._json_loader()
        if name == "hstore":
            return cast(Decode, postgresql.HSTORE.result_processor(postgresql.HSTORE(), self._dialect, None))
        base = name.partition("[")[0]
        info = self._types.get(_ALIASES.get(base, base))
        if info is None:
            return None
        oid = info.array_oid if name.endswith("]") else info.oid
        load = self._transformer.get_loader(oid, Format.TEXT).load
        return _not_null(lambda value: load(value.encode()))

    def _json_loader(self) -> Decode | None:
        # In SQLAlchemy 2.0 the driver deserializes JSON, in 2.1 the type does.
        if sqltypes.JSON().dialect_impl(self._dialect).result_processor(self._dialect, None) is None:
            return _not_null(self._json_loads)
        return None


def _not_null(load: Decode) -> Decode:
    return lambda value: None if value is None else load(value)
