"""Routes from channels to signals, and from rows to the classes that they are of."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Table
from sqlalchemy.orm import Mapper

from ...declaring.filing import Endpoint, endpoints_of, original_of
from ...declaring.spec import TableWatch
from ...declaring.targets import watches_of_table
from ...declaring.translating import NO_MAP, SchemaMap, translated
from ...signals.feeds import Feed
from ...signals.watch_signals import feed_of
from ...watched import signals_of
from .payload import Decoded, PayloadDecoder, read_fields
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
        #: The schemas whose payloads are this table's; None for any.
        self.schemas: frozenset[str] | None = None if self.watch.schema is None else frozenset([self.watch.schema])
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
                collection = signals_of(mapper.class_)
                if collection is not None and self.watch.label in collection:
                    signals.append(feed_of(collection[self.watch.label]))
                if mapper.concrete:  # the classes above have other tables
                    break
            if signals:
                yield row_mapper.class_, tuple(signals)

    def _mapper_of_table(self, base: Mapper[Any]) -> Mapper[Any]:
        """Return the class that the table was mapped for: the one to take where a discriminator names no class."""
        table = original_of(self.table)
        return next((m for m in base.self_and_descendants if m.local_table is table), base)


class Elsewhere(NamedTuple):
    """A payload that names a watch, and a schema that is not known to be the table's."""

    route: Route
    fields: Mapping[str, Any]

    @property
    def schema(self) -> str:
        """The schema, as the payload says."""
        return str(self.fields["schema"])


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
    ) -> None:
        self._listener = listener
        self.routes: list[Route] = []
        self.by_channel: dict[str, list[Route]] = {}
        #: The signals of watches that are delivered another way.
        self.unheard: set[Feed] = set()
        for table in tables:
            for watch in watches_of_table(table):
                endpoints = endpoints_of(table).get(watch.label, [])
                if not (watch.is_durable if durable else watch.is_notified):
                    self.unheard.update(feed_of(endpoint.signal) for endpoint in endpoints)
                    continue
                watch = translated(watch, schemas)
                route = Route(table, watch, PayloadDecoder(watch, decoders.decoder), endpoints)
                self.routes.append(route)
                self.by_channel.setdefault(watch.channel, []).append(route)

    def decode(self, channel: str, payload: bytes) -> Found | Elsewhere | None:
        """Return the watch that a payload is of, and the payload decoded; None where it is of no watch here.

        :returns: `Elsewhere` where the schema has to be looked up.
        :raises PayloadError: where the payload can't be read.
        """
        found = self._decode(channel, payload)
        if found is not None and not isinstance(found, Elsewhere):
            found[1].message.listener = self._listener
        return found

    def decode_as_ours(self, elsewhere: Elsewhere) -> Found:
        """Return the watch and the payload decoded: the schema is the table's.

        :raises PayloadError: where the payload can't be read.
        """
        route, fields = elsewhere
        decoded = route.decoder.decode(fields)
        decoded.message.listener = self._listener
        return route, decoded

    def _decode(self, channel: str, payload: bytes) -> Found | Elsewhere | None:
        routes = self.by_channel.get(channel, ())
        for route in routes:
            decoded = route.decoder.decode_declared(payload, route.schemas)
            if decoded is not None:
                return route, decoded
        fields = read_fields(payload)
        named = [route for route in routes if route.names(fields)]
        for route in named:
            if route.schemas is None or fields["schema"] in route.schemas:
                return route, route.decoder.decode(fields)
        return Elsewhere(named[0], fields) if named else None

    @property
    def signals(self) -> set[Feed]:
        """All signals that these routes may fire."""
        return {signal for route in self.routes for signal in route.signals}
