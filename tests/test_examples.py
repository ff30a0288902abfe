"""Every example runs by itself, and does what it says."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Connection, Engine, text

from sqlalchemy_watch.testing import Capture, make_event

EXAMPLES = Path(__file__).parent.parent / "examples"

# Behind all else: the library is the one that is installed.
sys.path.append(str(EXAMPLES.parent))

SHOWS = {
    "cache_invalidation.py": "tea costs 350 and coffee None and cocoa 400",
    "email_on_change.py": "an email went to ada@old.example and ada@new.example",
    "prometheus_metrics.py": "the span 'process watch_orders_inserted' is linked to 'checkout'",
    "search_index.py": "the index was rebuilt after a resync",
    "webhook.py": "the webhook was called for order 8 of customer 2",
}


#: Those that need a broker: see tests/relay/test_broker_examples.py.
OF_BROKERS = {"relay_to_rabbitmq.py", "faststream_consumer.py"}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*SHOWS, *OF_BROKERS, "embedded.py"}


@pytest.mark.parametrize("name", SHOWS)
def test_example_does_what_it_says(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert SHOWS[name] in done.stdout.splitlines()


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(request.param)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        transaction = connection.begin()
        yield connection
        transaction.rollback()


@pytest.mark.parametrize("example", ["webhook"], indirect=True)
def test_the_webhook_is_called_for_shipped_orders_alone(example: ModuleType, connection: Connection) -> None:
    example.Base.metadata.create_all(connection)
    capture = Capture(connection, example.Base)
    connection.execute(text("INSERT INTO orders VALUES (1, 7), (2, 8)"))
    connection.execute(text("UPDATE orders SET status = 'packed'"))
    connection.execute(text("UPDATE orders SET status = 'shipped' WHERE id = 2"))
    assert [dict(event.values) for event in capture.deliver()] == [{"id": 2, "customer_id": 8}]


@pytest.mark.parametrize("example", ["email_on_change"], indirect=True)
def test_an_email_needs_an_address_that_has_really_changed(example: ModuleType, connection: Connection) -> None:
    example.Base.metadata.create_all(connection)
    capture = Capture(connection, example.Base)
    connection.execute(text("INSERT INTO users VALUES (1, 'Ada', 'ada@old.example')"))
    connection.execute(text("UPDATE users SET logins = logins + 1, email = email"))
    assert capture.deliver() == []
    connection.execute(text("UPDATE users SET email = 'ada@new.example'"))
    (event,) = capture.deliver()
    assert event.old is not None
    assert (event.old["email"], event.values["email"]) == ("ada@old.example", "ada@new.example")


def test_a_row_of_live_orders_is_text_in_the_page() -> None:
    app = pytest.importorskip("examples.live_orders.app")
    order = {"id": 1, "org_id": 1, "customer": "<script>alert(1)</script>", "status": '"><b>', "total": Decimal("1.50")}
    html = app.row_html(make_event(app.Order.watch.inserted, **order))
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert 'id="order-1"' in html


def test_a_tenant_of_live_orders_is_told_of_rows_that_leave(connection: Connection) -> None:
    app = pytest.importorskip("examples.live_orders.app")
    app.Base.metadata.create_all(connection)
    capture = Capture(connection, app.Base)
    connection.execute(text("INSERT INTO orgs VALUES (1, 'a'), (2, 'b'), (3, 'c')"))
    connection.execute(text("INSERT INTO orders (id, org_id, customer) VALUES (1, 1, 'Ada')"))
    connection.execute(text("UPDATE orders SET org_id = 2"))
    capture.deliver()
    told = {org: len(capture.of(app.Order.watch.updated.touching(org_id=org))) for org in (1, 2, 3)}
    assert told == {1: 1, 2: 1, 3: 0}
