"""The options of a listener, checked when it is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Table

from ..declaring.targets import watches_of_table
from ..errors import ConfigurationError, GiveUp, RetryAfter

#: The schemas to hear, for tables declared without one; None for those where the engine's search_path leads.
Schemas = frozenset[str] | Literal["*"] | None


@dataclass(frozen=True)
class RetryPolicy:
    """The treatment of an event whose receiver raised.

    :param max_attempts: calls before the event goes to the dead letters; None tries for ever.
    :param first_delay: seconds before the second attempt; doubled for each further one.
    :param max_delay: seconds, the longest wait.
    :param in_order: who waits until the receiver takes the event. True: everybody behind it. `"key"`: the later events
        of its key (see `Listener(key=)`) for that receiver alone; after `attempts` calls the event is parked in the
        table of dead letters, they are parked behind it, and it is tried again from there; a `truncated` event does not
        wait. False: nobody; it is parked at once. Whole transactions are never parked before they are given up.
    :param attempts: with `in_order="key"`: calls before an event is parked.
    :raises ConfigurationError: for values out of range.
    """

    max_attempts: int | None = None
    first_delay: float = 0.5
    max_delay: float = 60.0
    in_order: bool | Literal["key"] = True
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.max_attempts is not None and (type(self.max_attempts) is not int or self.max_attempts < 1):
            raise ConfigurationError(f"max_attempts must be an int of at least 1, or None, not {self.max_attempts!r}")
        if type(self.in_order) is not bool and self.in_order != "key":
            raise ConfigurationError(f"in_order must be True, 'key' or False, not {self.in_order!r}")
        if type(self.attempts) is not int or self.attempts < 1:
            raise ConfigurationError(f"attempts must be an int of at least 1, not {self.attempts!r}")
        if self.in_order != "key" and self.attempts != RetryPolicy.attempts:
            raise ConfigurationError("attempts is for in_order='key': the calls before an event is parked")
        delays = (self.first_delay, self.max_delay)
        if not all(type(delay) in (int, float) for delay in delays) or not 0 < self.first_delay <= self.max_delay:
            raise ConfigurationError(
                f"retry delays must be seconds with 0 < first_delay <= max_delay, not {self.first_delay!r} and "
                f"{self.max_delay!r}"
            )

    @property
    def needs_table(self) -> bool:
        """True if dead letters can come to be."""
        return self.max_attempts is not None or self.in_order is not True

    def delay(self, attempts: int) -> float:
        """Return the seconds to wait after so many attempts."""
        return min(self.first_delay * 2.0 ** min(attempts - 1, 30), self.max_delay)

    def delay_after(self, error: BaseException, attempts: int) -> float:
        """Return the seconds to wait after an error: what it asks for, or what the policy has for so many attempts."""
        return error.seconds if isinstance(error, RetryAfter) else self.delay(max(attempts, 1))

    def is_exhausted(self, error: BaseException, attempts: int) -> bool:
        """Return True if an event is given up after an error, and so many attempts."""
        return isinstance(error, GiveUp) or (self.max_attempts is not None and attempts >= self.max_attempts)


#: Characters that `exclusive` may have.
MAX_EXCLUSIVE = 200


@dataclass(frozen=True)
class Options:
    """The settings of a listener, under the names that `Listener` gives them.

    :raises ConfigurationError: for values out of range, and for those that do not go together.
    """

    max_queue: int
    #: In seconds.
    heartbeat_interval: float
    #: In seconds; also the time for each query.
    heartbeat_timeout: float
    #: The consumer group; None without durable delivery.
    group: str | None
    retry: RetryPolicy
    #: The name that several processes have in common, of which one is heard; None where each is.
    exclusive: str | None = None
    schemas: Schemas = None
    #: As PostgreSQL spells a size; None leaves the server's setting.
    decoding_memory: str | None = None
    #: With durable delivery: True to have events wait until their rows are visible.
    wait_visible: bool = True
    #: Receivers that may be called at the same time, for events of different keys.
    workers: int = 1
    #: A callable, or the name of an attribute; None for table and identity.
    key: Callable[[Any], Hashable] | str | None = None
    #: The models whose existing rows are told of; True for all.
    backfill: bool | tuple[Any, ...] = False
    #: What brings notifications in place of a LISTEN of this process; None for that.
    via: Any = None

    def __post_init__(self) -> None:
        for name in ("heartbeat_interval", "heartbeat_timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
        if isinstance(self.max_queue, bool) or not isinstance(self.max_queue, int) or self.max_queue < 1:
            raise ConfigurationError(f"max_queue must be an int of at least 1, not {self.max_queue!r}")
        if self.group is not None:
            check_group_name(self.group)
        if self.exclusive is not None:
            self._check_exclusive(self.exclusive)
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 1:
            raise ConfigurationError(f"workers must be an int of at least 1, not {self.workers!r}")
        if self.key is not None and not self.has_lanes:
            raise ConfigurationError(
                "key is for workers= and RetryPolicy(in_order='key'): otherwise all events come one after the other"
            )
        if not isinstance(self.wait_visible, bool):
            raise ConfigurationError(f"wait_visible must be True or False, not {self.wait_visible!r}")
        if self.backfill:
            self.check_backfill()
        if self.via is not None:
            self._check_via()
        if self.decoding_memory is not None:
            _check_decoding_memory(self.decoding_memory)

    @property
    def hears_alone(self) -> bool:
        """True if of several processes one alone hears."""
        return self.group is not None or self.exclusive is not None

    def _check_exclusive(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip() or len(name) > MAX_EXCLUSIVE or not name.isprintable():
            raise ConfigurationError(
                f"exclusive={name!r} must be a name of 1 to {MAX_EXCLUSIVE} printable characters, the same in all "
                f"processes of which one is heard"
            )
        if self.group is not None:
            raise ConfigurationError(
                f"exclusive={name!r} and durable={self.group!r} don't go together: of a consumer group one process is "
                f"active anyway, so remove exclusive="
            )

    def _check_via(self) -> None:
        if not callable(getattr(self.via, "make_source", None)):
            raise ConfigurationError(f"via={self.via!r} is no way to hear: write via=relay.nats('nats://...')")
        if self.hears_alone:
            other = "durable=" if self.group is not None else "exclusive="
            raise ConfigurationError(
                f"via= and {other} don't go together: via= is for many processes that all hear what NOTIFY sends, so "
                f"remove one of them"
            )

    def check_backfill(self) -> None:
        """Refuse a backfill beside events that come before others can see their rows.

        :raises ConfigurationError: naming the remedy.
        """
        if self.group is not None and not self.wait_visible:
            raise ConfigurationError(
                "a backfill with wait_visible=False could tell of a row as it was before its last event: leave "
                "wait_visible out"
            )

    @property
    def has_lanes(self) -> bool:
        """True if receivers are called in lanes, beside the dispatch thread."""
        return self.workers > 1 or self.retry.in_order == "key"

    @property
    def key_of(self) -> Callable[[Any], Hashable] | None:
        """Returns the key of an event; None for table and identity."""
        if self.key is None or callable(self.key):
            return self.key
        return _value_of(self.key)

    @property
    def slot(self) -> str:
        """The name of the group's replication slot; there is one with durable delivery alone."""
        assert self.group is not None
        return self.group


