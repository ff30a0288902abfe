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

Rooms, from above; each imports only from those below it, which import-linter holds:

cli         the command `sqlalchemy-watch`
doctor      what a database lacks for all this, and the commands that help
otel        traces from writers to receivers, and metrics, for OpenTelemetry
web         changes in the browser: server-sent events, and WebSockets
relay       changes for other programs, by a message broker
live        queries that are run again when rows change that they read
webhooks    changes for partners, by signed webhooks
caching     caches whose entries go when their rows change
testing     for tests of applications: events without a commit, or without a database
listener    the process's half: hears the database and calls receivers
triggers    the database's half: creates and drops the triggers
writers     `muted` and `context`, for those who write
ambient     what goes with all writes of an engine
catalog     the installed triggers, and how they differ from the declarations
functions   the text of the trigger functions
watched     `Watched` and `watch()`: a declaration meets its signals
resolving   a declaration meets a table: names become columns
signals     signals, filters, batches, streams and transactions
events      `Event`, as JSON and back, and what the listener makes it of
wire        the format that the trigger functions write and the listener reads
declaring   the declarations and their validation
errors      every exception, one tree
aio         SQLAlchemy's asynchronous objects, told without importing them
extras      optional dependencies, and the error where one is missing

Beside this package, and imported by nothing here: `alembic_ext` writes watches into migrations, and
`pytest_sqlalchemy_watch` has fixtures.

PYTEST_DONT_REWRITE: nothing here is a test's, though a plugin of pytest's comes with it.
"""

from .catalog.status import WatchStatus
from .declaring.everything import everything
from .declaring.spec import Watch
from .errors import (
    BatchFailed,
    CatchUpTimeout,
    ConfigurationError,
    EventsDropped,
    GiveUp,
    ListenerError,
    ListenerStartError,
    OwnershipError,
    PayloadError,
    RetryAfter,
    SlotError,
    UnknownVersionError,
    UnsupportedServerError,
    WatchError,
)
from .events.event import Event
from .listener.listener import Listener
from .listener.options import RetryPolicy
from .listener.stats import Stats
from .signals.filters import FilteredSignal
from .signals.streams import EventIterator, EventStream, Resync
from .signals.transactions import Transaction, TransactionsSignal
from .signals.watch_signals import Details, EventsSignal, WatchSignal, WatchSignals
from .triggers.install import install, status, uninstall
from .watched import Watched, watch
from .writers import context, muted

__version__ = "0.1.0"

__all__ = [
    "BatchFailed",
    "CatchUpTimeout",
    "ConfigurationError",
    "Details",
    "Event",
    "EventIterator",
    "EventStream",
    "EventsDropped",
    "EventsSignal",
    "FilteredSignal",
    "GiveUp",
    "Listener",
    "ListenerError",
    "ListenerStartError",
    "OwnershipError",
    "PayloadError",
    "Resync",
    "RetryAfter",
    "RetryPolicy",
    "SlotError",
    "Stats",
    "Transaction",
    "TransactionsSignal",
    "UnknownVersionError",
    "UnsupportedServerError",
    "Watch",
    "WatchError",
    "WatchSignal",
    "WatchSignals",
    "WatchStatus",
    "Watched",
    "context",
    "everything",
    "install",
    "muted",
    "status",
    "uninstall",
    "watch",
]
