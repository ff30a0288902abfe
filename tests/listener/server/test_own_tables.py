"""The table of dead letters is used only where nobody else's code runs by it: whoever writes to it is the consumer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from postgres import Cluster, needs_logical_messages
from support import insert

from sqlalchemy_watch import OwnershipError
from sqlalchemy_watch.listener.dispatch import dead_letters
from sqlalchemy_watch.listener.dispatch.dead_letters import LETTERS

from ..conftest import MakeListener

LETTER = ("group", "channel", '{"rows": [[1]]}', 1, 0, "module.receiver", None, "ValueError", 1)

EVIL = (
    "CREATE FUNCTION sqlalchemy_watch.evil() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN ALTER ROLE {stranger} SUPERUSER; RETURN NEW; END'"
)
EVIL_VALUE = (
    "CREATE FUNCTION sqlalchemy_watch.value() RETURNS text LANGUAGE plpgsql AS "
    "'BEGIN ALTER ROLE {stranger} SUPERUSER; RETURN ''x''; END'"
)

#: Ways to have code run, or letters hidden, by a table with the right name; the first statement makes the table.
LIKE = "CREATE TABLE sqlalchemy_watch.dead_letters (LIKE public.shape INCLUDING ALL)"
FORGERIES = {
    "untouched": [LIKE],
    "trigger": [
        LIKE, EVIL,
        "CREATE TRIGGER evil BEFORE INSERT ON sqlalchemy_watch.dead_letters "
        "FOR EACH ROW EXECUTE FUNCTION sqlalchemy_watch.evil()",
    ],
    "rule": [
        LIKE, EVIL_VALUE,
        "CREATE RULE evil AS ON INSERT TO sqlalchemy_watch.dead_letters DO ALSO SELECT sqlalchemy_watch.value()",
    ],
    "default": [
        LIKE, EVIL_VALUE,
        "ALTER TABLE sqlalchemy_watch.dead_letters ALTER error SET DEFAULT sqlalchemy_watch.value()",
    ],
    "check": [LIKE, EVIL_VALUE, "ALTER TABLE sqlalchemy_watch.dead_letters ADD CHECK (sqlalchemy_watch.value() = 'x')"],
    "policy": [
        LIKE, EVIL_VALUE, "ALTER TABLE sqlalchemy_watch.dead_letters ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY evil ON sqlalchemy_watch.dead_letters USING (sqlalchemy_watch.value() = 'x')",
    ],
    "index": [
        LIKE, "CREATE INDEX ON sqlalchemy_watch.dead_letters (lower(error))",
    ],
    "view": [
        EVIL_VALUE,
        "CREATE VIEW sqlalchemy_watch.dead_letters AS SELECT s.*, sqlalchemy_watch.value() FROM public.shape AS s",
    ],
    "partitioned": ["CREATE TABLE sqlalchemy_watch.dead_letters (LIKE public.shape) PARTITION BY LIST (receiver)"],
    "domain": [
        LIKE, "CREATE DOMAIN sqlalchemy_watch.t AS text",
        "ALTER TABLE sqlalchemy_watch.dead_letters ALTER error TYPE sqlalchemy_watch.t",
    ],
    "empty schema": [],
}  # fmt: skip


@pytest.fixture
def stranger(client: psycopg.Connection[Any], database: str) -> Iterator[str]:
    """A role that may make schemas, and knows the table's shape."""
    name = f"stranger_{database}"
    LETTERS.ensure(client)
    client.execute("CREATE TABLE shape (LIKE sqlalchemy_watch.dead_letters INCLUDING ALL)")
    client.execute("DROP SCHEMA sqlalchemy_watch CASCADE")
    client.execute(f"CREATE ROLE {name} LOGIN")
    client.execute(f"GRANT CREATE ON DATABASE {database} TO {name}")
    client.execute(f"GRANT SELECT ON shape TO {name}")
    yield name
    client.execute(f"DROP OWNED BY {name} CASCADE")
    client.execute(f"DROP ROLE {name}")


@pytest.mark.server
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_table_that_somebody_else_made_first_is_refused_by_everything_that_would_use_it(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], stranger: str, forgery: str
) -> None:
    with psycopg.connect(f"postgresql://{stranger}@127.0.0.1:{cluster.port}/{database}", autocommit=True) as forger:
        forger.execute("CREATE SCHEMA sqlalchemy_watch")
        for statement in FORGERIES[forgery]:
            forger.execute(statement.format(stranger=stranger).encode())
    for use in (
        lambda: LETTERS.ensure(client),
        lambda: LETTERS.exists(client),
        lambda: dead_letters.park(client, LETTER, None),
        lambda: dead_letters.list_letters(client),
        lambda: dead_letters.retry(client, "group", None),
        lambda: dead_letters.drop(client, "group", None),
    ):
        with pytest.raises(OwnershipError, match=stranger):
            use()
    assert dead_letters.next_due(client, "group") is None
    assert client.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [stranger]).fetchone() == (False,)


