"""Whose database is looked at, and what it is to serve."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, Table
from sqlalchemy.engine import URL, make_url

from ..aio import sync_engine_of
from ..declaring.targets import tables_of, watches_of
from ..listener.backfill.progress import BACKFILLS
from ..listener.dispatch.dead_letters import LETTERS
from ..listener.dispatch.once import ONCE
from ..listener.listener import Listener, plan_of
from ..listener.options import Schemas
from ..listener.server.connect import Connect, connector
from ..listener.server.own_tables import OwnTable
from ..signals.watch_signals import feed_of
from ..watched import signals_in
from .platforms import Address

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

#: Seconds for each query.
QUERY_SECONDS = 10.0

#: Where no module and name is known for what is watched.
UNKNOWN = "TARGET"


@dataclass(frozen=True)
class Subject:
    """A database, and what it is to serve."""

    engine: Engine | AsyncEngine
    targets: tuple[Any, ...]
    #: Opens a connection as the listener does.
    connect: Connect
    #: Where that goes, as far as the URL says.
    address: Address
    #: As `sqlalchemy-watch install` takes it.
    target: str
    #: True if something LISTENs.
    listens: bool
    #: True if something reads the log.
    is_durable: bool
    #: The consumer group, where it is known.
    group: str | None = None
    exclusive: str | None = None
    schemas: Schemas = None
    #: Seconds between round trips of a listener, and that each query may take.
    heartbeat_interval: float = 30.0
    heartbeat_timeout: float = QUERY_SECONDS
    #: The library's own tables that the group needs.
    own_tables: tuple[OwnTable, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables of its targets."""
        return tables_of(*self.targets)


def subject_of_listener(listener: Listener) -> Subject:
    """Return the database of a listener, with what its options ask for."""
    plan = plan_of(listener)
    options = plan.options
    url = sync_engine_of(plan.engine).url if plan.listen_url is None else make_url(plan.listen_url)
    signals = signals_in(tables_of(*plan.targets))
    is_needed = (
        (LETTERS, options.retry.needs_table),
        (ONCE, any(feed_of(signal).once for signal in signals)),
        (BACKFILLS, bool(options.backfill)),
    )
    return Subject(
        plan.engine, plan.targets, plan.connect, _address(url), _name_of(plan.targets),
        listens=options.group is None and options.via is None, is_durable=options.group is not None,
        group=options.group, exclusive=options.exclusive, schemas=options.schemas,
        heartbeat_interval=options.heartbeat_interval, heartbeat_timeout=options.heartbeat_timeout,
        own_tables=tuple(table for table, needed in is_needed if needed and options.group is not None),
    )  # fmt: skip


def subject_of_target(name: str, target: Any, engine: Engine, group: str | None = None) -> Subject:
    """Return a database, for whatever the watches of a target need.

    :param name: the target's, as module:name.
    :param group: the consumer group that hears those that are durable, where one is meant.
    """
    watches = watches_of(target)
    return Subject(
        engine, (target,), connector(engine, seconds=QUERY_SECONDS), _address(engine.url), name,
        listens=any(watch.is_notified for watch in watches),
        is_durable=group is not None or any(watch.is_durable for watch in watches), group=group,
    )  # fmt: skip


def _address(url: URL) -> Address:
    """Return where a URL leads; of several hosts to the first one."""
    host, port = url.host or url.query.get("host", ""), url.port or url.query.get("port", "")
    first_host, first_port = (str(v if isinstance(v, (str, int)) else v[0]).split(",")[0] for v in (host, port))
    if ":" in first_host and not first_host.startswith("/"):
        first_host, _, first_port = first_host.rpartition(":")
    number = int(first_port) if first_port.isdigit() else 5432
    return Address(first_host, number, url.username or "", url.database or "")


def _name_of(targets: tuple[Any, ...]) -> str:
    """Return the only target's name as module:name, if it is found there."""
    (target, *others) = targets
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", "")
    if others or not isinstance(module, str) or not str(name).isidentifier() or module == "__main__":
        return UNKNOWN
    found = getattr(sys.modules.get(module), name, None)
    return f"{module}:{name}" if found is target else UNKNOWN
