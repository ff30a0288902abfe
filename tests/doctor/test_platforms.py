"""Whose server it is, and what is in front of it: pure, by the traces that the providers' documentation tells of."""

from __future__ import annotations

import pytest

from sqlalchemy_watch.doctor.platforms import Address, Platform, Traces, direct_of, recognize

NOWHERE = Address()


@pytest.mark.parametrize(
    ("traces", "host", "platform", "by"),
    [
        (Traces(), "localhost", Platform.POSTGRESQL, ""),
        (Traces(frozenset({"plpgsql", "pg_stat_statements"})), "10.0.0.4", Platform.POSTGRESQL, ""),
        (Traces(frozenset({"rds"})), "db.internal", Platform.RDS, "settings rds.*"),
        (Traces(roles=frozenset({"rds_superuser"})), "db.internal", Platform.RDS, "the role rds_superuser"),
        (Traces(frozenset({"rds"}), has_aurora_version=True), "", Platform.AURORA, "the function aurora_version()"),
        (
            Traces(frozenset({"rds"}), rds_extensions="plpgsql, aurora_stat_utils, apg_plan_mgmt"), "",
            Platform.AURORA, "aurora_stat_utils among rds.extensions",
        ),
        (Traces(frozenset({"cloudsql"})), "10.0.0.4", Platform.CLOUD_SQL, "settings cloudsql.*"),
        (Traces(roles=frozenset({"cloudsqlsuperuser"})), "", Platform.CLOUD_SQL, "the role cloudsqlsuperuser"),
        (Traces(frozenset({"azure"})), "", Platform.AZURE, "settings azure.*"),
        (Traces(roles=frozenset({"azure_pg_admin"})), "", Platform.AZURE, "the role azure_pg_admin"),
        (Traces(frozenset({"supautils"})), "", Platform.POSTGRESQL, ""),
        (Traces(roles=frozenset({"supabase_admin"})), "", Platform.SUPABASE, "the role supabase_admin"),
        (Traces(frozenset({"neon"})), "", Platform.NEON, "settings neon.*"),
        (Traces(roles=frozenset({"neon_superuser"})), "", Platform.NEON, "the role neon_superuser"),
        # A dump of one provider that was restored at another: settings say more than roles.
        (Traces(frozenset({"azure"}), frozenset({"rds_superuser"})), "", Platform.AZURE, "settings azure.*"),
        (Traces(), "db.abc.us-east-1.rds.amazonaws.com", Platform.RDS, "the name of the host"),
        (Traces(), "db.abc.rds.cn-north-1.amazonaws.com.cn", Platform.RDS, "the name of the host"),
        (Traces(), "shop.cluster-abc.us-east-1.rds.amazonaws.com", Platform.AURORA, "the name of the host"),
        (Traces(), "shop.cluster-ro-abc.us-east-1.rds.amazonaws.com", Platform.AURORA, "the name of the host"),
        (Traces(), "SHOP.postgres.database.azure.com", Platform.AZURE, "the name of the host"),
        (Traces(), "db.abc.supabase.co", Platform.SUPABASE, "the name of the host"),
        (Traces(), "aws-0-eu-west-1.pooler.supabase.com", Platform.SUPABASE, "the name of the host"),
        (Traces(), "ep-cool-a1.us-east-2.aws.neon.tech", Platform.NEON, "the name of the host"),
        (Traces(), "rds.amazonaws.com.example.org", Platform.POSTGRESQL, ""),
        (Traces(), "notneon.tech.example.org", Platform.POSTGRESQL, ""),
    ],
)  # fmt: skip
def test_platform_is_told_by_its_traces(traces: Traces, host: str, platform: Platform, by: str) -> None:
    assert recognize(traces, Address(host)) == (platform, by)


def address(host: str, port: int = 5432, user: str = "app") -> Address:
    return Address(host, port, user, "shop")


@pytest.mark.parametrize(
    ("at", "platform", "pooler", "url"),
    [
        (
            address("ep-cool-a1-pooler.us-east-2.aws.neon.tech"), Platform.NEON, "Neon's pooler (PgBouncer)",
            "postgresql://USER:PASSWORD@ep-cool-a1.us-east-2.aws.neon.tech:5432/shop",
        ),
        (
            address("aws-0-eu-west-1.pooler.supabase.com", 6543, "postgres.abcdef"), Platform.SUPABASE,
            "Supabase's pooler (Supavisor)", "postgresql://USER:PASSWORD@db.abcdef.supabase.co:5432/shop",
        ),
        (
            address("aws-0-eu-west-1.pooler.supabase.com", 6543), Platform.SUPABASE,
            "Supabase's pooler (Supavisor)", "postgresql://USER:PASSWORD@db.PROJECT.supabase.co:5432/shop",
        ),
        (
            address("db.abcdef.supabase.co", 6543), Platform.SUPABASE, "Supabase's dedicated pooler (PgBouncer)",
            "postgresql://USER:PASSWORD@db.abcdef.supabase.co:5432/shop",
        ),
        (address("shop.proxy-abc.us-east-1.rds.amazonaws.com"), Platform.RDS, "RDS Proxy", None),
        (
            address("shop.postgres.database.azure.com", 6432), Platform.AZURE, "Azure's built-in PgBouncer",
            "postgresql://USER:PASSWORD@shop.postgres.database.azure.com:5432/shop",
        ),
        (
            address("10.0.0.4", 6432), Platform.CLOUD_SQL, "Cloud SQL's managed connection pooling",
            "postgresql://USER:PASSWORD@10.0.0.4:5432/shop",
        ),
    ],
)  # fmt: skip
def test_pooler_is_told_by_its_address_and_so_is_the_way_past_it(
    at: Address, platform: Platform, pooler: str, url: str | None
) -> None:
    direct = direct_of(at, platform)
    assert direct is not None
    assert (direct.pooler, direct.url) == (pooler, url)


@pytest.mark.parametrize(
    ("at", "platform"),
    [
        (address("localhost", 6432), Platform.POSTGRESQL),
        (address("ep-cool-a1.us-east-2.aws.neon.tech"), Platform.NEON),
        (address("db.abcdef.supabase.co"), Platform.SUPABASE),
        (address("shop.postgres.database.azure.com"), Platform.AZURE),
        (address("shop.cluster-abc.us-east-1.rds.amazonaws.com"), Platform.AURORA),
    ],
)
def test_direct_addresses_are_no_poolers(at: Address, platform: Platform) -> None:
    assert direct_of(at, platform) is None
