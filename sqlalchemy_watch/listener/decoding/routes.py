"""Routes from channels to signals, and from rows to the classes that they are of."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Table
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import Mapper

from ...declaring.filing import Endpoint, endpoints_of, original_of
from ...declaring.hierarchy import root_table
from ...declaring.spec import READ, TableWatch, read_watch
from ...declaring.targets import watches_of_table
from ...declaring.translating import NO_MAP, SchemaMap, translated
from ...errors import ConfigurationError, PayloadError
from ...events.messages import Stamp
from ...signals.feeds import Feed
from ...signals.watch_signals import WatchSignal, feed_of
from ...watched import signals_of
from .payload import Decoded, PayloadDecoder, read_fields, read_place, read_stamp
from .values import ValueDecoders

#: The most discriminator values whose destinations a route remembers.
MAX_CLASSES = 1_000

#: A sender, and the signals that fire for a row of it, as the listener sees them.
Destination = tuple[Any, tuple[Feed, ...]]


@dataclass
class Route:
    """One watch of one table, with the decoder of its payloads and the destinations of its rows."""

    table: Table
    watch: TableWatch
    decoder: PayloadDecoder
    endpoints: Sequence[Endpoint]

    def __post_init__(self) -> None:
        #: The declared schema. (A Table has its name as a kind of str of its own.)
        self.schema: str | None = None if self.watch.schema is None else str(self.watch.schema)
        #: The schemas whose payloads are this table's, of those that have no oid; None for any.
        self.schemas: frozenset[str] | None = None if self.schema is None else frozenset([self.schema])
        #: The schemas of this table and its partitions, by the oids that are known to be theirs.
        self.known: dict[int, str] = {}
        #: For debugging all watches, or one: a logger below `sqlalchemy_watch.watch`.
        self.log: logging.Logger = logging.getLogger(
            f"sqlalchemy_watch.watch.{self.watch.table_key}.{self.watch.label}"
        )
        self._by_class: dict[Any, list[Destination]] = {}
        d = self.watch.discriminator
        self._discriminator_index = None if d is None else self.watch.always.index(d.column)

    @property
    def signals(self) -> Iterable[Feed]:
        """The signals declared on this table. Those that a subclass inherits belong to the tables of its ancestors."""
        return (feed_of(endpoint.signal) for endpoint in self.endpoints)

    @property
    def model(self) -> Any:
        """The class at the root of the hierarchy whose rows they are, or the Table."""
        owner = self.endpoints[0].owner
        if isinstance(owner, Table):
            return owner
        return owner.class_ if owner.concrete else owner.base_mapper.class_

    @property
    def models(self) -> list[Any]:
        """The classes whose rows they may be, or the Table."""
        if isinstance(self.model, Table):
            return [self.model]
        return [mapper.class_ for mapper in sa_inspect(self.model).self_and_descendants]

    def place(self, oid: int | None, schema: str | None) -> str | None:
        """Return the schema of what a payload is of, where that is known to be this table or a partition; or None."""
        if oid is None:
            return schema if self.schemas is None or schema in self.schemas else None
        found = self.known.get(oid)
        return found if schema is None or schema == self.schema or schema == found else None

    def names(self, fields: Mapping[str, Any]) -> bool:
        """Return True if a payload names this watch, of whatever schema: other names may make the same channel."""
        return bool(fields["table"] == self.watch.table and fields["label"] == self.watch.label)

    @property
    def is_uniform(self) -> bool:
        """True if all rows have the same destinations."""
        return self._discriminator_index is None

    def destinations(self, values: tuple[Any, ...]) -> list[Destination]:
        """Return the senders and signals for a row: the same list for all rows of one class."""
        kind = None if self._discriminator_index is None else values[self._discriminator_index]
        try:
            return self._by_class[kind]
        except KeyError:
            found = list(self._resolve(kind))
            if len(self._by_class) < MAX_CLASSES:  # there is no end of values that name no class
                self._by_class[kind] = found
            return found
        except TypeError:  # an unhashable discriminator names no class
            return list(self._resolve(None))

    def _resolve(self, kind: Any) -> Iterable[Destination]:
        polymorphic: set[Mapper[Any]] = set()
        is_truncated = self.watch.operation == "truncated"  # the rows of every class are gone
        for owner, signal in self.endpoints:
            if isinstance(owner, Table) or owner.polymorphic_on is None or is_truncated:
                yield (owner if isinstance(owner, Table) else owner.class_), (feed_of(signal),)
            else:
                polymorphic.add(owner.base_mapper)
        for base in polymorphic:
            row_mapper = base.polymorphic_map.get(kind) or self._mapper_of_table(base)
            signals = []
            for mapper in row_mapper.iterate_to_root():
                signal = _signal_of(mapper.class_, self.watch.label)
                if signal is not None:
                    signals.append(feed_of(signal))
                if mapper.concrete:  # the classes above have other tables
                    break
            if signals:
                yield row_mapper.class_, tuple(signals)

    def _mapper_of_table(self, base: Mapper[Any]) -> Mapper[Any]:
        """Return the class that the table was mapped for: the one to take where a discriminator names no class."""
        table = original_of(self.table)
        return next((m for m in base.self_and_descendants if m.local_table is table), base)


def _signal_of(target: Any, label: str) -> WatchSignal[Any] | None:
    """Return the signal of this label of a class or Table; None where it has none."""
    collection = signals_of(target)
    if collection is None or (label not in collection and label != READ):
        return None
    try:
        return collection[label]
    except AttributeError:  # all that is watched is TRUNCATE
        return None


class Elsewhere(NamedTuple):
    """A payload that names a watch, and is not known to be of its table."""

    route: Route
    fields: Mapping[str, Any]
    stamp: Stamp
    #: The table or partition that it is of; None where the payload does not say.
    oid: int | None
    #: The schema of that when the payload was written, or the declared one; None where the payload does not say.
    schema: str | None


#: A payload decoded, and the watch that it is of.
Found = tuple[Route, Decoded]


class Router:
    """The routes of a listener, by channel."""

    def __init__(
        self,
        tables: Iterable[Table],
        decoders: ValueDecoders,
        *,
        durable: bool = False,
        listener: object = None,
        schemas: SchemaMap = NO_MAP,
        everything: Feed | None = None,
    ) -> None:
        self.listener: Any = listener
        #: Hears all events of the listener.
        self.everything: Feed = everything or Feed("listener.events")
        self.routes: list[Route] = []
        #: Those of existing rows, by the key of the table. Nobody emits on their channels.
        self.reads: dict[str, Route] = {}
        self.by_channel: dict[str, list[Route]] = {}
        #: The signals of watches that are delivered another way.
        self.unheard: set[Feed] = set()
        for table in tables:
            heard: list[TableWatch] = []
            for watch in watches_of_table(table):
                endpoints = endpoints_of(table).get(watch.label, [])
                if not (watch.is_durable if durable else watch.is_notified):
                    self.unheard.update(feed_of(endpoint.signal) for endpoint in endpoints)
                    continue
                heard.append(watch)
                self.routes.append(self._add_route(table, translated(watch, schemas), decoders, endpoints))
            read, endpoints = read_watch(heard), _read_endpoints(table, heard)
            if read is not None and endpoints:
                self.reads[str(table.key)] = self._add_route(table, translated(read, schemas), decoders, endpoints)

    def key_to_read(self, model: Any) -> str:
        """Return the key of the table that has the existing rows of a model.

        :raises ConfigurationError: where none of its watches is heard.
        """
        mapper = sa_inspect(model, raiseerr=False) if isinstance(model, type) else None
        table = root_table(mapper) if isinstance(mapper, Mapper) else model
        if isinstance(table, Table):
            key = str(table.key)
            if key in self.reads and original_of(self.reads[key].table) is original_of(table):
                return key
        name = getattr(model, "__name__", None) or getattr(model, "key", None) or repr(model)
        raise ConfigurationError(
            f"backfill: {name} has no watch that this listener hears, and so no existing rows to tell of: give it a "
            f"__watch__ that carries rows, and pass it, its base or its MetaData to the Listener"
        )

    def _add_route(
        self, table: Table, watch: TableWatch, decoders: ValueDecoders, endpoints: Sequence[Endpoint]
    ) -> Route:
        route = Route(table, watch, PayloadDecoder(watch, decoders.decoder), endpoints)
        self.by_channel.setdefault(watch.channel, []).append(route)
        return route

    def decode(self, channel: str, payload: bytes, stamp: Stamp | None = None) -> Found | Elsewhere | None:
        """Return the watch that a payload is of, and the payload decoded; None where it is of no watch here.

        :param stamp: its transaction's number, and its time; None where the payload has them.
        :returns: `Elsewhere` where it has to be looked up whose it is.
        :raises PayloadError: where the payload can't be read.
        """
        try:
            found = self._decode(channel, payload, stamp)
        except PayloadError as error:  # such as a column that somebody retyped, so that the payload is no JSON
            error.tells_of_rows |= any(route.decoder.begins(payload) for route in self.by_channel.get(channel, ()))
            raise
        if found is not None and not isinstance(found, Elsewhere):
            found[1].message.listener = self.listener
        return found

    def decode_as_ours(self, elsewhere: Elsewhere, schema: str) -> Found:
        """Return the watch and the payload decoded.

        :param schema: of the watch's table, or of the partition.
        :raises PayloadError: where the payload can't be read.
        """
        decoded = elsewhere.route.decoder.decode(elsewhere.fields, schema, elsewhere.stamp)
        decoded.message.listener = self.listener
        return elsewhere.route, decoded

    def _decode(self, channel: str, payload: bytes, stamp: Stamp | None) -> Found | Elsewhere | None:
        routes = self.by_channel.get(channel, ())
        for route in routes:
            fields = route.decoder.read_declared(payload)
            if fields is not None:
                schema = route.place(*read_place(fields, route.schema))
                if schema is not None:
                    return route, route.decoder.decode_declared(fields, schema, stamp or read_stamp(fields))
        fields = read_fields(payload)
        named = [route for route in routes if route.names(fields)]
        if not named:
            return None
        oid, schema = read_place(fields)
        stamp = stamp or read_stamp(fields)
        for route in named:
            placed = route.place(oid, schema)
            if placed is not None:
                return route, route.decoder.decode(fields, placed, stamp)
        return Elsewhere(named[0], fields, stamp, oid, schema)

    @property
    def signals(self) -> set[Feed]:
        """All signals that these routes may fire."""
        return {signal for route in (*self.routes, *self.reads.values()) for signal in route.signals}


def _read_endpoints(table: Table, watches: Iterable[TableWatch]) -> list[Endpoint]:
    """Return the signals of a table's existing rows: of those classes for which it is the root of their hierarchy."""
    owners = {endpoint.owner for watch in watches for endpoint in endpoints_of(table).get(watch.label, ())}
    original = original_of(table)
    return [
        Endpoint(owner, signal)
        for owner in sorted(owners, key=str)
        if (isinstance(owner, Table) or root_table(owner) is original)
        and (signal := _signal_of(owner if isinstance(owner, Table) else owner.class_, READ)) is not None
    ]
