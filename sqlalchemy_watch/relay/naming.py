"""The names of a broadcast, by which those who send it and those who hear it find each other."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

from ..errors import ConfigurationError

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
