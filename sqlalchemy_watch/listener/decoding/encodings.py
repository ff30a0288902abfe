"""Databases that are not UTF-8: the listener reads them in their own encoding, and converts.

If the server converted, a value that it can't convert would be an error: in place of the notification and of all that
was to be sent behind it, and in the stream of a slot each time that the stream comes to it.
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
from psycopg import generators, sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader

#: Converts a payload from the database's encoding to UTF-8. Bytes that can't be converted stay, and are no UTF-8.
Convert = Callable[[bytes], bytes]

_TEXTS = ("text", "varchar", "name", "bpchar", '"char"')


class _RawTextLoader(Loader):
    """Makes str of the text of SQL_ASCII, which may be bytes of any kind: psycopg would make bytes of it."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="surrogateescape")


def adopt_encoding(connection: psycopg.Connection[object]) -> str:
    """Have the server send everything in the database's own encoding, and return Python's name of it.

    The encoding stays UTF-8 where Python does not know the encoding. SQL_ASCII is read as UTF-8, which it mostly is.
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
    """Return a function that converts from an encoding to UTF-8; None where there is nothing to convert."""
    if codec == "utf-8":
        return None
    return lambda content: content.decode(codec, "surrogateescape").encode("utf-8", "surrogateescape")
