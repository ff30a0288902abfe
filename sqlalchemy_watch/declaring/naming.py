"""Names of triggers, functions and channels: cut by bytes, never by the server."""

from __future__ import annotations

import hashlib
import json

PREFIX = "watch_"

#: PostgreSQL cuts identifiers at NAMEDATALEN - 1 bytes; `pg_notify` refuses longer channels, LISTEN
#: silently truncates them.
MAX_BYTES = 63

_HASH_DIGITS = 8

#: Of a character, in any encoding of a server: é has two bytes in UTF-8, and three in EUC_JP.
_MOST_BYTES = 4


def object_name(table: str, label: str) -> str:
    """Return the name of both the trigger and its function, which lives in the table's schema.

    It tells table and label apart: `order` with `items_inserted` is not `order_items` with `inserted`.
    """
    return _fit(PREFIX + _joined(table, label), (table, label), hashed=not _is_plain(table, label))


def channel_name(schema: str | None, table: str, label: str) -> str:
    """Return the name of the channel; it has the schema where the declaration has one.

    A schema may make it that of another table: payloads say which watch they are of.
    """
    parts = (table, label) if schema is None else (schema, table, label)
    name = "_".join([PREFIX.rstrip("_"), *parts[:-2], _joined(table, label)])
    return _fit(name, parts, hashed=not _is_plain(table, label))


def _joined(table: str, label: str) -> str:
    """Return both, with two underscores in front of a label that has one itself."""
    return f"{table}{'__' if '_' in label else '_'}{label}"


def _is_plain(table: str, label: str) -> bool:
    """Return True if the joined name can be taken apart again; others get a hash."""
    return "__" not in f"_{table}_" and "__" not in label


def _fit(name: str, parts: tuple[str, ...], *, hashed: bool = False) -> str:
    if _size(name) <= MAX_BYTES and not hashed:
        return name
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_HASH_DIGITS]
    kept = name[: MAX_BYTES - _HASH_DIGITS - 1]
    while _size(kept) > MAX_BYTES - _HASH_DIGITS - 1:
        kept = kept[:-1]
    return f"{kept}_{digest}"


def _size(name: str) -> int:
    """Return the bytes that a name takes at the most, whatever the database's encoding is."""
    return len(name) if name.isascii() else sum(1 if c.isascii() else _MOST_BYTES for c in name)
