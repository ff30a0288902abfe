"""Styles: the ways in which receivers take their arguments, read from their signatures when they are connected."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from .coroutines import is_coroutine_function
from .guard import lock


class Style(NamedTuple):
    """The way in which a receiver takes its arguments."""

    #: As `receiver(sender, event)`: it takes no keyword `event`.
    positional: bool
    is_async: bool


def _read_style(signal: str, receiver: Callable[..., Any], keyword: str) -> Style:
    if not callable(receiver):
        raise ConfigurationError(f"signal {signal!r}: the receiver {receiver!r} is not callable")
    if inspect.isgeneratorfunction(receiver) or inspect.isasyncgenfunction(receiver):
        raise ConfigurationError(
            f"signal {signal!r}: the receiver {receiver!r} is a generator, whose body would never run: remove its yield"
        )
    is_async = is_coroutine_function(receiver)
    try:
        signature = inspect.signature(receiver)
    except (TypeError, ValueError):  # some builtins have none
        return Style(False, is_async)
    try:
        signature.bind(None, **{keyword: None})
        return Style(False, is_async)
    except TypeError:
        pass
    try:
        signature.bind(None, None)
        return Style(True, is_async)
    except TypeError:
        raise ConfigurationError(
            f"signal {signal!r}: the receiver {receiver!r} can't be called as receiver(sender, {keyword}): "
            f"its signature is {signature}"
        ) from None


#: Reading a signature takes longer than all else that connecting does, and one receiver may have 100,000 filters.
_known_styles: weakref.WeakKeyDictionary[Any, dict[tuple[str, bool], Style]] = weakref.WeakKeyDictionary()


def style_of(signal: Callable[[], str], receiver: Callable[..., Any], keyword: str) -> Style:
    """Return the way in which a receiver takes a sender and this keyword.

    :param signal: returns the signal's name, for the error.
    :raises ConfigurationError: where it can't be called that way.
    """
    is_method = type(receiver) is MethodType
    function = receiver.__func__ if is_method else receiver  # type: ignore[attr-defined]
    if type(function) is not FunctionType:
        return _read_style(signal(), receiver, keyword)
    styles = _known_styles.get(function)
    style = None if styles is None else styles.get((keyword, is_method))
    if style is None:
        style = _read_style(signal(), receiver, keyword)
        with lock:
            _known_styles.setdefault(function, {})[(keyword, is_method)] = style
    return style


def loop_of(style: Style) -> asyncio.AbstractEventLoop | None:
    """Return the running loop, for a coroutine receiver; None elsewhere, and where no loop runs."""
    if not style.is_async:
        return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # then it is the listener's, if that is started in one
        return None
