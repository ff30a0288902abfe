"""Hear about every row that changes in PostgreSQL, whoever changed it, as blinker signals.

::

    class User(Watched, Base):
        __tablename__ = "users"
        __watch__ = ("inserted", "updated")

    @User.watch.updated.connect
    def on_user_updated(sender, event):
        cache.delete(event.identity)

    with Listener(engine, Base):
        ...
"""

from .catalog.status import WatchStatus
from .declaring.spec import Watch
from .errors import (
    CatchUpTimeout,
    ConfigurationError,
    EventsDropped,
    ListenerError,
    ListenerStartError,
    OwnershipError,
    PayloadError,
    SlotError,
    UnknownVersionError,
    UnsupportedServerError,
    WatchError,
)
from .listener.listener import Listener
from .listener.options import RetryPolicy
from .listener.stats import Stats
from .signals.events import Event
from .signals.filters import FilteredSignal
from .signals.streams import EventStream
from .signals.watch_signals import Details, WatchSignal, WatchSignals
from .triggers.install import install, status, uninstall
from .watched import Watched, watch
from .writers import context, muted

__version__ = "0.1.0"

__all__ = [
    "CatchUpTimeout",
    "ConfigurationError",
    "Details",
    "Event",
    "EventStream",
    "EventsDropped",
    "FilteredSignal",
    "Listener",
    "ListenerError",
    "ListenerStartError",
    "OwnershipError",
    "PayloadError",
    "RetryPolicy",
    "SlotError",
    "Stats",
    "UnknownVersionError",
    "UnsupportedServerError",
    "Watch",
    "WatchError",
    "WatchSignal",
    "WatchSignals",
    "WatchStatus",
    "Watched",
    "context",
    "install",
    "muted",
    "status",
    "uninstall",
    "watch",
]
