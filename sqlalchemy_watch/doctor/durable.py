"""What a consumer group needs besides: logical decoding, replication, the publication, its slot. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ..catalog.problems import durable_problem
from ..listener.wal.slots import FAILOVER_VERSION, PLUGIN, PUBLICATION, Slot, size_text
from ..wire import DURABLE_SINCE, lowest_wal_level
from .facts import NO_TABLE, Logs, Pooler, Server
from .findings import Finding, Remedy, do, met, missing, shell, warning
from .platforms import Address, direct_of
from .remedies import change_setting, go_past, let_replicate, limit_slots, logical_decoding

#: Of the publication and the library's own tables.
_OF_GROUPS = "every consumer group needs it"


def judge_decoding(server: Server) -> Finding:
    """Return whether the server can deliver durably at all."""
    level = server.setting("wal_level")
    problem = durable_problem(server.version, level)
    if problem is None:
        return met("settings", f"wal_level is {level!r}")
    what = problem.split(", so durable")[0]
    why = "durable delivery reads the server's log, which has to hold what decoding it takes"
    if server.version < DURABLE_SINCE:
        return missing("server", what, why, do(f"upgrade: durable delivery needs PostgreSQL {DURABLE_SINCE} or later"))
    return missing("settings", what, why, *logical_decoding(server.platform, lowest_wal_level(server.version)))


def judge_room(server: Server, logs: Logs, has_slot: bool) -> Iterator[Finding]:
    """Yield what is said of slots and walsenders.

    :param has_slot: True if the group's slot is there.
    """
    most = server.number("max_replication_slots")
    if not has_slot:
        if logs.slots >= most:
            yield missing(
                "settings",
                f"all {most} replication slots (max_replication_slots) are taken",
                "each consumer group is a slot",
                do("drop those that nobody reads: sqlalchemy-watch slots list, sqlalchemy-watch slots drop NAME"),
                *change_setting(server.platform, "max_replication_slots", str(most + 5), restart=True),
            )
        else:
            yield met("settings", f"{logs.slots} of {most} replication slots are taken")
    most = server.number("max_wal_senders")
    if logs.senders >= most:
        yield missing(
            "settings",
            f"all {most} walsenders (max_wal_senders) are taken",
            "each active consumer needs one, and those that stand by for moments",
            *change_setting(server.platform, "max_wal_senders", str(most + 5), restart=True),
        )
    else:
        yield met("settings", f"{logs.senders} of {most} walsenders are taken")


def judge_replication(server: Server, logs: Logs, pooler: Pooler, address: Address) -> Finding:
    """Return whether a connection of replication can be opened, and otherwise what is most likely in the way."""
    if logs.refusal is None:
        return met("role", f"{server.login!r} may start replication")
    why = "a consumer group reads the log by a connection of replication"
    if not server.may_replicate:
        steps = let_replicate(server.platform, server.login, server.version)
        return missing("role", f"{server.login!r} may not start replication", why, *steps)
    direct = direct_of(address, server.platform)
    if pooler.is_between or direct is not None:
        name = pooler.name or (direct.pooler if direct is not None else "a pooler")
        what = f"the connection goes through {name}, which passes no replication: {logs.refusal}"
        return missing("pooler", what, why, *go_past(direct, for_replication=True))
    return missing(
        "server",
        f"no connection of replication can be opened: {logs.refusal}",
        why,
        do(
            "see the server's log; where pg_hba.conf refuses it, the line has to name the database, and not replication"
        ),
    )


def judge_publication(server: Server, logs: Logs, group: str | None) -> Iterator[Finding]:
    """Yield what is said of the publication, and of the library's own tables."""
    lacking = [] if logs.has_publication else [f"the publication {PUBLICATION!r}"]
    lacking += [f"the table {name}" for name, why in logs.tables.items() if why == NO_TABLE]
    if not lacking:
        yield met("slot", f"the publication {PUBLICATION!r} is there")
    elif server.may_create_schemas:
        yield met("slot", f"{' and '.join(lacking)} will be made at the first start")
    else:
        what = f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing"
        steps = _create(group, server.role)
        yield missing("slot", f"{what}, and {server.role!r} may not make that", _OF_GROUPS, *steps)
    for name, why in logs.tables.items():
        if why not in (None, NO_TABLE):
            yield missing("slot", f"the table {name}: {why}", _OF_GROUPS, *_create(group, server.role))


