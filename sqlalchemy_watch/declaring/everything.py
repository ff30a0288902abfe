"""`everything()`: the watches by which each change of a table's rows is heard."""

from __future__ import annotations

from typing import Any

from .spec import Delivery, Watch


def everything(*extra_columns: Any, delivery: Delivery | None = None) -> tuple[Watch, ...]:
    """Return watches for `__watch__` that hear every change of the rows, as live queries and caches need them::

        class Order(Watched, Base):
            __watch__ = everything("customer_id")

    These are `"inserted"`, `"updated"` (with `old=True`, so that it is known whom a row was taken from), `"deleted"`
    and `"truncated"`, without conditions. Further watches may stand beside them:
    `(*everything("customer_id"), Watch(...))`.

    :param extra_columns: attributes carried beside the primary key. Name those by which rows are looked up: a live
        query with `where(Order.customer_id == 42)` then runs again for rows of customer 42 alone, and one by the
        primary key for that row. Without any, each change concerns every query of the table.
    :param delivery: as for `Watch`.
    :raises ConfigurationError: as `Watch` does.
    """
    updated = Watch("updated", extra_columns=extra_columns, old=bool(extra_columns), delivery=delivery)
    object.__setattr__(updated, "is_for_keys", True)  # as of a table that is all key
    return (
        Watch("inserted", extra_columns=extra_columns, delivery=delivery),
        updated,
        Watch("deleted", extra_columns=extra_columns, delivery=delivery),
        Watch("truncated", delivery=delivery),
    )
