"""The triggers, and the rights that installing them takes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..catalog.problems import HiddenTable, MuteWriters, mute_writers_of
from ..catalog.status import NO_TABLE, WatchStatus
from ..functions.quoting import qualified, quote
from .facts import Rights, Server
from .findings import Finding, Remedy, do, met, missing, shell, sql, warning


@dataclass(frozen=True)
class Installed:
    """The watches in the database."""

    items: Sequence[WatchStatus]
    mute: MuteWriters = field(default_factory=dict)
    hidden: Mapping[str, Sequence[HiddenTable]] = field(default_factory=dict)
    rights: Sequence[Rights] = ()
    #: True if Alembic's migrations are run in this database.
    has_migrations: bool = False


def judge_triggers(server: Server, installed: Installed, target: str) -> Iterator[Finding]:
    """Yield what is said of the triggers.

    :param target: as `sqlalchemy-watch install` takes it.
    """
    items = [item for item in installed.items if item.watch is not None]
    if not items:
        yield warning("triggers", "nothing is watched", "no change is told of", do("give a model __watch__"))
    lacking = [item for item in items if item.state != "installed"]
    well = len(items) - len(lacking)
    if well:
        yield met("triggers", f"{well} of {len(items)} triggers {'is' if well == 1 else 'are'} installed")
    yield from _judge_lacking(server, lacking, installed, target)
    for item in items:
        yield from _judge_mute(server, item, installed.mute)
        if item.state == "installed" and item.problems:
            yield missing(
                "triggers",
                f"{_name(item)} is installed, but {'; '.join(item.problems)}",
                "it does not tell of every write",
                do("change the declaration or the table as said, and install it again"),
            )
    yield from _judge_left_overs(installed, target)
    yield from _judge_rights(server, lacking, installed.rights)


def judge_forgotten(forgotten: Iterable[str]) -> Iterator[Finding]:
    """Yield what is said of models that look watched, and are not.

    :param forgotten: of each, in words: what it is, and what it should be.
    """
    for words in forgotten:
        what, _, remedy = words.partition(": ")
        yield warning("triggers", what, "no trigger is made for it", do(remedy))


def _name(item: WatchStatus) -> str:
    return f"the trigger of {item.table}/{item.label}"


def _judge_lacking(
    server: Server, lacking: Sequence[WatchStatus], installed: Installed, target: str
) -> Iterator[Finding]:
    """Yield those that are missing or outdated, together where one remedy helps all for one reason."""
    alike: dict[tuple[str, str, tuple[Remedy, ...]], list[str]] = {}
    for item in lacking:
        key = item.state, "; ".join(item.problems), _remedies(server, item, installed, target)
        alike.setdefault(key, []).append(f"{item.table}/{item.label}")
    for (state, problems, steps), names in alike.items():
        one = len(names) == 1
        what = f"the trigger{'' if one else 's'} of {', '.join(names)} {'is' if one else 'are'} {state} ({problems})"
        why = "nothing is told of such writes" if state == "missing" else "they are told of as it was declared before"
        yield missing("triggers", what, why, *steps)


def _remedies(server: Server, item: WatchStatus, installed: Installed, target: str) -> tuple[Remedy, ...]:
    if item.refusal is not None or item.obstacles:
        return (do("change the declaration, or what has its name, as said"),)
    hidden = installed.hidden.get(item.watch.table, ()) if item.watch is not None and item.watch.schema is None else ()
    if hidden:
        return tuple(_find(server, hidden))
    if NO_TABLE in item.problems and not installed.has_migrations:
        return (do("create the table: Base.metadata.create_all(engine) makes its triggers as well"),)
    return _install(installed, target)


def _find(server: Server, hidden: Iterable[HiddenTable]) -> Iterator[Remedy]:
    for table in hidden:
        if not table.may_be_used:
            yield sql(f"GRANT USAGE ON SCHEMA {quote(table.schema)} TO {quote(server.role)};")
        else:
            path = f"{quote(table.schema)}, public"
            yield sql(
                f"ALTER ROLE {quote(server.login)} IN DATABASE {quote(server.database)} SET search_path = {path};"
            )


def _install(installed: Installed, target: str, *options: str) -> tuple[Remedy, ...]:
    if installed.has_migrations:
        return (
            shell("alembic upgrade head"),
            shell('alembic revision --autogenerate -m "watches" && alembic upgrade head  # where that was not enough'),
        )
    return (shell(" ".join(["sqlalchemy-watch install", target, *options])),)


def _judge_mute(server: Server, item: WatchStatus, mute: MuteWriters) -> Iterator[Finding]:
    for function, roles in mute_writers_of(item, mute):
        named = ", ".join("PUBLIC" if role == "public" else quote(role) for role in roles)
        yield missing(
            "triggers",
            f"{', '.join(map(repr, roles))} may write to {item.table}, and not execute {function}",
            "triggers run with the rights of whoever writes, so such writes are not heard",
            sql(f"GRANT EXECUTE ON FUNCTION pg_catalog.{_signature(function, server.version)} TO {named};"),
        )


def _signature(function: str, version: int) -> str:
    """Return how GRANT has to name a function that sends: of some there are several."""
    if function == "pg_notify":
        return "pg_notify(text, text)"
    return f"{function}(boolean, text, text{', boolean' if version >= 17 else ''})"


def _judge_left_overs(installed: Installed, target: str) -> Iterator[Finding]:
    left = [f"{item.table}/{item.label}" for item in installed.items if item.watch is None]
    if left:
        steps = _install(installed, target, "--remove-orphaned")
        yield warning(
            "triggers",
            f"{', '.join(left)} {'is' if len(left) == 1 else 'are'} installed, and not declared any more",
            "writers pay for it, and nobody hears it",
            *(steps[1:] or steps),
        )


def _judge_rights(server: Server, lacking: Sequence[WatchStatus], rights: Sequence[Rights]) -> Iterator[Finding]:
    """Yield the rights that this role lacks, where it is to install what is not there; another one may do so."""
    needed = {item.relation.oid for item in lacking if item.relation is not None}
    owners = {
        item.installed.owner for item in lacking
        if item.relation is not None and item.installed is not None and not item.installed.is_own
    }  # fmt: skip
    for of in rights if needed and not server.is_superuser else ():
        steps = _grants(server.role, of)
        if steps:
            yield missing(
                "role",
                f"{server.role!r} may not install triggers on {qualified(of.schema, of.table)}",
                f"whoever installs them needs these rights, or is a member of {of.owner!r}, the table's owner",
                *steps,
            )
    if owners and not server.is_superuser:
        names = " and of ".join(map(repr, sorted(owners)))
        yield missing(
            "role",
            f"{server.role!r} may not replace trigger functions of {names}",
            "a function is replaced by its owner",
            do(f"install them as a member of {names}"),
        )


def _grants(role: str, of: Rights) -> list[Remedy]:
    steps = []
    if not of.may_add_triggers:
        steps.append(sql(f"GRANT TRIGGER ON {qualified(of.schema, of.table)} TO {quote(role)};"))
    if not of.may_create:
        steps.append(sql(f"GRANT CREATE ON SCHEMA {quote(of.schema)} TO {quote(role)};"))
    return steps
