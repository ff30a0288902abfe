"""Caches that are not stale for ever: entries go when their rows change, and what was loaded before is not kept.

::

    from sqlalchemy_watch.caching import invalidate

    invalidate(region, Product, key=lambda row: f"price:{row['id']}", listener=listener)                   # dogpile
    invalidate(cache.delete, Order, key=..., everything=cache.clear, listener=listener)                    # any other

To delete an entry when its row changes is not enough: a value that was loaded before the change, and is stored after
the entry was deleted, would stay. So each key has a stamp: events change it, and it is looked at around each store.

Rooms, from above; each imports only from those below it:

invalidation  `invalidate`, and what it returns
regions       dogpile.cache: stands between a region and its backend; imported only where a region is given
callables     caches that are known by the functions which delete and clear
entries       a region's entries as the store has them, each with its epoch; needs dogpile.cache as well
keys          the watches that a cache needs, and the keys of an event
hearing       the state of the listener: what nobody hears of is not stored
stamps        how often each key was invalidated

Nothing else of the library imports this room.
"""

from .invalidation import Invalidation, Loading, invalidate

__all__ = ["Invalidation", "Loading", "invalidate"]