@pytest.mark.server
@pytest.mark.parametrize("forgery", [name for name, statements in FORGERIES.items() if LIKE in statements[:1]])
def test_a_table_that_was_taken_over_from_somebody_else_is_looked_at_as_well(
    client: psycopg.Connection[Any], stranger: str, forgery: str
) -> None:
    client.execute("CREATE SCHEMA sqlalchemy_watch")
    for statement in FORGERIES[forgery]:
        client.execute(statement.format(stranger=stranger).encode())
    if forgery == "untouched":
        assert LETTERS.exists(client)
        dead_letters.park(client, LETTER, None)
    else:
        with pytest.raises(OwnershipError, match="it has|its columns"):
            LETTERS.exists(client)


@pytest.mark.server
def test_owners_that_a_consumer_trusts(
    cluster: Cluster, database: str, client: psycopg.Connection[Any], stranger: str
) -> None:
    # Itself, a superuser, the owner of the database, and a role that it is a member of; a superuser trusts no other.
    LETTERS.ensure(client)

    def give_to(owner: str) -> None:
        client.execute(f"ALTER TABLE sqlalchemy_watch.dead_letters OWNER TO {owner}")
        client.execute(f"ALTER SCHEMA sqlalchemy_watch OWNER TO {owner}")

    with psycopg.connect(f"postgresql://{stranger}@127.0.0.1:{cluster.port}/{database}", autocommit=True) as consumer:
        assert LETTERS.exists(consumer)
        give_to(stranger)
        assert LETTERS.exists(consumer)
        other = f"{stranger}_other"
        client.execute(f"CREATE ROLE {other}")
        try:
            give_to(other)
            with pytest.raises(OwnershipError, match=other):
                LETTERS.exists(consumer)
            client.execute(f"GRANT {other} TO {stranger}")
            assert LETTERS.exists(consumer)
            client.execute(f"REVOKE {other} FROM {stranger}")
            client.execute(f"ALTER DATABASE {database} OWNER TO {other}")
            assert LETTERS.exists(consumer)
            with pytest.raises(OwnershipError, match=other):
                LETTERS.exists(client)
        finally:
            client.execute(f"ALTER DATABASE {database} OWNER TO postgres")
            give_to("postgres")
            client.execute(f"DROP ROLE {other}")


class _AlwaysFails:
    def __call__(self, sender: Any, event: Any) -> None:
        raise ValueError("no such address")


@needs_logical_messages
def test_a_table_that_is_dropped_under_a_running_consumer_is_made_again(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener
) -> None:
    fails = _AlwaysFails()
    Order.watch.inserted.connect(fails)
    with durable(max_attempts=1) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
        for dropped in ("TABLE sqlalchemy_watch.dead_letters", "SCHEMA sqlalchemy_watch CASCADE"):
            client.execute(f"DROP {dropped}".encode())
            insert(client, "orders", 2 + ("SCHEMA" in dropped))
            listener.catch_up()
            assert len(dead_letters.list_letters(client)) == 1


@needs_logical_messages
@pytest.mark.parametrize("odd", ["\ud800", "\0", "a\udfffb\0"], ids=ascii)
def test_a_letter_is_written_whatever_the_context_of_its_event_holds(
    client: psycopg.Connection[Any], Order: Any, durable: MakeListener, odd: str
) -> None:
    fails = _AlwaysFails()
    Order.watch.inserted.connect(fails)
    with durable(max_attempts=1) as listener:
        with client.transaction():
            context = json.dumps({"user": odd})  # in ASCII
            client.execute("SELECT set_config('sqlalchemy_watch.context', %s, true)", [context])
            insert(client, "orders", 1)
        forged = {
            "v": 1, "table": "orders", "label": "inserted", "op": "inserted", "columns": ["id"], "schema": "public",
            "context": context, odd: odd, "rows": [[2]],
        }  # fmt: skip
        prefix = f"sqlalchemy_watch/{Order.watch.inserted.details.channel}"
        client.execute("SELECT pg_logical_emit_message(true, %s, %s)", [prefix, json.dumps(forged)])
        listener.catch_up()
        assert listener.stats().dead_letters == 2
    found = dead_letters.list_letters(client)
    assert [json.loads(letter.payload)["rows"] for letter in found] == [[[1]], [[2]]]
    assert [json.loads(json.loads(letter.payload)["context"])["user"] for letter in found] == [odd, odd]
