"""What is said of facts, and which commands help, by platform: pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from sqlalchemy_watch.catalog.listening import MANY
from sqlalchemy_watch.doctor import durable, judging
from sqlalchemy_watch.doctor.facts import Idle, Logs, Pooler, Server, Setting
from sqlalchemy_watch.doctor.findings import Finding
from sqlalchemy_watch.doctor.platforms import Address, Platform
from sqlalchemy_watch.doctor.remedies import let_replicate, limit_slots, logical_decoding, reset
from sqlalchemy_watch.listener.notify.exclusive import Holder
from sqlalchemy_watch.listener.wal.slots import Slot

NOWHERE = Address()


def server(version: int = 18, platform: Platform = Platform.POSTGRESQL, **changed: Any) -> Server:
    settings = {
        "wal_level": "logical", "max_replication_slots": "10", "max_wal_senders": "10", "max_slot_wal_keep_size": "-1",
        "statement_timeout": "0", "session_replication_role": "origin", "max_notify_queue_pages": "1048576",
    }  # fmt: skip
    settings |= {name: changed.pop(name) for name in list(changed) if name in settings}
    changed.setdefault("may_replicate", True)
    return Server(version, settings={n: Setting(v, "user") for n, v in settings.items()}, platform=platform, **changed)


def slot(**changed: Any) -> Slot:
    fields: dict[str, Any] = {
        "name": "mailer", "database": "shop", "plugin": "pgoutput", "active": True, "active_pid": 7, "lag_bytes": 0,
        "held_bytes": 2048, "wal_status": "reserved", "safe_bytes": None, "acknowledged": "0/0", "consumer": None,
        "consumer_address": None, "lag_seconds": None,
    }  # fmt: skip
    return Slot(**{**fields, **changed})


def steps(finding: Finding) -> list[str]:
    return [remedy.text for remedy in finding.remedies]


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        (Platform.POSTGRESQL, ["ALTER SYSTEM SET wal_level = 'logical';", "restart the server"]),
        (
            Platform.RDS,
            [
                "aws rds modify-db-parameter-group --db-parameter-group-name GROUP --parameters "
                '"ParameterName=rds.logical_replication,ParameterValue=1,ApplyMethod=pending-reboot"',
                "aws rds reboot-db-instance --db-instance-identifier INSTANCE",
            ],
        ),
        (
            Platform.AURORA,
            [
                "aws rds modify-db-cluster-parameter-group --db-cluster-parameter-group-name GROUP --parameters "
                '"ParameterName=rds.logical_replication,ParameterValue=1,ApplyMethod=pending-reboot"',
                "aws rds reboot-db-instance --db-instance-identifier WRITER",
            ],
        ),
        (
            Platform.CLOUD_SQL,
            [
                "gcloud sql instances patch INSTANCE --database-flags=cloudsql.logical_decoding=on",
                "--database-flags resets every flag that it does not name: name those that are set as well",
            ],
        ),
        (
            Platform.AZURE,
            [
                "az postgres flexible-server parameter set --resource-group GROUP --server-name SERVER "
                "--name wal_level --value logical",
                "az postgres flexible-server restart --resource-group GROUP --name SERVER",
            ],
        ),
        (Platform.SUPABASE, ["it is on by default there: see the project's settings of Postgres, or ask Supabase's"]),
        (Platform.NEON, ["in the Neon Console: Settings, Logical Replication, Enable; it restarts every compute"]),
    ],
)
def test_logical_decoding_is_switched_on_as_the_platform_has_it(platform: Platform, expected: list[str]) -> None:
    found = durable.judge_decoding(server(platform=platform, wal_level="replica"))
    assert (found.part, found.state, found.what) == ("settings", "missing", "wal_level is 'replica'")
    assert [step[: len(words)] for step, words in zip(steps(found), expected, strict=True)] == expected


def test_postgresql_19_needs_no_more_than_replica() -> None:
    assert durable.judge_decoding(server(19, wal_level="replica")).state == "met"
    assert (
        steps(durable.judge_decoding(server(19, wal_level="minimal")))[0] == "ALTER SYSTEM SET wal_level = 'replica';"
    )


def test_old_server_has_to_be_upgraded_for_groups_alone() -> None:
    found = durable.judge_decoding(server(13))
    assert (found.part, found.state, found.what) == ("server", "missing", "the server is PostgreSQL 13")


@pytest.mark.parametrize(
    ("platform", "version", "expected"),
    [
        (Platform.POSTGRESQL, 14, 'ALTER ROLE "App" REPLICATION;'),
        (Platform.CLOUD_SQL, 17, 'ALTER ROLE "App" REPLICATION;'),
        (Platform.AZURE, 17, 'ALTER ROLE "App" REPLICATION;'),
        (Platform.SUPABASE, 17, 'ALTER ROLE "App" REPLICATION;'),
        (Platform.SUPABASE, 15, "log in as the role postgres"),
        (Platform.RDS, 17, 'GRANT rds_replication TO "App";'),
        (Platform.AURORA, 17, 'GRANT rds_replication TO "App";'),
        (Platform.NEON, 17, "log in as a role that was made in the Neon Console"),
    ],
)
def test_role_is_let_replicate_as_the_platform_has_it(platform: Platform, version: int, expected: str) -> None:
    (step,) = let_replicate(platform, "App", version)
    assert step.text.startswith(expected)
    refused = Logs("permission denied to start WAL sender")
    of = server(version, platform, login="App", may_replicate=False)
    found = durable.judge_replication(of, refused, Pooler(), NOWHERE)
    assert (found.part, found.state, found.remedies) == ("role", "missing", (step,))


@pytest.mark.parametrize(
    ("pooler", "at", "part", "words"),
    [
        (Pooler(), NOWHERE, "server", "pg_hba.conf"),
        (Pooler(True, "PgBouncer 1.18.0"), NOWHERE, "pooler", "PgBouncer 1.23 or later"),
        (
            Pooler(), Address("ep-a-pooler.us-east-2.aws.neon.tech", database="shop"), "pooler",
            "ep-a.us-east-2.aws.neon.tech:5432/shop",
        ),
    ],
)  # fmt: skip
def test_refused_replication_is_told_by_what_is_most_likely_in_the_way(
    pooler: Pooler, at: Address, part: str, words: str
) -> None:
    found = durable.judge_replication(server(), Logs("it was refused"), pooler, at)
    assert (found.part, found.state) == (part, "missing")
    assert "it was refused" in found.what
    assert words in " ".join(steps(found))


@pytest.mark.parametrize("platform", Platform)
def test_every_platform_has_steps_for_everything(platform: Platform) -> None:
    for found in (logical_decoding(platform, "logical"), let_replicate(platform, "app", 15), limit_slots(platform)):
        assert found
        assert all(step.text and "None" not in step.text for step in found)


def test_setting_that_a_platform_keeps_for_itself_is_not_told_to_be_changed() -> None:
    for platform in (Platform.AZURE, Platform.CLOUD_SQL):
        assert steps(durable.judge_limit(server(platform=platform))) == [
            "max_slot_wal_keep_size can't be changed there: set an alert on the storage that is used"
        ]
    assert durable.judge_limit(server(max_slot_wal_keep_size="512")).state == "met"


@pytest.mark.parametrize(
    ("slots", "senders", "has_slot", "missing"),
    [
        (9, 9, False, []),
        (10, 0, False, ["all 10 replication slots (max_replication_slots) are taken"]),
        (10, 0, True, []),
        (0, 10, False, ["all 10 walsenders (max_wal_senders) are taken"]),
    ],
)
def test_room_for_slots_and_walsenders(slots: int, senders: int, has_slot: bool, missing: list[str]) -> None:
    found = list(durable.judge_room(server(), Logs(slots=slots, senders=senders), has_slot))
    assert [finding.what for finding in found if finding.state == "missing"] == missing


@pytest.mark.parametrize(
    ("made", "survives", "state", "words"),
    [
        (None, None, "warning", "there is no slot 'mailer' yet"),
        (slot(), True, "met", "is read by pid 7, it holds 2 kB of log"),
        (slot(active=False, active_pid=None), True, "warning", "is read by nobody at present, it holds 2 kB of log"),
        (slot(wal_status="unreserved"), True, "warning", "is about to be lost"),
        (slot(wal_status="lost", held_bytes=None), True, "missing", "is lost"),
        (slot(plugin="wal2json"), True, "missing", "is of the plugin 'wal2json'"),
        (slot(database="other"), True, "missing", "is of the database 'other'"),
    ],
)
def test_slot_is_judged(made: Slot | None, survives: bool | None, state: str, words: str) -> None:
    found = only(durable.judge_slot(server(), "mailer", made, survives, Logs(has_standbys=True)))
    assert (found.part, found.state) == ("slot", state)
    assert words in found.what


@pytest.mark.parametrize(
    ("version", "survives", "has_standbys", "words"),
    [
        (16, None, True, "slots don't survive a failover before PostgreSQL 17"),
        (16, None, False, None),
        (18, False, True, "the slot 'mailer' was made without failover"),
        (18, False, False, None),
    ],
)
def test_failover_is_worth_a_word_where_there_are_standbys(
    version: int, survives: bool | None, has_standbys: bool, words: str | None
) -> None:
    _, *found = durable.judge_slot(server(version), "mailer", slot(), survives, Logs(has_standbys=has_standbys))
    assert [(finding.state, finding.what) for finding in found] == ([("warning", words)] if words else [])


def test_slots_that_nobody_reads_are_named_where_no_group_is() -> None:
    others = [slot(), slot(name="b", active=False), slot(name="c", active=False, database="other")]
    found = list(durable.judge_strays(server(), others))
    assert [finding.what[:12] for finding in found] == ["the slot 'b'"]


def test_publication_that_the_role_may_not_make_is_made_by_an_administrator() -> None:
    logs = Logs(has_publication=False, tables={"sqlalchemy_watch.dead_letters": "it does not exist"})
    found = only(durable.judge_publication(server(role="o'hara"), logs, "mailer"))
    assert found.state == "missing"
    assert "the publication 'sqlalchemy_watch' and the table sqlalchemy_watch.dead_letters are missing" in found.what
    assert steps(found)[0].startswith("sqlalchemy-watch slots create mailer --role 'o'\"'\"'hara'")
    assert only(durable.judge_publication(server(may_create_schemas=True), logs, "mailer")).state == "met"


@pytest.mark.parametrize(
    ("version", "usage", "state", "last"),
    [
        (18, 0.0, "met", None),
        (18, 0.2, "warning", "pg_terminate_backend(PID)"),
        (18, 0.6, "missing", "restart the server"),
        (16, 0.6, "missing", "pg_terminate_backend(PID)"),
    ],
)
def test_notify_queue_is_judged(version: int, usage: float, state: str, last: str | None) -> None:
    found = judging.judge_queue(server(version, queue_usage=usage))
    assert found.state == state
    assert last is None or last in steps(found)[-1]
    assert found.what == f"the NOTIFY queue is {usage:.0%} full"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("user", 'ALTER ROLE app RESET session_replication_role;'),
        ("database", 'ALTER DATABASE "Shop" RESET session_replication_role;'),
        ("database user", 'ALTER ROLE app IN DATABASE "Shop" RESET session_replication_role;'),
        ("client", "take session_replication_role out of the engine's connect_args"),
        ("configuration file", "take session_replication_role out of the server's configuration"),
    ],
)  # fmt: skip
def test_setting_is_taken_away_where_it_is_made(source: str, expected: str) -> None:
    (step,) = reset("session_replication_role", source, "app", "Shop")
    assert step.text.startswith(expected)


def test_sessions_that_fire_no_triggers_and_limits_that_are_too_short() -> None:
    found = list(judging.judge_session(server(session_replication_role="replica", statement_timeout="500")))
    assert [finding.state for finding in found] == ["missing", "warning"]
    assert steps(found[1]) == ["ALTER ROLE app SET statement_timeout = '10s';"]
    overridden = replace(server(), settings={"statement_timeout": Setting("500", "client")})
    assert steps(only(judging.judge_session(overridden)))[0].startswith("take statement_timeout out of the engine's")
    assert not list(judging.judge_session(server(statement_timeout="60000")))


@pytest.mark.parametrize(
    ("idle", "count"), [(None, 0), (Idle(7, 10.0, "app"), 0), (Idle(7, 900.0, "app"), 1), (Idle(7, 900.0, None), 1)]
)
def test_transaction_that_was_left_open_is_named_after_minutes(idle: Idle | None, count: int) -> None:
    found = list(judging.judge_idle(server(), idle))
    assert [finding.state for finding in found] == ["warning"] * count
    assert all("(pid 7) is open for 15 minutes" in finding.what for finding in found)


def test_silence_that_firewalls_do_not_bear_is_warned_of() -> None:
    assert not list(judging.judge_heartbeat(30.0))
    assert only(judging.judge_heartbeat(900.0)).what == "heartbeat_interval is 900 s"


def test_many_listeners_are_told_of_the_broadcast() -> None:
    assert judging.judge_listeners(MANY - 1, "shop:Base").state == "met"
    found = judging.judge_listeners(MANY, "shop:Base")
    assert (found.state, found.what) == ("warning", f"{MANY} sessions listen to this database")
    assert steps(found)[0] == "sqlalchemy-watch relay shop:Base --broadcast --to nats://HOST"


def test_lock_of_a_stranger_is_missing_and_that_of_a_colleague_is_not() -> None:
    assert judging.judge_holder("mail", None).state == "met"
    assert judging.judge_holder("mail", Holder(7, "app", None, None, False)).state == "met"
    assert judging.judge_holder("mail", Holder(7, "eve", None, None, True)).state == "missing"


def test_host_that_can_t_be_reached_is_named_by_its_host_alone() -> None:
    found = list(judging.judge_unreachable("timeout expired", Address("db.abcdef.supabase.co")))
    assert [(finding.part, finding.state) for finding in found] == [("platform", "met"), ("server", "missing")]
    assert "IPv6" in " ".join(steps(found[1]))
    assert only(judging.judge_unreachable("timeout expired", NOWHERE)).what == "can't connect: timeout expired"
