"""The subscriptions to certain values, in dictionaries by value, one for each combination of keys in use.

So dispatching a row costs the same with one subscription and with 100,000.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

from blinker import ANY
from blinker._utilities import make_id, make_ref  # as in receivers

from ..events.messages import Extras
from .guard import Change
from .matching import FROZEN, Keys, Matches, TouchingKeys, freeze
from .once import Once
from .receivers import ReceiverName, Subscriber, Subscribers, subscriber_of
from .styles import Style, loop_of

#: The receivers for certain values: mostly a single one, for all senders, which then needs no more than a tuple. The
#: subscriptions of a receiver share that tuple, so that each takes little memory.
Entry = tuple[Subscriber] | Subscribers

#: The identity of a receiver, and the keys that it filters by.
SubscriberKey = tuple[Hashable, Keys]


class _Subscriptions:
    """The subscriptions of one receiver by the same keys: their values, and the parameters of the last one."""

    __slots__ = ("how", "sole_entry", "values")

    def __init__(self, how: object, sole_entry: tuple[Subscriber]) -> None:
        self.how = how
        self.sole_entry = sole_entry
        self.values: set[Hashable] = set()


class FilterRegistry:
    """Everything that is connected to the views of one signal."""

    def __init__(self) -> None:
        #: keys in use -> their values -> receivers. Dispatch looks at it without the lock.
        self.by_keys: dict[Keys, dict[Hashable, Entry]] = {}
        #: With the values of each, so that a receiver that dies is removed without a search.
        self._subscriptions: dict[SubscriberKey, _Subscriptions] = {}
        self._changing = Change(self._remove_all)

    def connect(
        self,
        keys: Keys,
        values: Hashable,
        receiver: Callable[..., Any],
        style: Style,
        sender: Any,
        weak: bool,
        name: ReceiverName | None,
        once: Once | None = None,
    ) -> None:
        """Connect a receiver to the rows with these values of these keys."""
        key = (make_id(receiver), keys)
        how = (weak, style, loop_of(style), name, once)
        with self._changing:
            subscriptions = self._subscriptions.get(key)
            if subscriptions is None or subscriptions.how != how:
                reference = make_ref(receiver, partial(self._changing.forget, key)) if weak else None
                subscriber = subscriber_of(receiver, style, weak, name, reference, once)
                subscriptions = self._subscriptions_with(key, how, subscriber)
            self._add(key, subscriptions, values, sender)

    def keep_batch(self, keys: Keys, values: Hashable, subscriber: Subscriber) -> None:
        """Connect a batch, which has a receiver."""
        key = (subscriber.receiver_id, keys)
        with self._changing:
            self._add(key, self._subscriptions_with(key, None, subscriber), values, ANY)

    def release_batch(self, keys: Keys, subscriber: Subscriber) -> None:
        """Disconnect a batch, which has no receiver any more."""
        self._changing.remove((subscriber.receiver_id, keys))

    def find(self, receiver_id: Hashable) -> Subscriber | None:
        """Return the receiver of this identity; None where it is connected to no filter."""
        for keys in list(self.by_keys):
            subscriptions = self._subscriptions.get((receiver_id, keys))
            if subscriptions is not None:
                return subscriptions.sole_entry[0]
        return None

    def _subscriptions_with(self, key: SubscriberKey, how: object, subscriber: Subscriber) -> _Subscriptions:
        subscriptions = _Subscriptions(how, (subscriber,))
        before = self._subscriptions.get(key)
        if before is not None:
            subscriptions.values = before.values
        return subscriptions

    def _add(self, key: SubscriberKey, subscriptions: _Subscriptions, values: Hashable, sender: Any) -> None:
        receiver_id, keys = key
        entries = self.by_keys.get(keys, {})
        entry: Entry | None = entries.get(values)
        if sender is ANY and (entry is None or (type(entry) is tuple and entry[0].receiver_id == receiver_id)):
            entry = subscriptions.sole_entry
        else:
            if not isinstance(entry, Subscribers):
                entry = Subscribers(*(entry or ()))
            entry.add(subscriptions.sole_entry[0], sender)
        entries[values] = entry
        subscriptions.values.add(values)
        self._subscriptions[key] = subscriptions
        self.by_keys[keys] = entries

    def disconnect(self, keys: Keys, values: Hashable, receiver: Callable[..., Any], sender: Any) -> None:
        """Disconnect a receiver from these values; one that is not connected is ignored."""
        key = (make_id(receiver), keys)
        with self._changing:
            subscriptions = self._subscriptions.get(key)
            if subscriptions is None or values not in subscriptions.values:
                return
            if self._remove(key, values, sender):
                subscriptions.values.discard(values)
                if not subscriptions.values:
                    self._subscriptions.pop(key, None)

    def _remove_all(self, key: SubscriberKey) -> None:
        subscriptions = self._subscriptions.pop(key, None)
        if subscriptions is not None:
            for values in subscriptions.values:
                self._remove(key, values, ANY)

    def _remove(self, key: SubscriberKey, values: Hashable, sender: Any) -> bool:
        """Remove a receiver from an entry, and return True if it is gone from there."""
        receiver_id, keys = key
        entries = self.by_keys.get(keys, {})
        entry = entries.get(values)
        if isinstance(entry, Subscribers):
            entry.remove(receiver_id, sender)
            if receiver_id in entry:
                return False
        elif sender is not ANY:  # it hears all senders
            return False
        if not entry or isinstance(entry, tuple):
            entries.pop(values, None)
        if not entries and self.by_keys.get(keys) is entries:
            del self.by_keys[keys]
        return True

    def matching_subscribers(
        self, sender: Any, row: tuple[Any, ...], indexes: Mapping[str, int], extras: Extras | None
    ) -> Matches:
        """Return the receivers of a row.

        :param row: the values of its columns.
        :param indexes: of each attribute in the row.
        :param extras: with the row's previous values.
        """
        found: list[tuple[Subscriber, ...]] = []
        undecided = False
        failed: list[tuple[Keys, Exception]] = []
        for keys in self.by_keys.copy():  # a garbage collection may change it meanwhile
            try:
                subscribers, is_undecided = self.subscribers_by(keys, sender, row, indexes, extras)
            except Exception as error:  # from the code of the value's type
                failed.append((keys, error))
                continue
            undecided |= is_undecided
            if subscribers:
                found.append(subscribers)
        return Matches(found, undecided, failed)

    def subscribers_by(
        self, keys: Keys, sender: Any, row: tuple[Any, ...], indexes: Mapping[str, int], extras: Extras | None
    ) -> tuple[tuple[Subscriber, ...], bool]:
        """Return the receivers of a row that filter by these keys, and True if a column is missing that they compare.

        :raises Exception: whatever the values' own code raises where it compares them.
        """
        entries = self.by_keys.get(keys)
        if entries is None:
            return (), False
        try:
            value = row[indexes[keys[0]]] if len(keys) == 1 else tuple([row[indexes[key]] for key in keys])
        except LookupError:
            return (), True
        entry = _entry_of(entries, value)
        found = () if entry is None else entry.for_sender(sender) if isinstance(entry, Subscribers) else entry
        if type(keys) is not TouchingKeys:
            return found, False
        old = None if extras is None else extras.old
        if old is None or not all(key in old for key in keys):
            return found, True
        before = _entry_of(entries, old[keys[0]] if len(keys) == 1 else tuple([old[key] for key in keys]))
        if before is None or before is entry:
            return found, False
        known = {each.receiver_id for each in found}
        others = before.for_sender(sender) if isinstance(before, Subscribers) else before
        return (*found, *[each for each in others if each.receiver_id not in known]), False


def _entry_of(entries: Mapping[Hashable, Entry], value: Any) -> Entry | None:
    if type(value) not in FROZEN:
        try:
            value = freeze(value)
            hash(value)
        except TypeError:  # a value that can't be hashed can't be filtered by either
            return None
    return entries.get(value)
