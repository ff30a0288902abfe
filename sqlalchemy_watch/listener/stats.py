"""What a listener tells about itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass
class Stats:
    """Counters since `start`; a copy is what `Listener.stats()` gives."""

    #: Since when LISTEN has been in force; None while there is no connection.
    connected_since: datetime | None = None
    #: Connections after the first.
    reconnects: int = 0
    #: Notifications that arrived on the channels listened to.
    notifications: int = 0
    #: Events handed to receivers (each once, however many receivers it has).
    events: int = 0
    #: Notifications dropped because the queue was full, or at `stop()`.
    dropped: int = 0
    #: Notifications that were no payload of ours.
    garbage: int = 0
    #: Notifications of a same-named table in another schema.
    ignored: int = 0
    #: Calls of receivers that raised.
    failed_receivers: int = 0
    #: `resync` signals sent.
    resyncs: int = 0
    #: Notifications waiting for the dispatch thread.
    queue_depth: int = 0
    #: Seconds between `emitted_at` and dispatch, of the newest event; None before the first. It compares
    #: the server's clock with this machine's.
    lag: float | None = None
    #: How full the server's NOTIFY queue was at the last heartbeat, 0 to 1; None before the first.
    notify_queue_usage: float | None = None

    # With durable delivery:
    #: Whether this process is the active consumer of its group, or stands by; None without a group.
    active: bool | None = None
    #: Up to where the group has acknowledged, as PostgreSQL writes positions (`16/B374D848`).
    acknowledged: str | None = None
    #: Bytes of log written since that, at the last look.
    lag_bytes: int | None = None
    #: Bytes of log the server keeps for the slot, and what it thinks of that (`wal_status`).
    wal_held_bytes: int | None = None
    wal_status: str | None = None
    #: Calls of receivers that were tried again.
    retries: int = 0
    #: Events given up.
    dead_letters: int = 0
