"""Commands that change a server, by platform. Pure; docs/platforms.md says which documentation they are from."""

from __future__ import annotations

from ..functions.quoting import literal, quote
from .findings import Remedy, do, shell, sql
from .platforms import Direct, Platform

_CLOUD_SQL_FLAGS = "--database-flags resets every flag that it does not name: name those that are set as well"


def logical_decoding(platform: Platform, level: str) -> tuple[Remedy, ...]:
    """Return what switches logical decoding on; each restarts the server.

    :param level: the `wal_level` that is needed.
    """
    match platform:
        case Platform.SUPABASE:
            return (do("it is on by default there: see the project's settings of Postgres, or ask Supabase's support"),)
        case Platform.NEON:
            return (
                do(
                    "in the Neon Console: Settings, Logical Replication, Enable; it restarts every compute of the "
                    "project, and can't be switched off again"
                ),
            )
        case Platform.RDS | Platform.AURORA:
            return change_setting(platform, "rds.logical_replication", "1", restart=True)
        case Platform.CLOUD_SQL:
            return change_setting(platform, "cloudsql.logical_decoding", "on", restart=True)
        case _:
            return change_setting(platform, "wal_level", level, restart=True)


def change_setting(platform: Platform, name: str, value: str, *, restart: bool) -> tuple[Remedy, ...]:
    """Return what changes a setting of the server.

    :param restart: True where it holds from a restart on.
    """
    when = "pending-reboot" if restart else "immediate"
    parameters = f'--parameters "ParameterName={name},ParameterValue={value},ApplyMethod={when}"'
    match platform:
        case Platform.RDS:
            change = shell(f"aws rds modify-db-parameter-group --db-parameter-group-name GROUP {parameters}")
            again = shell("aws rds reboot-db-instance --db-instance-identifier INSTANCE")
        case Platform.AURORA:
            change = shell(
                f"aws rds modify-db-cluster-parameter-group --db-cluster-parameter-group-name GROUP {parameters}"
            )
            again = shell("aws rds reboot-db-instance --db-instance-identifier WRITER")
        case Platform.CLOUD_SQL:  # which restarts by itself
            return (
                shell(f"gcloud sql instances patch INSTANCE --database-flags={name}={value}"),
                do(_CLOUD_SQL_FLAGS),
            )
        case Platform.AZURE:
            change = shell(
                f"az postgres flexible-server parameter set --resource-group GROUP --server-name SERVER --name {name} "
                f"--value {value}"
            )
            again = shell("az postgres flexible-server restart --resource-group GROUP --name SERVER")
        case Platform.SUPABASE:  # which restarts by itself
            return (
                shell(f"supabase --experimental --project-ref PROJECT postgres-config update --config {name}={value}"),
            )
        case Platform.NEON:
            return (do(f"ask Neon's support for {name} = {value}: it can't be set there"),)
        case _:
            change = sql(f"ALTER SYSTEM SET {name} = {literal(value)};")
            again = do("restart the server")
            return (change, again) if restart else (change, sql("SELECT pg_catalog.pg_reload_conf();"))
    return (change, again) if restart else (change,)


def let_replicate(platform: Platform, role: str, version: int) -> tuple[Remedy, ...]:
    """Return what lets a role start replication.

    :param version: the server's major version.
    """
    name = quote(role)
    match platform:
        case Platform.RDS | Platform.AURORA:
            return (sql(f"GRANT rds_replication TO {name};"),)
        case Platform.NEON:
            return (
                do(
                    "log in as a role that was made in the Neon Console, with its CLI or its API: those may replicate, "
                    "and of those made with SQL Neon says that they can't be granted it"
                ),
            )
        case Platform.SUPABASE if version < 17:
            return (do("log in as the role postgres: before PostgreSQL 17 no other one can be given it there"),)
        case _:
            return (sql(f"ALTER ROLE {name} REPLICATION;"),)


def limit_slots(platform: Platform) -> tuple[Remedy, ...]:
    """Return what keeps a slot that nobody reads from filling the disk."""
    match platform:
        case Platform.AZURE | Platform.CLOUD_SQL:
            return (do("max_slot_wal_keep_size can't be changed there: set an alert on the storage that is used"),)
        case Platform.NEON:
            return (do("Neon removes slots that nobody reads: see docs/platforms.md"),)
        case Platform.AURORA:
            return (do("drop the slots of groups that are retired, and watch the others: sqlalchemy-watch slots list"),)
        case _:
            return change_setting(platform, "max_slot_wal_keep_size", "10GB" if _takes_units(platform) else "10240",
                                  restart=False)  # fmt: skip


def _takes_units(platform: Platform) -> bool:
    return platform in (Platform.POSTGRESQL, Platform.SUPABASE)


def go_past(direct: Direct | None, *, for_replication: bool = False) -> tuple[Remedy, ...]:
    """Return how to go past a pooler.

    :param direct: what its address tells; None where that is nothing.
    """
    if direct is not None and direct.url is None:
        return (do(direct.words),)
    words = _OWN_ADDRESS if direct is None else direct.words
    url = _ANY_URL if direct is None or direct.url is None else direct.url
    steps = [do(f'{words}: Listener(..., listen_url="{url}")')]
    if direct is None:
        steps.append(do(_REPLICATION_THROUGH if for_replication else _SESSIONS))
    return tuple(steps)


_OWN_ADDRESS = "give the listener the server's own address"
_ANY_URL = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"
_SESSIONS = (
    "or have the pooler give it a session of its own: pool_mode = session in PgBouncer, "
    'pooler_mode = "session" in PgDog'
)
_REPLICATION_THROUGH = "or take PgBouncer 1.23 or later, which passes connections of replication on"


def reset(name: str, source: str, role: str, database: str) -> tuple[Remedy, ...]:
    """Return what takes a setting of sessions away.

    :param source: `pg_settings.source`.
    """
    match source:
        case "user":
            return (sql(f"ALTER ROLE {quote(role)} RESET {name};"),)
        case "database":
            return (sql(f"ALTER DATABASE {quote(database)} RESET {name};"),)
        case "database user":
            return (sql(f"ALTER ROLE {quote(role)} IN DATABASE {quote(database)} RESET {name};"),)
        case "client":
            return (do(f"take {name} out of the engine's connect_args, or out of options= in its URL"),)
        case _:
            return (do(f"take {name} out of the server's configuration"),)
