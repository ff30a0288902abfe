"""Whose server it is, and what is in front of it, by traces that each leaves. Pure.

Where the traces are from:

- Amazon RDS: settings `rds.*`, above all `rds.extensions`, and the role `rds_superuser`
  (https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Appendix.PostgreSQL.CommonDBATasks.html).
- Amazon Aurora: besides, the function `aurora_version()`
  (https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora_version.html), and `aurora_stat_utils` among
  `rds.extensions`, by which pganalyze's collector knows it (https://github.com/pganalyze/collector).
- Google Cloud SQL: settings `cloudsql.*`, the role `cloudsqlsuperuser`
  (https://docs.cloud.google.com/sql/docs/postgres/users).
- Azure: settings `azure.*`, the role `azure_pg_admin`
  (https://learn.microsoft.com/en-us/azure/postgresql/security/security-access-control).
- Supabase: the role `supabase_admin` (https://supabase.com/docs/guides/database/postgres/roles). Settings `supautils.*`
  alone are no proof: others install that extension, too.
- Neon: settings `neon.*`, such as `neon.tenant_id`, and the role `neon_superuser`
  (https://neon.com/docs/manage/roles).

Settings say more than roles, which anybody may have made, and both more than the name of a host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Platform(StrEnum):
    """Whose server it is."""

    POSTGRESQL = "PostgreSQL"
    RDS = "Amazon RDS"
    AURORA = "Amazon Aurora"
    CLOUD_SQL = "Google Cloud SQL"
    AZURE = "Azure Database for PostgreSQL"
    SUPABASE = "Supabase"
    NEON = "Neon"


class Address(NamedTuple):
    """Where the connection goes."""

    host: str = ""
    port: int = 5432
    user: str = ""
    database: str = ""


@dataclass(frozen=True)
class Traces:
    """Traces of a platform."""

    #: The first parts of settings' names that have a dot in them.
    prefixes: frozenset[str] = frozenset()
    #: Of the roles that platforms make, those that exist.
    roles: frozenset[str] = frozenset()
    #: The setting `rds.extensions`.
    rds_extensions: str = ""
    has_aurora_version: bool = False


class Recognized(NamedTuple):
    """A platform, and by what it was recognized; empty where by nothing."""

    platform: Platform
    by: str


_PREFIXES = {
    "neon": Platform.NEON,
    "cloudsql": Platform.CLOUD_SQL,
    "azure": Platform.AZURE,
    "rds": Platform.RDS,
}
_ROLES = {
    "supabase_admin": Platform.SUPABASE,
    "neon_superuser": Platform.NEON,
    "cloudsqlsuperuser": Platform.CLOUD_SQL,
    "azure_pg_admin": Platform.AZURE,
    "rds_superuser": Platform.RDS,
}

#: The roles to look for.
ROLES = frozenset(_ROLES)

_AMAZON = r"\.rds(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?"
_HOSTS = {
    rf"\.(cluster|cluster-ro|cluster-custom)-[a-z0-9]+\.[a-z0-9-]+{_AMAZON}$": Platform.AURORA,
    rf"{_AMAZON}$": Platform.RDS,
    r"\.postgres\.database\.azure\.com$": Platform.AZURE,
    r"\.supabase\.(co|com)$": Platform.SUPABASE,
    r"\.neon\.tech$": Platform.NEON,
}


def recognize(traces: Traces, address: Address) -> Recognized:
    """Return the platform, as far as it can be told."""
    if traces.has_aurora_version:
        return Recognized(Platform.AURORA, "the function aurora_version()")
    if "aurora_stat_utils" in traces.rds_extensions:
        return Recognized(Platform.AURORA, "aurora_stat_utils among rds.extensions")
    for prefix, platform in _PREFIXES.items():
        if prefix in traces.prefixes:
            return Recognized(platform, f"settings {prefix}.*")
    for role, platform in _ROLES.items():
        if role in traces.roles:
            return Recognized(platform, f"the role {role}")
    return recognize_host(address.host)


def recognize_host(host: str) -> Recognized:
    """Return the platform, as far as the name of the host tells."""
    for pattern, platform in _HOSTS.items():
        if re.search(pattern, host.lower()):
            return Recognized(platform, "the name of the host")
    return Recognized(Platform.POSTGRESQL, "")


class Direct(NamedTuple):
    """A pooler's name, and how to go past it."""

    pooler: str
    #: None where the address can't be told from the pooler's.
    url: str | None
    #: What to do.
    words: str


_LISTEN_URL = "give the listener the server's own address"


def direct_of(address: Address, platform: Platform) -> Direct | None:
    """Return which pooler the address is that of, as far as it tells; None where it is none that is known."""
    host, port = address.host.lower(), address.port
    if re.search(r"-pooler\.[a-z0-9.-]*neon\.tech$", host):
        return _past("Neon's pooler (PgBouncer)", address, re.sub(r"-pooler\.", ".", host, count=1), 5432)
    if host.endswith(".pooler.supabase.com"):
        project = address.user.rpartition(".")[2] if "." in address.user else "PROJECT"
        words = (
            f"{_LISTEN_URL}, which has IPv6 alone unless the project has the IPv4 add-on; for LISTEN the same host "
            f"with port 5432 will do, which pools sessions"
        )
        past = _past("Supabase's pooler (Supavisor)", address, f"db.{project}.supabase.co", 5432)
        return past._replace(words=words)
    if platform is Platform.SUPABASE and port == 6543:
        return _past("Supabase's dedicated pooler (PgBouncer)", address, host, 5432)
    if re.search(rf"\.proxy-[a-z0-9]+\.[a-z0-9-]+{_AMAZON}$", host):
        words = f"{_LISTEN_URL}: the endpoint of the instance, or of the cluster's writer"
        return Direct("RDS Proxy", None, words)
    if platform is Platform.AZURE and port == 6432:
        return _past("Azure's built-in PgBouncer", address, host, 5432)
    if platform is Platform.CLOUD_SQL and port == 6432:
        return _past("Cloud SQL's managed connection pooling", address, host, 5432)
    return None


def _past(pooler: str, address: Address, host: str, port: int) -> Direct:
    url = f"postgresql://USER:PASSWORD@{host}:{port}/{address.database or 'DATABASE'}"
    return Direct(pooler, url, _LISTEN_URL)
