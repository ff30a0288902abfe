"""The rows of a payload, from arrays of JSON values to Python values. Pure functions over untrusted data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, repeat
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

from ...errors import PayloadError
from ...events.mappings import Values
from ...events.messages import Extras

#: Converts a value of the payload to the Python value that an attribute of the loaded row would have.
Decode: TypeAlias = Callable[[Any], Any]

#: A decoded row: its values in the order of `EventKind.attributes`, and the parts that most rows lack.
Row: TypeAlias = tuple[tuple[Any, ...], Extras | None]

_INCOMPLETE = Extras(old=None, changed=None, partial=True)


class Column(NamedTuple):
    """A column of a payload, and the way to decode its values."""

    attribute: str
    #: The type of its values in the JSON, besides NoneType.
    expected: type
    decode: Decode | None
    #: True if it is part of the primary key, and so never NULL.
    is_primary: bool

    def decode_one(self, value: Any) -> Any:
        """Decode one value, as `decode_all` does many."""
        if type(value) is not self.expected and (value is not None or self.is_primary):
            raise self._misfit()
        if self.decode is None:
            return value
        try:
            return self.decode(value)
        except Exception as error:
            raise PayloadError(f"a value of {self.attribute!r} can't be decoded ({type(error).__name__})") from error

    def decode_all(self, values: Sequence[Any]) -> Sequence[Any]:
        kinds = set(map(type, values))
        kinds.discard(self.expected)
        if kinds and (kinds != {NoneType} or self.is_primary):
            raise self._misfit()
        if self.decode is None:
            return values
        try:
            return list(map(self.decode, values))
        except Exception as error:
            raise PayloadError(f"a value of {self.attribute!r} can't be decoded ({type(error).__name__})") from error

    def _misfit(self) -> PayloadError:
        return PayloadError(f"a value of {self.attribute!r} is not a {self.expected.__name__}")


class RowLayout:
    """The order of the values in the rows of one payload.

    :param columns: of the declaration, by name.
    :param carried: their names, in the order of the event's values; no row is without the first `always`.
    :param names: the columns of the payload's rows. A row that is shorter holds the first so many of them.
    :param old: the columns whose previous values follow.
    """

    def __init__(
        self, columns: Mapping[str, Column], carried: tuple[str, ...], always: int, names: list[str], old: list[str]
    ) -> None:
        indexes = {name: index for index, name in enumerate(names)}
        if any(name not in indexes for name in carried[:always]):
            raise PayloadError("a column of the key is not among the columns")
        known = [name for name in carried if name in indexes]
        self._columns = [(indexes[name], columns[name]) for name in known]
        self._always = always
        self._width = len(names)
        #: The length of the shortest row that has the key.
        self._shortest = max((indexes[name] + 1 for name in carried[:always]), default=0)
        #: A column that an earlier trigger did not carry yet is missing, as one that was left out is.
        self._extras = _INCOMPLETE if len(known) < len(carried) else None
        #: Where previous values are told of, a row without any did not fit.
        self._alone = _INCOMPLETE if old else self._extras
        self._old = [(index, columns[name]) for index, name in enumerate(old) if name in columns]
        self._old_width = len(old)
        self._old_attributes = [column.attribute for _, column in self._old]
        #: The places of the key and of the discriminator, where that is the hierarchy's root's: no update changes it.
        self._with_constant: list[int] = []
        if old and any(name not in old and not columns[name].is_primary for name in carried[:always]):
            self._with_constant = [
                index for index, name in enumerate(carried[:always]) if name in old or not columns[name].is_primary
            ]
        self.attributes: tuple[str, ...] = tuple(column.attribute for _, column in self._columns)
        #: The types of a row all of whose values are taken as they are; None where some are to be decoded.
        plain = known == names and all(column.decode is None for _, column in self._columns)
        self._plain_types = [column.expected for _, column in self._columns] if plain else None

    def decode(self, rows: list[Any]) -> tuple[list[Row], list[int]]:
        """Return the rows, in order, and the numbers of those that could not be decoded."""
        if len(rows) == 1:
            try:
                return [self._decode_single(rows[0])], []
            except PayloadError:
                pass  # perhaps the key alone can be decoded
        if set(map(type, rows)) == {list} and set(map(len, rows)) == {self._width}:
            try:
                return list(self._decode_run("whole", rows)), []
            except PayloadError:
                pass
        return self._decode_mixed(rows)

    def _decode_mixed(self, rows: list[Any]) -> tuple[list[Row], list[int]]:
        """Decode rows of several shapes, or rows some of which can't be decoded."""
        decoded: list[Row] = []
        lost: list[int] = []
        for shape, run in groupby(rows, self._shape):
            same = list(run)
            try:
                decoded += list(self._decode_run(shape, same))
            except PayloadError:
                # Decode them one by one, and without the extra columns if need be.
                for row in same:
                    found = self._decode_one(shape, row)
                    if found is None:
                        lost.append(len(decoded) + len(lost))
                    else:
                        decoded.append(found)
        return decoded, lost

    def _decode_single(self, row: Any) -> Row:
        """Decode the one row of a payload: for a single one, column by column would take longer."""
        if type(row) is list and len(row) == self._width:
            return self._decode_values(row), self._alone
        if self._shape(row) != "paired":
            raise PayloadError("it is no whole row")
        before = self._width + 1
        values = [column.decode_one(row[before + index]) for index, column in self._old]
        whole = self._decode_values(row)
        return whole, self._paired(whole, row[self._width], values)

    def _decode_values(self, row: list[Any]) -> tuple[Any, ...]:
        if list(map(type, row)) == self._plain_types:
            return tuple(row)
        return tuple([column.decode_one(row[index]) for index, column in self._columns])

    def _shape(self, row: Any) -> str:
        if type(row) is list:
            if len(row) == self._width:
                return "whole"
            if len(row) == self._width + 1 + self._old_width:
                return "paired"
            if self._shortest <= len(row) < self._width:
                return "partial"
        return "unfit"

    def _decode_run(self, shape: str, rows: list[Any]) -> Iterator[Row]:
        if shape == "partial":
            return self._decode_partial(rows)
        if shape == "unfit":
            raise PayloadError("a row does not fit the columns")
        by_column = list(zip(*rows, strict=True))
        values = [column.decode_all(by_column[index]) for index, column in self._columns]
        whole = zip(*values, strict=True) if values else repeat((), len(rows))
        if shape == "whole":
            return zip(whole, repeat(self._alone), strict=False)
        return self._decode_paired(whole, by_column[self._width :], len(rows))

    def _decode_partial(self, rows: list[list[Any]]) -> Iterator[Row]:
        """Decode the key alone, and the discriminator."""
        values = [column.decode_all([row[index] for row in rows]) for index, column in self._columns[: self._always]]
        keys = zip(*values, strict=True) if values else repeat((), len(rows))
        return zip(keys, repeat(_INCOMPLETE), strict=False)

    def _decode_paired(
        self, whole: Iterator[tuple[Any, ...]], previous: Sequence[Sequence[Any]], count: int
    ) -> Iterator[Row]:
        masks, by_column = previous[0], previous[1:]
        olds = list(zip(*(column.decode_all(by_column[index]) for index, column in self._old), strict=True))
        for row, mask, values in zip(whole, masks, olds or [()] * count, strict=True):
            yield row, self._paired(row, mask, values)

    def _paired(self, row: tuple[Any, ...], mask: Any, values: Iterable[Any]) -> Extras:
        """Return the previous values of a row, and the names of those that changed."""
        if type(mask) is not str or len(mask) != self._old_width:
            raise PayloadError("a mask of changes does not fit")
        old = Values(zip(self._old_attributes, values, strict=True))
        if self._with_constant:
            old = Values({**{self.attributes[index]: row[index] for index in self._with_constant}, **old})
        changed = frozenset([column.attribute for index, column in self._old if mask[index] == "1"])
        return Extras(old, changed, self._extras is not None)

    def _decode_one(self, shape: str, row: Any) -> Row | None:
        if shape == "unfit":
            return None
        try:
            return next(self._decode_run(shape, [row]))
        except PayloadError:
            pass
        try:
            return next(self._decode_partial([row]), None)
        except PayloadError:
            return None
