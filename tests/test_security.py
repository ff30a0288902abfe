"""What roles can do and can't, as docs/security.md says it; and its recipe for roles with the least rights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Recorder
from listener.conftest import drop_slots
from postgres import Cluster, needs_logical_messages
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched, status
from sqlalchemy_watch.listener.dispatch.dead_letters import LETTERS
from sqlalchemy_watch.listener.wal import slots

pytestmark = pytest.mark.server

Client = psycopg.Connection[Any]

RECIPE = re.search(r"```sql\n(.*?)```", (Path(__file__).parent.parent / "docs" / "security.md").read_text(), re.DOTALL)


class Roles:
    """The roles of the recipe, under names of this test's own, since roles belong to the whole server."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self._cluster, self._database = cluster, database

    def name(self, role: str) -> str:
        return f"{role}_{self._database}"

    def engine(self, role: str) -> Engine:
        return create_engine(f"postgresql+psycopg://{self.name(role)}@127.0.0.1:{self._cluster.port}/{self._database}")

    def connect(self, role: str) -> Client:
        url = f"postgresql://{self.name(role)}@127.0.0.1:{self._cluster.port}/{self._database}"
        return psycopg.connect(url, autocommit=True)


@pytest.fixture
def roles(cluster: Cluster, database: str, client: Client) -> Iterator[Roles]:
    """Those of the recipe, and one that may do nothing but connect."""
    assert RECIPE is not None
    made = Roles(cluster, database)
    names = ("shop_owner", "shop_writer", "shop_listener")
    recipe = RECIPE[1].replace("DATABASE shop", f"DATABASE {database}")
    for name in names:
        recipe = re.sub(rf"\b{name}\b", made.name(name), recipe)
    client.execute(f"CREATE ROLE {made.name('stranger')} LOGIN")
    client.execute(recipe.encode())
    client.execute(f"GRANT CONNECT ON DATABASE {database} TO {made.name('stranger')}")
    yield made
    for name in (*names, "stranger"):
        client.execute(f"DROP OWNED BY {made.name(name)} CASCADE")
        client.execute(f"DROP ROLE {made.name(name)}")


@pytest.fixture
def Salary(Base: type[DeclarativeBase]) -> Any:
    class Salary(Watched, Base):
        __tablename__ = "salaries"
        __watch__ = (
            Watch("updated", extra_columns=("amount",), old=True),
            Watch("updated", label="touched"),
            Watch("inserted", extra_columns=("amount",), delivery="durable"),
        )
        id: Mapped[int] = mapped_column(primary_key=True)
        amount: Mapped[int]

    return Salary


def prepare(roles: Roles, base: type[DeclarativeBase]) -> None:
    engine = roles.engine("shop_owner")
    base.metadata.create_all(engine)
    engine.dispose()


def test_whoever_may_connect_reads_what_notify_carries_past_rights_and_row_security(
    roles: Roles, client: Client, Base: Any, Salary: Any
) -> None:
    prepare(roles, Base)
    client.execute("INSERT INTO salaries VALUES (1, 100)")
    client.execute("ALTER TABLE salaries ENABLE ROW LEVEL SECURITY")
    with roles.connect("stranger") as stranger:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute("SELECT * FROM salaries")
        for signal in (Salary.watch.updated, Salary.watch.touched, Salary.watch.inserted):
            stranger.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(signal.details.channel)))
        client.execute("UPDATE salaries SET amount = 999")
        client.execute("INSERT INTO salaries VALUES (2, 555)")
        client.execute("UPDATE salaries SET amount = 7 WHERE id = 2")
        heard = {(n.channel, n.payload) for n in stranger.notifies(timeout=30, stop_after=4)}
    by_channel = {channel: [p for c, p in heard if c == channel] for channel, _ in heard}
    carried = by_channel[Salary.watch.updated.details.channel]
    assert any("999" in payload and "100" in payload for payload in carried)
    key_alone = by_channel[Salary.watch.touched.details.channel]
    assert not any("999" in payload or '"amount"' in payload for payload in key_alone)
    assert Salary.watch.inserted.details.channel not in by_channel  # the log is for roles with REPLICATION


