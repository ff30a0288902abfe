"""From values of a payload to the Python values that the attributes of the loaded row would have.

First psycopg's own loader for the type reads PostgreSQL's text form, then SQLAlchemy's result processor
(Enum, TypeDecorator, ...) does what it does to a loaded value.
"""

from __future__ import annotations

import ipaddress
import json
import struct
from typing import Any

import psycopg.types.string
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader, Transformer
from psycopg.pq import Format
from psycopg.types.hstore import HstoreLoader
from sqlalchemy import Engine, create_engine
from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.ranges import AbstractMultiRange
from sqlalchemy.types import TypeEngine

from ... import wire
from .rows import Decode

#: Types whose values a driver returns as text, where psycopg has a Python type for them.
_TEXT_TYPES: dict[str, frozenset[str]] = {
    "psycopg2": frozenset(
        {"inet", "cidr"}
        | {f"{kind}multirange" for kind in ("int4", "int8", "num", "date", "ts", "tstz")}
    ),
    "pg8000": frozenset({"cidr", "time with time zone"}),
}  # fmt: skip
_TEXT_TYPES["psycopg2cffi"] = _TEXT_TYPES["psycopg2"]

#: Spellings that psycopg's registry doesn't know.
_ALIASES = {"float": "float8", "decimal": "numeric", "char": "bpchar", "nchar": "bpchar"}


class _Context:
    """The owner of adapters, as psycopg asks for one."""

    connection = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters


class _NetworkLoader(Loader):
    """Loads INET as pg8000 does: a network where there is a netmask."""

    def load(self, data: Buffer) -> Any:
        text = bytes(data).decode()
        return ipaddress.ip_network(text, False) if "/" in text else ipaddress.ip_address(text)


class ValueDecoders:
    """Makes decoders for column types, with the settings of one engine (JSON deserializer, INET)."""

    def __init__(self, engine: Engine) -> None:
        self._driver = engine.dialect.driver
        self._json_loads = getattr(engine.dialect, "_json_deserializer", None) or json.loads
        # An engine that never connects, for SQLAlchemy's own result processing over psycopg. It can't be the one
        # dialect that text is written in: that knows no deserializer of this engine's, and is of no certain driver.
        own = create_engine("postgresql+psycopg://", json_deserializer=self._json_loads)
        self._dialect = own.dialect
        adapters = AdaptersMap(self._dialect.create_connect_args(own.url)[1].get("context", psycopg.adapters))
        texts = _TEXT_TYPES.get(self._driver, frozenset())
        if getattr(engine.dialect, "_native_inet_types", None) is False:
            texts |= {"inet", "cidr"}
        elif self._driver == "pg8000":
            adapters.register_loader("inet", _NetworkLoader)
        for name in texts:
            adapters.register_loader(name, psycopg.types.string.TextLoader)
        self._types = adapters.types
        self._transformer = Transformer(_Context(adapters))

    def decoder(self, type_: TypeEngine[Any]) -> Decode | None:
        """Return a function that decodes one value of a payload; None where the values are right as they are."""
        load = self._loader(type_)
        process = self._processor(type_)
        if load is None or process is None:
            return load or process
        return lambda value: process(load(value))

    def _processor(self, type_: TypeEngine[Any]) -> Decode | None:
        if isinstance(type_, postgresql.HSTORE) or (
            isinstance(type_, AbstractMultiRange) and wire.sql_type(type_) in _TEXT_TYPES.get(self._driver, ())
        ):
            return None
        return type_.dialect_impl(self._dialect).result_processor(self._dialect, self._oid(wire.sql_type(type_)))

    def _oid(self, name: str) -> int | None:
        """Return the number that PostgreSQL has for the type; None for types that psycopg does not know."""
        base = name.partition("[")[0]
        info = self._types.get(_ALIASES.get(base, base)) if base else None
        if info is None:
            return None
        return info.array_oid if name.endswith("]") else info.oid

    def _loader(self, type_: TypeEngine[Any]) -> Decode | None:
        name = wire.sql_type(type_)
        if wire.bare_type(type_) is not None:
            return None
        if name == "bytea":
            return _not_null(bytes.fromhex)
        if name in ("json", "jsonb"):
            return self._json_loader()
        if name == "hstore":
            # Anybody may send anything: SQLAlchemy's expression, before 2.0.51, takes for ever on a few odd texts.
            read = HstoreLoader(0).load
            return _not_null(lambda value: read(value.encode()))
        oid = self._oid(name)
        if oid is None:
            return None
        load = self._transformer.get_loader(oid, Format.TEXT).load
        if self._driver == "asyncpg" and name.partition("[")[0] == "real":
            return lambda value: _widened(None if value is None else load(value.encode()))
        if name == "timestamp with time zone":
            return _not_null(lambda value: load(_with_offset(value)))
        return _not_null(lambda value: load(value.encode()))

    def _json_loader(self) -> Decode | None:
        # In SQLAlchemy 2.0 the driver deserializes JSON, in 2.1 the type does.
        if sqltypes.JSON().dialect_impl(self._dialect).result_processor(self._dialect, None) is None:
            return _not_null(self._json_loads)
        return None


def _not_null(load: Decode) -> Decode:
    return lambda value: None if value is None else load(value)


def _with_offset(value: str) -> bytes:
    # The loader looks for "BC" at the end, and would not find it in front of an offset.
    return value.encode() if value.endswith("BC") else f"{value}+00".encode()


def _widened(value: Any) -> Any:
    """Return a REAL as asyncpg reads it: from its four bytes, where other drivers read its decimal text."""
    if isinstance(value, list):
        return [_widened(item) for item in value]
    return None if value is None else struct.unpack("f", struct.pack("f", value))[0]
