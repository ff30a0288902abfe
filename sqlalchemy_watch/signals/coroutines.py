"""What is a coroutine function, and what is none. Pure."""

from __future__ import annotations

import inspect
from typing import Any


def is_coroutine_function(receiver: Any) -> bool:
    """Return True if calling it gives a coroutine, as far as its definition tells."""
    if isinstance(receiver, type):  # called, it makes an instance
        return False
    return inspect.iscoroutinefunction(receiver) or inspect.iscoroutinefunction(
        getattr(receiver, "__call__", None)  # noqa: B004 - asks for the method itself
    )