#: Kilobytes: by unit, and those that `logical_decoding_work_mem` may have.
_UNITS = {"kB": 1, "MB": 1024, "GB": 1024**2}
_DECODING_MEMORY = range(64, 2**31)


def _check_decoding_memory(size: str) -> None:
    found = re.fullmatch(r"([0-9]{1,10}) ?(kB|MB|GB)", size) if isinstance(size, str) else None
    if found is None or int(found[1]) * _UNITS[found[2]] not in _DECODING_MEMORY:
        raise ConfigurationError(
            f"decoding_memory={size!r} must be a size from '64kB' to '2047GB', such as '256MB', or None for the "
            f"server's own logical_decoding_work_mem"
        )


def check_group_name(name: str) -> str:
    """Return the name of a consumer group, if a replication slot can have it.

    :raises ConfigurationError: otherwise.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9_]{1,63}", name):
        raise ConfigurationError(
            f"durable={name!r}: a consumer group is a replication slot, whose name has 1 to 63 lower-case letters, "
            f"digits and underscores"
        )
    return name


def check_schemas(schemas: object) -> Schemas:
    """Return the value of the option `schemas` as a set; `"*"` and None as they are.

    :raises ConfigurationError: for anything but None, `"*"`, and an iterable of names.
    """
    if schemas is None or schemas == "*":
        return None if schemas is None else "*"
    if isinstance(schemas, (str, bytes)) or not isinstance(schemas, Iterable):
        name = schemas if isinstance(schemas, str) and schemas else "a_schema"
        raise ConfigurationError(
            f"schemas must be a sequence of schema names, or '*' for all, not {schemas!r}: write schemas=({name!r},)"
        )
    names = tuple(schemas)
    wrong = next((name for name in names if not isinstance(name, str) or name in ("", "*")), None)
    if wrong is not None or None in names:
        raise ConfigurationError(
            f"schemas={names!r}: {wrong!r} is no name of a schema; for all of them pass schemas='*'"
        )
    if not names:
        raise ConfigurationError(
            "schemas names no schema: name those to hear, or leave it out to hear those where the search_path leads"
        )
    return frozenset(names)


def retry_policy(group: str | None, max_attempts: int | None, retry: RetryPolicy | None) -> RetryPolicy:
    """Return the policy that the two options stand for.

    :raises ConfigurationError: where both are given, or one without a group.
    """
    if group is None and (retry is not None or max_attempts is not None):
        raise ConfigurationError(
            "max_attempts and retry are for durable delivery: add durable='a_group', or remove them"
        )
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise ConfigurationError(f"retry must be a RetryPolicy, not {retry!r}: retry=RetryPolicy(max_attempts=5)")
    if retry is not None and max_attempts is not None:
        raise ConfigurationError("max_attempts is part of retry=RetryPolicy(max_attempts=...): give one of them")
    return retry or RetryPolicy(max_attempts=max_attempts)


def check_models(backfill: object) -> bool | tuple[Any, ...]:
    """Return the value of the option `backfill`, its models as a tuple.

    :raises ConfigurationError: for anything but True, False, and an iterable of models.
    """
    if isinstance(backfill, bool):
        return backfill
    if isinstance(backfill, (str, type, Table)) or not isinstance(backfill, Iterable):
        name = getattr(backfill, "__name__", None) or repr(backfill)
        raise ConfigurationError(f"backfill must be True, or a sequence of models: write backfill=[{name}]")
    return tuple(backfill)


def check_key(key: object) -> Callable[[Any], Hashable] | str | None:
    """Return the key of lanes as a callable, or the name of an attribute.

    :raises ConfigurationError: for anything else.
    """
    if key is None or isinstance(key, str):
        return key
    name = getattr(key, "key", None)  # Order.customer_id, or a Column
    if isinstance(name, str):
        return name
    if callable(key):
        return key
    raise ConfigurationError(f"key must be a function of an event, or a column such as Order.customer_id, not {key!r}")


def check_key_is_carried(key: Callable[[Any], Hashable] | str | None, tables: Iterable[Table]) -> None:
    """Refuse a key that some event would lack.

    :raises ConfigurationError: naming the watch, and the remedy.
    """
    if not isinstance(key, str):
        return
    for table in tables:
        for watch in watches_of_table(table):
            if watch.operation != "truncated" and key not in [column.attribute for column in watch.carried]:
                raise ConfigurationError(
                    f"key={key!r}: the events of watch {watch.label!r} of table {table.key!r} do not carry it: add it "
                    f"to extra_columns, or pass a function that returns the key of every event"
                )


def _value_of(name: str) -> Callable[[Any], Hashable]:
    def value_of(event: Any) -> Hashable:
        return event.values.get(name)  # type: ignore[no-any-return]

    return value_of
