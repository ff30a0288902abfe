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
    """Return the name of both the trigger and its function, which lives in the table's schema."""
    return _fit(f"{PREFIX}{table}_{label}", (table, label))


def channel_name(schema: str | None, table: str, label: str) -> str:
    """Return the name of the channel; it has the schema where the declaration has one."""
    parts = (table, label) if schema is None else (schema, table, label)
    return _fit(PREFIX + "_".join(parts), parts)


def _fit(name: str, parts: tuple[str, ...]) -> str:
    encoded = name.encode()
    if len(encoded) <= MAX_BYTES:
        return name
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_HASH_DIGITS]
    kept = encoded[: MAX_BYTES - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{kept}_{digest}"
