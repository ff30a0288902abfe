"""Server, pooler, role, settings and listeners: what each has to be. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ..catalog import listening
from ..functions.quoting import quote
from ..listener.notify.exclusive import Holder
from .facts import Idle, Pooler, Server
from .findings import Finding, do, met, missing, shell, sql, warning
from .platforms import Address, Platform, Recognized, direct_of, recognize_host
from .remedies import change_setting, go_past, reset

#: Of the NOTIFY queue, from 0 to 1: from here on somebody does not read, and from there on it is urgent.
MUCH_OF_QUEUE, MOST_OF_QUEUE = 0.1, 0.5

#: Seconds that a transaction may be open in which nothing happens.
LONG_IDLE = 300.0

#: Seconds, below which a session's own limit would end what the listener asks.
SHORT_TIMEOUT = 1.0

#: Seconds of silence after which load balancers and firewalls forget a connection, the impatient ones among them.
SILENCE = 240.0


def judge_unreachable(words: str, address: Address) -> Iterator[Finding]:
    """Yield what is said of a server that can't be reached.

    :param words: the driver's.
    """
    recognized = recognize_host(address.host)
    steps = [do("look at the URL's host, port, database, user and sslmode, and at the network in between")]
    if recognized.platform is Platform.SUPABASE:
        steps.append(do("Supabase's direct host has IPv6 alone, unless the project has the IPv4 add-on"))
    if recognized.platform is not Platform.POSTGRESQL:
        yield judge_platform(recognized)
    yield missing("server", f"can't connect: {words}", "nothing can be heard, or looked at", *steps)


def judge_server(server: Server, refusal: str | None) -> Iterator[Finding]:
    """Yield what is said of version, standby and encoding.

    :param refusal: why the listener would refuse the server, in its own words.
    """
    if refusal is not None:
        what, _, remedy = refusal.partition(": ")
        if server.in_recovery:
            yield missing(
                "server", what, "triggers fire on the primary, and LISTEN is possible there alone", do(remedy)
            )
        else:
            yield missing("server", what, "the trigger functions need what older ones lack", do(f"upgrade: {remedy}"))
        return
    yield met("server", f"PostgreSQL {server.version}, a primary, {server.encoding}, database {server.database!r}")
    if server.encoding == "SQL_ASCII":
        yield warning(
            "server",
            "the database's encoding is SQL_ASCII, which takes any bytes",
            "payloads are read as UTF-8, and a row that is none asks for a resync",
            do("make a database of encoding UTF8, and move the data there"),
        )


def judge_platform(recognized: Recognized) -> Finding:
    """Return whose server it is."""
    by = f", by {recognized.by}" if recognized.by else ""
    return met("platform", f"{recognized.platform}{by}")


def judge_pooler(server: Server, pooler: Pooler, address: Address) -> Finding:
    """Return what is said of a pooler, for something that LISTENs."""
    direct = direct_of(address, server.platform)
    name = pooler.name or (direct.pooler if direct is not None else None)
    if pooler.refusal is not None:
        return missing(
            "pooler",
            f"the connection goes through {name or 'a pooler of transactions'}, which loses LISTEN",
            "it gives the server's session to others between transactions",
            *go_past(direct),
        )
    if pooler.is_between:
        return met("pooler", f"{name or 'something that is not the server'} in between, and notifications come through")
    return met("pooler", "none in between")


def judge_notifying(server: Server) -> Finding:
    """Return what is said of the role of something that LISTENs."""
    if server.may_notify:
        return met("role", f"{server.role!r} may LISTEN and NOTIFY")
    return missing(
        "role",
        f"{server.role!r} may not execute pg_notify",
        "heartbeats and catch_up() notify a channel of the listener's own",
        sql(f"GRANT EXECUTE ON FUNCTION pg_catalog.pg_notify TO {quote(server.role)};"),
    )


def judge_session(server: Server) -> Iterator[Finding]:
    """Yield what is said of the settings that the sessions of this role begin with."""
    found = server.settings.get("session_replication_role")
    if found is not None and found.value == "replica":
        yield missing(
            "settings",
            f"session_replication_role is 'replica' for sessions of {server.role!r}",
            "no trigger fires for what they write, but those that fire always",
            *reset("session_replication_role", found.source, server.login, server.database),
        )
    milliseconds = server.number("statement_timeout")
    if 0 < milliseconds < SHORT_TIMEOUT * 1000:
        source = server.settings["statement_timeout"].source
        longer = sql(f"ALTER ROLE {quote(server.login)} SET statement_timeout = '10s';")
        # These two come before what a role has.
        overrides = source in ("client", "database user")
        steps = reset("statement_timeout", source, server.login, server.database) if overrides else (longer,)
        yield warning(
            "settings",
            f"statement_timeout is {milliseconds} ms for sessions of {server.role!r}",
            "a heartbeat or a look at the catalog that takes longer ends the listener's connection",
            *steps,
        )


def judge_queue(server: Server) -> Finding:
    """Return how full the NOTIFY queue is."""
    full = f"the NOTIFY queue is {server.queue_usage:.0%} full"
    if server.queue_usage < MUCH_OF_QUEUE:
        return met("settings", full)
    steps = [
        sql(
            "SELECT pid, usename, application_name, state, xact_start FROM pg_catalog.pg_stat_activity WHERE "
            "state LIKE 'idle in transaction%' OR wait_event = 'ClientWrite' ORDER BY xact_start;"
        ),
        do("end the one that listens and does not read: SELECT pg_catalog.pg_terminate_backend(PID);"),
    ]
    why = "some session listens and does not read; once the queue is full every COMMIT that notifies fails"
    if server.queue_usage < MOST_OF_QUEUE:
        return warning("settings", full, why, *steps)
    if server.version >= 17:
        pages = 2 * server.number("max_notify_queue_pages")
        steps += change_setting(server.platform, "max_notify_queue_pages", str(pages), restart=True)
    return missing("settings", full, why, *steps)


def judge_idle(server: Server, idle: Idle | None) -> Iterator[Finding]:
    """Yield what is said of a transaction that was left open."""
    if idle is None or idle.seconds < LONG_IDLE:
        return
    whose = f" of {idle.role!r}" if idle.role else ""
    yield warning(
        "settings",
        f"a transaction{whose} (pid {idle.pid}) is open for {idle.seconds / 60:.0f} minutes, and nothing happens in it",
        "a slot that is to be made waits for it, and holds the log since then; a session that listens holds the queue",
        sql(f"SELECT pg_catalog.pg_terminate_backend({idle.pid});"),
        sql(f"ALTER DATABASE {quote(server.database)} SET idle_in_transaction_session_timeout = '5min';"),
    )


def judge_heartbeat(seconds: float) -> Iterator[Finding]:
    """Yield what is said of the time between round trips."""
    if seconds > SILENCE:
        yield warning(
            "settings",
            f"heartbeat_interval is {seconds:g} s",
            "load balancers and firewalls forget a connection that is silent for as long, and tell nobody",
            do(f"leave heartbeat_interval out (30 s), or take less than {SILENCE:g}"),
        )


def judge_listeners(count: int, target: str) -> Finding:
    """Return what is said of the number of sessions that listen.

    :param target: as the command line takes it.
    """
    words = listening.words_for(count)
    if words is None:
        return met("listeners", f"{count} session{'s' * (count != 1)} of this library listen{'s' * (count == 1)} here")
    what, _, remedy = words.partition(": ")
    return warning(
        "listeners",
        what.split(",")[0],
        "each commit that notifies wakes all of them",
        shell(f"sqlalchemy-watch relay {target} --broadcast --to nats://HOST"),
        do(f"{remedy}: Listener(..., via=relay.nats(...)) in all others"),
    )


def judge_holder(name: str, holder: Holder | None) -> Finding:
    """Return who is heard of those that have `exclusive=`."""
    if holder is None:
        return met("listeners", f"nobody is heard as exclusive={name!r} at present")
    if not holder.is_foreign:
        return met("listeners", f"exclusive={name!r}: another process is heard ({holder})")
    return missing(
        "listeners",
        f"the lock of exclusive={name!r} is held by another role ({holder})",
        "all processes have to log in with the same role: a stranger may hold it, and nobody be heard",
        do("log in with the same role everywhere, or choose a name that is nobody else's"),
        sql(f"SELECT pg_catalog.pg_terminate_backend({holder.pid});"),
    )
