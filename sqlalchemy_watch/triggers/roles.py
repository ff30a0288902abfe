"""The roles that may change a trigger, for the error where another one tries.

To create a trigger takes the right TRIGGER on its table; to replace a function, or to drop a trigger, takes its owner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ..catalog.status import WatchStatus
from ..errors import OwnershipError, one_line, sqlstate

_INSUFFICIENT_PRIVILEGE: Final = "42501"

_OWNERS: Final = """
SELECT n.nspname, p.proname, pg_catalog.pg_get_userbyid(p.proowner)
FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.prorettype = CAST(CAST('pg_catalog.trigger' AS pg_catalog.regtype) AS pg_catalog.oid)
  AND p.proname = ANY (CAST(:names AS text[]))
"""

#: The owners of functions, by schema and name.
Owners = Mapping[tuple[str, str], str]


def owners_of(connection: Connection, items: Sequence[WatchStatus]) -> Owners:
    """Return the owners of the functions that the items have, or would have."""
    names = [f.name for i in items for f in (i.installed, i.displaced) if f is not None]
    if not names:
        return {}
    return {(schema, name): owner for schema, name, owner in connection.execute(text(_OWNERS), {"names": names})}


@contextmanager
def naming_the_role(item: WatchStatus, owners: Owners) -> Iterator[None]:
    """Say which role has to make a change, where this one may not.

    :raises OwnershipError: in place of the driver's own error.
    """
    try:
        yield
    except DBAPIError as error:
        if sqlstate(error) != _INSUFFICIENT_PRIVILEGE:
            raise
        found = [f for f in (item.installed, item.displaced) if f is not None]
        table_owner = item.relation.owner if item.relation is not None else None
        roles = dict.fromkeys([table_owner, *(owners.get(f.name_key) for f in found)])
        named = " and of ".join(repr(role) for role in roles if role)
        raise OwnershipError(
            f"this role may not change the trigger of {item.table}/{item.label} ({one_line(error, brief=True)}): do it "
            f"as a member of {named or 'the role that owns it'}, or as a superuser"
        ) from error
