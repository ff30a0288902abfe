"""The mappings of an event: immutable, picklable, and written by `json.dumps`; a name that is missing is explained."""

from __future__ import annotations

from typing import Any, NoReturn


def _refusal() -> TypeError:
    return TypeError("an event can't be changed: make a dict of it first")


class FrozenDict(dict[str, Any]):
    """A dict that can't be changed."""

    __slots__ = ()

    def __setitem__(self, key: str, value: Any, /) -> NoReturn:
        raise _refusal()

    def __delitem__(self, key: str, /) -> NoReturn:
        raise _refusal()

    def __ior__(self, other: Any, /) -> NoReturn:  # type: ignore[misc]
        raise _refusal()

    def clear(self) -> NoReturn:
        raise _refusal()

    def pop(self, *args: Any) -> NoReturn:
        raise _refusal()

    def popitem(self) -> NoReturn:
        raise _refusal()

    def setdefault(self, *args: Any) -> NoReturn:
        raise _refusal()

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _refusal()

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)

    def __copy__(self) -> FrozenDict:
        return self


class Values(FrozenDict):
    """The values of a row, by attribute name."""

    __slots__ = ()

    def __missing__(self, name: str) -> NoReturn:
        raise KeyError(f"{name!r} is not carried: there is {', '.join(map(repr, self)) or 'nothing'}")


class PartialValues(Values):
    """The values of a row some of which were left out."""

    __slots__ = ("_left_out",)

    def __init__(self, values: Any, left_out: tuple[str, ...]) -> None:
        super().__init__(values)
        self._left_out = left_out

    def __missing__(self, name: str) -> NoReturn:
        if name in self._left_out:
            raise KeyError(f"{name!r} was left out because the row would not fit: use load() or get()")
        super().__missing__(name)

    def __reduce__(self) -> Any:
        return PartialValues, (dict(self), self._left_out)


EMPTY: FrozenDict = FrozenDict()
NO_VALUES: Values = Values()