def test_the_roles_of_the_recipe_can_do_their_work(
    roles: Roles, client: Client, Base: Any, Salary: Any, recorder: Recorder
) -> None:
    prepare(roles, Base)
    Salary.watch.updated.connect(recorder)
    writer, listening = roles.connect("shop_writer"), roles.engine("shop_listener")
    with writer, Listener(listening, Base) as listener:
        writer.execute("INSERT INTO salaries VALUES (1, 100)")
        writer.execute("UPDATE salaries SET amount = 200")
        listener.catch_up()
        assert [event.values["amount"] for event in recorder.events] == [200]
        assert {item.state for item in status(listening, Base)} == {"installed"}
    listening.dispose()


@pytest.fixture
def group(cluster: Cluster, database: str) -> Iterator[str]:
    yield f"group_{database}"
    drop_slots(cluster, database)


@needs_logical_messages
def test_a_durable_listener_of_the_recipe_needs_replication_and_what_an_administrator_made(
    roles: Roles, client: Client, Base: Any, Salary: Any, group: str, recorder: Recorder
) -> None:
    prepare(roles, Base)
    slots.ensure_publication(client)
    slots.ensure_slot(client, group)
    LETTERS.ensure(client)
    LETTERS.grant(client, roles.name("shop_listener"))
    client.execute(f"ALTER ROLE {roles.name('shop_listener')} REPLICATION")
    Salary.watch.inserted.connect(recorder)
    listening = roles.engine("shop_listener")
    with roles.connect("shop_writer") as writer, Listener(listening, Base, durable=group, max_attempts=3) as listener:
        writer.execute("INSERT INTO salaries VALUES (1, 100)")
        listener.catch_up()
        assert [event.values["amount"] for event in recorder.events] == [100]
    listening.dispose()


def test_whoever_is_not_in_the_recipe_can_neither_emit_nor_make_anything(roles: Roles) -> None:
    with roles.connect("stranger") as stranger:
        for attempt in (
            "SELECT pg_logical_emit_message(true, 'sqlalchemy_watch/watch_salaries_inserted', '{}')",
            "SELECT pg_logical_emit_message(true, 'x', '\\x00'::bytea)",
            "CREATE FUNCTION public.watch_salaries_gone() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE SCHEMA sqlalchemy_watch",
            "CREATE TEMPORARY TABLE t (x int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                stranger.execute(attempt.encode())
        # NOTIFY and LISTEN as statements ask for no right.
        stranger.execute("NOTIFY watch_salaries_updated, '{}'")
        stranger.execute("LISTEN watch_salaries_updated")


@needs_logical_messages
def test_a_writer_without_the_right_to_emit_is_not_heard_and_told_so(
    roles: Roles, client: Client, Base: Any, Salary: Any
) -> None:
    # The functions run with the writer's rights.
    prepare(roles, Base)
    client.execute(f"GRANT INSERT ON salaries TO {roles.name('stranger')}")
    warnings: list[str] = []
    with roles.connect("stranger") as stranger:
        stranger.add_notice_handler(lambda diagnostic: warnings.append(diagnostic.message_primary or ""))
        stranger.execute("INSERT INTO salaries VALUES (1, 100)")
        stranger.execute("INSERT INTO salaries SELECT i, 100 FROM generate_series(2, 100) AS i")
    assert client.execute("SELECT count(*) FROM salaries").fetchone() == (100,)
    assert len(warnings) == 2
    assert all("permission denied for function pg_logical_emit_message" in warning for warning in warnings)
    owner = roles.engine("shop_owner")
    (problem,) = {problem for item in status(owner, Base) for problem in item.problems}
    owner.dispose()
    assert f"{roles.name('stranger')!r} may write to it, and not execute pg_logical_emit_message" in problem
