"""What was read: from here on nothing is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .platforms import Platform

#: Why a table can't be used: there is none.
NO_TABLE = "it does not exist"


class Setting(NamedTuple):
    """A setting as the session has it."""

    value: str
    #: As in `pg_settings.source`.
    source: str = "default"


@dataclass(frozen=True)
class Server:
    """The server, and the role that has logged in."""

    #: The major version.
    version: int
    in_recovery: bool = False
    encoding: str = "UTF8"
    database: str = "shop"
    #: Whose rights hold, and who has logged in: SET ROLE tells them apart.
    role: str = "app"
    login: str = "app"
    is_superuser: bool = False
    #: True if the one who has logged in may start replication.
    may_replicate: bool = False
    may_create_schemas: bool = False
    may_notify: bool = True
    #: From 0 to 1.
    queue_usage: float = 0.0
    settings: Mapping[str, Setting] = field(default_factory=dict)
    platform: Platform = Platform.POSTGRESQL

    def setting(self, name: str) -> str:
        """Return a setting's value; an empty text where there is none."""
        return self.settings[name].value if name in self.settings else ""

    def number(self, name: str) -> int:
        """Return a setting that is a number; 0 where there is none."""
        return int(self.setting(name) or 0)


@dataclass(frozen=True)
class Pooler:
    """What is between this process and the server."""

    #: True if the server's process is not the one that the client was told of.
    is_between: bool = False
    #: As it calls itself.
    name: str | None = None
    #: Why LISTEN is lost through it; None where that works.
    refusal: str | None = None


@dataclass(frozen=True)
class Logs:
    """What consumer groups need, and share."""

    #: Why no connection of replication can be opened; None where that works.
    refusal: str | None = None
    slots: int = 0
    senders: int = 0
    #: True if there are standbys, to which the server may fail over.
    has_standbys: bool = False
    has_publication: bool = True
    #: The library's own tables that the group needs, with why they can't be used; None where they can.
    tables: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Idle:
    """A transaction that is open, and in which nothing happens."""

    pid: int
    seconds: float
    role: str | None


@dataclass(frozen=True)
class Rights:
    """The rights of the role on a table and in its schema."""

    schema: str
    table: str
    owner: str
    may_add_triggers: bool
    may_create: bool
    #: True if it is the owner, or a member of that.
    owns: bool