def _create(group: str | None, role: str) -> tuple[Remedy, ...]:
    words = ["sqlalchemy-watch slots create", *([group] if group else []), "--role", shlex.quote(role)]
    return (shell(f"{' '.join(words)}  # as an administrator, with --url"),)


def judge_limit(server: Server) -> Finding:
    """Return what is said of the log that a slot may hold."""
    megabytes = server.number("max_slot_wal_keep_size")
    if megabytes >= 0:
        return met("settings", f"max_slot_wal_keep_size is {megabytes} MB")
    return warning(
        "settings",
        "a slot may hold any amount of log (max_slot_wal_keep_size is -1)",
        "a group that is down for long fills the disk; with a limit it has a resync instead",
        *limit_slots(server.platform),
    )


def judge_slot(server: Server, group: str, slot: Slot | None, survives: bool | None, logs: Logs) -> Iterator[Finding]:
    """Yield what is said of a group's slot.

    :param survives: True if it is copied to standbys; None where the server is too old for that.
    """
    if slot is None:
        yield warning(
            "slot",
            f"there is no slot {group!r} yet",
            "it is made at the first start, and what commits before is not kept for the group",
            shell(f"sqlalchemy-watch slots create {group}"),
        )
        return
    if slot.plugin != PLUGIN or slot.database != server.database:
        whose = f"of the plugin {slot.plugin!r}" if slot.plugin != PLUGIN else f"of the database {slot.database!r}"
        yield missing(
            "slot",
            f"the slot {group!r} is {whose}",
            "names of slots are shared by the whole server, and this one is something else's",
            do("choose another name for the group: Listener(..., durable=NAME)"),
        )
        return
    yield _state_of(slot)
    if not survives and logs.has_standbys:
        yield _lost_in_failover(server, group)


def _state_of(slot: Slot) -> Finding:
    held = "" if slot.held_bytes is None else f", it holds {size_text(slot.held_bytes)} of log"
    reader = f"read by pid {slot.active_pid}" if slot.active else "read by nobody at present"
    if slot.is_lost:
        return missing(
            "slot",
            f"the slot {slot.name!r} is lost: the server has given up the log that it needs",
            "what was in between is gone; the group has a resync when it starts, with a slot that is made anew",
            do(f"start the group; where it is retired: sqlalchemy-watch slots drop {slot.name}"),
        )
    if slot.wal_status == "unreserved":
        return warning(
            "slot",
            f"the slot {slot.name!r} is about to be lost{held}",
            "the server gives its log up at the next checkpoint",
            do("start the group now, or raise max_slot_wal_keep_size"),
        )
    if not slot.active:
        return warning(
            "slot",
            f"the slot {slot.name!r} is {reader}{held}",
            "the server keeps its log until somebody reads the slot",
            do(f"start the group; where it is retired: sqlalchemy-watch slots drop {slot.name}"),
        )
    return met("slot", f"the slot {slot.name!r} is {reader}{held}")


def _lost_in_failover(server: Server, group: str) -> Finding:
    why = "after a failover the slot is made anew, with a resync"
    if server.version < FAILOVER_VERSION:
        what = f"slots don't survive a failover before PostgreSQL {FAILOVER_VERSION}"
        return warning("slot", what, why, do(f"upgrade to PostgreSQL {FAILOVER_VERSION} or later"))
    return warning(
        "slot",
        f"the slot {group!r} was made without failover",
        why,
        do("stop the group, and make the slot anew, from which on it hears:"),
        shell(f"sqlalchemy-watch slots drop {group} && sqlalchemy-watch slots create {group}"),
    )


def judge_strays(server: Server, slots: list[Slot]) -> Iterator[Finding]:
    """Yield the slots of this database that nobody reads, where it is not known which are this application's."""
    for slot in slots:
        if slot.database == server.database and slot.plugin == PLUGIN and not slot.active:
            yield _state_of(slot)
