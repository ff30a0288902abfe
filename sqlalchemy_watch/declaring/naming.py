"""Names of triggers, functions and channels: cut by bytes, never by the server."""

from __future__ import annotations

import hashlib
import json

PREFIX = "watch_"

#: PostgreSQL cuts identifiers at NAMEDATALEN - 1 bytes; `pg_notify` refuses longer channels, LISTEN
#: silently truncates them.
MAX_BYTES = 63

_HASH_DIGITS = 8


def object_name(table: str, label: str) -> str:
    """Return the name of both the trigger and its function, which lives in the table's schema.

    It tells table and label apart: `order` with `items_inserted` is not `order_items` with `inserted`. Two underscores
    stand before a label that has one itself, and a hash behind names in which that would not be plain.
    """
    separator = "__" if "_" in label else "_"
    is_plain = "__" not in f"_{table}_" and "__" not in label
    return _fit(f"{PREFIX}{table}{separator}{label}", (table, label), hashed=not is_plain)


def channel_name(schema: str | None, table: str, label: str) -> str:
    """Return the name of the channel; it has the schema where the declaration has one.

    Two watches may have the same: payloads say which they are of.
    """
    parts = (table, label) if schema is None else (schema, table, label)
    return _fit(PREFIX + "_".join(parts), parts)


def _fit(name: str, parts: tuple[str, ...], *, hashed: bool = False) -> str:
    encoded = name.encode()
    if len(encoded) <= MAX_BYTES and not hashed:
        return name
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_HASH_DIGITS]
    kept = encoded[: MAX_BYTES - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{kept}_{digest}"
