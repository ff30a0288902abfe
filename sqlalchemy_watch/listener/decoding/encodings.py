"""Databases that are not UTF-8: the listener reads them in their own encoding, and converts.

Were the server to convert, one value that it can't would be an error in place of a notification, along with all
that was to be sent behind it, and would end the stream of a slot each time that it comes to it.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import generators, sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader

#: A payload in the database's encoding, as UTF-8; what can't be converted stays what it is, and is no UTF-8.
Convert = Callable[[bytes], bytes]

_TEXTS = ("text", "varchar", "name", "bpchar", '"char"')


class _RawTextLoader(Loader):
    """SQL_ASCII is bytes of any kind, and psycopg would give bytes."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="surrogateescape")


def adopt_encoding(connection: psycopg.Connection[object]) -> str:
    """Have the server send everything in the database's own encoding; gives Python's name of that.

    It stays UTF-8 where Python does not know the encoding. SQL_ASCII is read as UTF-8, which it mostly is.
    """
    name = connection.info.parameter_status("server_encoding") or "UTF8"
    if name == "UTF8":
        return "utf-8"
    _set_encoding(connection, name)
    try:
        codec = connection.info.encoding
    except psycopg.NotSupportedError:
        _set_encoding(connection, "UTF8")
        return "utf-8"
    if codec != "ascii":
        return codec
    for type_name in _TEXTS:
        connection.adapters.register_loader(type_name, _RawTextLoader)
    return "utf-8"


def _set_encoding(connection: psycopg.Connection[object], name: str) -> None:
    # Below psycopg's cursors: those refuse to work in an encoding that Python does not know.
    connection.pgconn.send_query(sql.SQL("SET client_encoding = {}").format(sql.Literal(name)).as_bytes(None))
    connection.wait(generators.execute(connection.pgconn))


def converter(codec: str) -> Convert | None:
    """From an encoding to UTF-8; None where there is nothing to convert."""
    if codec == "utf-8":
        return None
    return lambda content: content.decode(codec, "surrogateescape").encode("utf-8", "surrogateescape")
