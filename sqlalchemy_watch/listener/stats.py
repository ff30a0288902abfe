"""The numbers a listener tells about itself. Each part is written by one thread, and read by all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass
class ReadingStats:
    """Written by the source's thread, or by the dispatch thread while that reads."""

    #: The time since which LISTEN has been in force; None while there is no connection.
    connected_since: datetime | None = None
    #: Connections after the first.
    reconnects: int = 0
    #: Notifications that arrived on the channels listened to.
    notifications: int = 0
    #: Share of the server's NOTIFY queue in use at the last heartbeat, 0 to 1; None before the first.
    notify_queue_usage: float | None = None

    #: True if this process is heard, False if it stands by or is not connected: as a consumer of its group, or with
    #: `exclusive`. None without either, and before it is known.
    active: bool | None = None

    # With durable delivery:
    #: Up to where the group has acknowledged, as PostgreSQL writes positions (`16/B374D848`).
    acknowledged: str | None = None


@dataclass
class DispatchStats:
    """Written by the dispatch thread."""

    #: Events handed to receivers (each once, however many receivers it has).
    events: int = 0
    #: Notifications that were no payload of ours.
    garbage: int = 0
    #: Notifications of another tenant's table: one of the same name, in a schema where the engine's search_path does
    #: not lead, or which `Listener(schemas=...)` does not name; and of a table that another one has replaced under its
    #: name. With them those that name no watch of this listener.
    ignored: int = 0
    #: Notifications of a table of ours that could not be placed: in another schema, or of a partition that was gone
    #: before anybody knew it. There were a warning and a `resync`.
    unplaced: int = 0
    #: Calls of receivers that raised.
    failed_receivers: int = 0
    #: `resync` signals sent.
    resyncs: int = 0

    # With durable delivery:
    #: Calls of receivers that were tried again.
    retries: int = 0
    #: Events given up.
    dead_letters: int = 0


@dataclass
class SlotStats:
    """Written by the thread that looks at the slot of a durable listener."""

    #: Bytes of log written since what is acknowledged, at the last look.
    lag_bytes: int | None = None
    #: Bytes of log the server keeps for the slot.
    wal_held_bytes: int | None = None
    #: The server's word for that (`wal_status`).
    wal_status: str | None = None


@dataclass
class Stats(ReadingStats, DispatchStats, SlotStats):
    """Counters since `start`; `Listener.stats()` gives a copy."""

    # Filled in when the copy is made.
    #: Seconds between `emitted_at` and dispatch, of the newest event; None before the first. It compares
    #: the server's clock with this machine's.
    lag: float | None = None
    #: Notifications dropped because the queue was full, or at `stop()`.
    dropped: int = 0
    #: Notifications waiting for the dispatch thread.
    queue_depth: int = 0
