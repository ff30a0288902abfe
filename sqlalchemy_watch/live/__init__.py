"""Live queries: run again when rows change that they read, whoever changed them.

::

    async with live(async_session, select(Order).where(Order.customer_id == 42)) as results:
        async for rows in results:
            ...

api of coroutines   in_loops: `live()`
of threads          in_threads: `LiveQuery`
the rules of both   query: when it is run, and whether its result differs
a run               observing: in a snapshot, its statements looked at as they are run
what is read        reads: the tables of a statement, and which of their rows
what changed        index: of each table, the queries that an event concerns
results             compare: by their loaded values; and `patch()`
"""

from .compare import Patch, patch
from .in_loops import LiveResults, live
from .in_threads import LiveQuery

__all__ = ["LiveQuery", "LiveResults", "Patch", "live", "patch"]
