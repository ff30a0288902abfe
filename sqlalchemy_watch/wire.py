"""The wire format, which the trigger functions write and the listener reads. It is defined here alone.

A payload is one JSON object without blanks. Field names come once, rows are arrays, unknown fields are ignored::

    {"v":1,"table":"users","label":"updated","op":"updated","columns":["id","role_id"],"old":["id","role_id"],
     "oid":16400,"txid":771,"at":"2026-11-26T21:48:50.123456+01:00","context":"{\\"user\\": 1}",
     "rows":[[7,3,"01",7,2],[9]]}

The head comes first, and is the same byte for byte for a declaration, so that a listener need not parse it: `v`,
`table`, `label`, `op`, `columns`, `old` (with `Watch("updated", old=True)`), and `schema` where the declaration names
one. Behind it, in any order:

- `oid` is the table or partition whose trigger fired (`tg_relid`). Of row-level functions always; of others where the
  schema is not declared and the payload is not for the log, which may be read when the table has long been dropped.
- `schema` is that of this table or partition, where none is declared and the payload is for the log as well.
- `txid` and `at`, the time by the server's clock in ISO 8601 with the writer's offset, where it is notified. In the log
  the transaction's beginning has its number, and the time of its commit.
- `context` is a JSON text within the JSON, since any client can set it to anything. It is there only where it is set,
  and of more than `MAX_CONTEXT_BYTES`, as it stands here with its quotes, it counts as not set.
- `rows`: a row holds the values of `columns`, then, of a row with previous values, a text with a 1 or a 0 for each name
  in `old` (changed or not) and these values. `old` begins with the key, which may have changed.
- A row that is shorter than `columns` holds the first so many of them, the key (and discriminator) at least: the whole
  row would not fit.
- `resync`, a reason, says that rows are missing: reload.

PostgreSQL drops a notification that equals another one of its transaction: `at` tells them apart.

Integers and booleans travel as JSON numbers and booleans, NULL as null, everything else as a string
holding PostgreSQL's own text form, which psycopg's loaders read back into the exact Python value; of a
timestamp with time zone in UTC and without an offset.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import types as sqltypes
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import CompileError
from sqlalchemy.types import TypeEngine

from .declaring.dialect import POSTGRESQL
from .declaring.spec import TableWatch

VERSION: Final = 1

#: `pg_notify` refuses a payload of 8,000 bytes and more.
MAX_PAYLOAD_BYTES: Final = 7_999

#: The size from which on the rows of a large statement go into another durable message.
DURABLE_PAYLOAD_BYTES: Final = 65_536

#: A larger message is never logged. From 1,020 MB on the server refuses one, which would make the write fail, and long
#: before that nobody can read it any more.
MAX_MESSAGE_BYTES: Final = 512 * 1024 * 1024

#: Prefix of logical messages; the channel follows.
DURABLE_PREFIX: Final = "sqlalchemy_watch/"

#: That of a message with the name of a group for which somebody has requested a backfill.
BACKFILL_PREFIX: Final = DURABLE_PREFIX + "backfill"

#: The oldest PostgreSQL that serves durable delivery: from 14 on pgoutput passes logical messages on.
DURABLE_SINCE: Final = 14


def lowest_wal_level(version: int) -> str:
    """Return the `wal_level` that durable delivery needs at least: 19 raises it by itself, with the first slot."""
    return "replica" if version >= 19 else "logical"


#: Bytes of a payload that column names may take, and those that a context may. The rest is for rows.
MAX_NAMES_BYTES: Final = 2_500
MAX_CONTEXT_BYTES: Final = 2_000

#: Reasons in `resync`.
TOO_LARGE: Final = "a row does not fit into a notification"
BUILD_FAILED: Final = "the trigger function could not build the notification"

#: Settings of the writer's session, which the trigger functions read.
MUTED_SETTING: Final = "sqlalchemy_watch.muted"
CONTEXT_SETTING: Final = "sqlalchemy_watch.context"


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

#: To spell a type takes as long as a good part of a function's text, in which it is asked for again and again.
_spelled: WeakKeyDictionary[TypeEngine[Any], str] = WeakKeyDictionary()


def sql_type(type_: TypeEngine[Any]) -> str:
    """Return the type as PostgreSQL spells it, in lower case and without length, precision or collation.

    A DOMAIN is the type it is made of. The result is empty for other types of the user's own, and for those that
    SQLAlchemy can't spell.
    """
    spelled = _spelled.get(type_)
    if spelled is None:
        spelled = _spelled[type_] = _spell(type_)
    return spelled


def _spell(type_: TypeEngine[Any]) -> str:
    impl: Any = type_.dialect_impl(POSTGRESQL)
    if isinstance(impl, sqltypes.TypeDecorator):
        impl = impl.impl_instance
    if isinstance(impl, postgresql.DOMAIN):
        return sql_type(impl.data_type)
    if isinstance(impl, postgresql.base.NamedType):
        return ""
    try:
        spelled = type_.compile(dialect=POSTGRESQL).lower()
    except CompileError:
        return ""
    if (single := re.match(r"float\((\d+)\)", spelled)) and int(single[1]) <= 24:
        return "real" + spelled[single.end() :]
    spelled = re.sub(r" collate .*?(?=(\[\])*$)", "", spelled)
    return re.sub(r"^interval\b[^\[]*", "interval", re.sub(r" *\([0-9, ]*\)", "", spelled))


def bare_type(type_: TypeEngine[Any]) -> type | None:
    """Return `int` or `bool` where values travel as JSON numbers or booleans; None where they travel as strings."""
    return {"smallint": int, "integer": int, "bigint": int, "boolean": bool}.get(sql_type(type_))


def is_pickled(type_: TypeEngine[Any]) -> bool:
    """Return True if values are unpickled when they are read."""
    while isinstance(type_, sqltypes.TypeDecorator) and not isinstance(type_, sqltypes.PickleType):
        type_ = type_.impl_instance
    return isinstance(type_, sqltypes.PickleType)


def head_fields(watch: TableWatch) -> dict[str, Any]:
    """Return the head of a payload: the fields that are known beforehand."""
    fields: dict[str, Any] = {
        "v": VERSION,
        "table": watch.table,
        "label": watch.label,
        "op": watch.operation,
        "columns": [column.name for column in watch.carried],
    }
    if watch.old and watch.operation == "updated":
        fields["old"] = [column.name for column in watch.compared]
    if watch.schema is not None:
        fields["schema"] = watch.schema
    return fields


def head_json(watch: TableWatch) -> str:
    """Return the head as it stands in a payload, without the closing brace."""
    return _encode(head_fields(watch))[:-1]


def beginning(watch: TableWatch) -> str:
    """Return the part of the head that says which watch it is."""
    return head_json(watch).partition(',"op":')[0]


def names_size(watch: TableWatch) -> int:
    """Return the size of the constant part of a payload, in bytes."""
    return len(head_json(watch).encode())
