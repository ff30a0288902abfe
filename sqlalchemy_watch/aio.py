"""Recognize SQLAlchemy's asynchronous objects without importing their module.

`sqlalchemy.ext.asyncio` needs greenlet, which SQLAlchemy 2.1 does not install of itself. Whoever passes such
an object has imported it already.
"""

from __future__ import annotations

import sys
from typing import Any


def is_async(target: object, *names: str) -> bool:
    """Return True if the target is an instance of one of these classes of `sqlalchemy.ext.asyncio`."""
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    return module is not None and isinstance(target, tuple(getattr(module, name) for name in names))


def sync_engine_of(engine: Any) -> Any:
    """Return the synchronous engine inside an AsyncEngine; anything else as it is."""
    return engine.sync_engine if is_async(engine, "AsyncEngine") else engine
