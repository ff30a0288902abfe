"""The names of a broadcast, by which those who send it and those who hear it find each other."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

import psycopg

from ..errors import ConfigurationError
from ..signals.once import WHERE

#: Of those who listen and would broadcast the same: one does, the others stand by.
LOCK = "relay --broadcast {}"


def broadcast_name(name: str | None, database: str | None) -> str:
    """Return the name of a broadcast: by default the database's.

    :raises ConfigurationError: where there is neither.
    """
    found = database if name is None else name
    if not isinstance(found, str) or not found or not found.isprintable() or len(found) > 100:
        raise ConfigurationError(
            f"name={found!r}: a broadcast has a name of 1 to 100 printable characters, by default the database's: pass "
            f"name=, the same on both sides"
        )
    return found


def subject_of(name: str) -> str:
    """Return the subject of a broadcast. Behind `.hello` it is asked where it stands."""
    return f"watch.broadcast.{quote(name, safe='').replace('.', '%2E')}"


def mark_channel(name: str) -> str:
    """Return the channel of NOTIFY for marks, which those who hear the broadcast send through it."""
    return f"watch_broadcast_{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def identity_of(connection: psycopg.Connection[Any]) -> str | None:
    """Return what tells a database from another server's of its name; None where the role may not know.

    :raises psycopg.OperationalError: where the connection is lost, or the server does not answer.
    """
    try:
        row = connection.execute(WHERE).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return None
    return None if row is None else "/".join(row)
