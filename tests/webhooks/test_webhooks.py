"""Webhooks of a consumer group: a real listener tells a real HTTP server."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import psycopg
import pytest
from listener.conftest import MakeListener
from postgres import needs_logical_messages
from sqlalchemy import Column, Engine, Integer, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from support import PATIENCE, insert, wait_until

from sqlalchemy_watch import ConfigurationError, Listener, RetryPolicy, Watch, Watched, watch
from sqlalchemy_watch.webhooks import Webhook, new_secret, webhook

from . import partner as partner_module
from .partner import SECRET, Partner, serving

Client = psycopg.Connection[Any]
MakeHook = Callable[..., Webhook]

pytestmark = needs_logical_messages

QUICK = {"first_delay": 0.01, "max_delay": 0.05}


def letters(client: Client) -> list[Any]:
    query = "SELECT payload::json->'rows'->0->>0, receiver, error, attempts FROM sqlalchemy_watch.dead_letters"
    return client.execute(f"{query} ORDER BY lsn, position").fetchall()


def test_an_event_is_a_signed_call(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    events: list[Any] = []
    Order.watch.connect(hook(), name="partner")
    Order.watch.connect(lambda sender, event: events.append(event))
    with durable() as listener:
        insert(client, "orders", 7)
        client.execute("UPDATE orders SET note = 'x'")
        listener.catch_up()
    assert partner.ids == [f"{event.lsn:016X}-{event.position}" for event in events]
    assert [call.verified() for call in partner.calls] == [
        {
            "type": "order.inserted",
            "timestamp": events[0].emitted_at.isoformat(),
            "data": {"identity": [7], "values": {"id": 7, "note": ""}, "old": None, "changed": None},
        },
        {
            "type": "order.updated",
            "timestamp": events[1].emitted_at.isoformat(),
            "data": {
                "identity": [7], "values": {"id": 7, "note": "x"}, "old": {"id": 7, "note": ""}, "changed": ["note"],
            },
        },
    ]  # fmt: skip
    (call, _) = partner.calls
    assert (call.path, call.headers["content-type"]) == ("/hooks", "application/json")
    assert b" " not in call.body  # minified


def test_what_is_sent_is_what_body_returns(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    bodies: dict[int, Any] = {1: {"order": 1}, 2: ["ä", None], 3: '{"a":  1}', 4: b'{"b":\xc3\xa4}'}
    Order.watch.inserted.connect(hook(body=lambda event: bodies[event.identity[0]], headers={"X-Key": "k"}))
    with durable() as listener:
        insert(client, "orders", 1, 2, 3, 4)
        listener.catch_up()
    assert [call.body for call in partner.calls] == [
        b'{"order":1}', b'["\\u00e4",null]', b'{"a":  1}', b'{"b":\xc3\xa4}',
    ]  # fmt: skip
    assert {call.headers["x-key"] for call in partner.calls} == {"k"}


HOSTILE = [
    "'; DROP TABLE orders; --", '"}],"data":{}', "</script>\u2028\u2029", "line\r\nwebhook-id: 1\t\x01", "😀 ä ٣", "\\",
    "x" * 100_000,
]  # fmt: skip


def test_hostile_values_arrive_as_they_are(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    Order.watch.inserted.connect(hook())
    with durable() as listener:
        for number, text in enumerate(HOSTILE):
            client.execute("INSERT INTO orders (id, note) VALUES (%s, %s)", [number, text])
        listener.catch_up()
    assert [call.verified()["data"]["values"]["note"] for call in partner.calls] == HOSTILE


def test_each_secret_verifies_while_one_is_replaced(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    old, new = new_secret(), new_secret()
    Order.watch.inserted.connect(hook(secret=(new, old)))
    with durable() as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert partner.calls[0].verified(old) == partner.calls[0].verified(new)


def test_a_partner_that_is_killed_and_comes_back_misses_nothing(
    client: Client, Order: Any, durable: MakeListener, hook: MakeHook, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = tmp_path / "told"
    path.touch()

    def told() -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, partner_module.__file__, str(port), str(path)])

    events: dict[str, int] = {}
    Order.watch.inserted.connect(lambda sender, event: events.update({event.id: event.identity[0]}))
    Order.watch.inserted.connect(hook(f"http://127.0.0.1:{port}/"), name="partner")
    with durable(retry=RetryPolicy(**QUICK), workers=2) as listener:
        process = start()
        try:
            insert(client, "orders", *range(20))
            for heard, more in ((10, range(20, 40)), (25, range(40, 60))):
                wait_until(client, lambda least=heard: len(told()) >= least)
                process.kill()
                process.wait()
                insert(client, "orders", *more)
                process = start()
            listener.catch_up(3 * PATIENCE)
        finally:
            process.kill()
            process.wait()
    assert {identity: payload["data"]["values"]["id"] for identity, payload in told()} == events
    assert sorted(events.values()) == list(range(60))


def test_an_event_that_is_tried_again_has_its_id_and_a_new_timestamp(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    partner.answers = [(500, {}), (404, {}), (204, {})]
    Order.watch.inserted.connect(hook())
    with durable(retry=RetryPolicy(first_delay=0.5, max_delay=0.6)) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert len(partner.calls) == 3
    assert len(set(partner.ids)) == 1
    for call in partner.calls:
        call.verified()
        assert 0 <= call.wall - int(call.headers["webhook-timestamp"]) < PATIENCE
    assert len({call.headers["webhook-timestamp"] for call in partner.calls}) > 1


@pytest.mark.parametrize("status", [429, 500])
def test_a_pause_in_seconds_is_heeded_and_no_attempt(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook, status: int
) -> None:
    partner.answers = [(status, {"Retry-After": "1"})]
    Order.watch.inserted.connect(hook())
    with durable(retry=RetryPolicy(max_attempts=1, **QUICK)) as listener:
        insert(client, "orders", 1, 2)
        listener.catch_up()
        assert listener.stats().dead_letters == 0
    (first, again, second) = partner.calls
    assert first.id == again.id != second.id
    assert again.at - first.at >= 1


def test_a_pause_until_a_date_is_heeded(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    until = int(time.time()) + 3
    partner.answers = [(503, {"Retry-After": formatdate(until, usegmt=True)})]
    Order.watch.inserted.connect(hook())
    with durable(retry=RetryPolicy(**QUICK)) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert len(partner.calls) == 2
    assert partner.calls[1].wall >= until


def test_a_pause_is_for_all_lanes(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    partner.answers = [(429, {"Retry-After": "1"})]
    Order.watch.inserted.connect(hook())
    policy = RetryPolicy(in_order="key", **QUICK)
    with durable(retry=policy, workers=4) as listener:
        failed = threading.Event()
        listener.receiver_failed.connect(lambda listener, receiver, event, error: failed.set())
        insert(client, "orders", 0)
        assert failed.wait(PATIENCE)
        insert(client, "orders", *range(1, 9))
        listener.catch_up()
        assert listener.stats().dead_letters == 0
    first, *others = partner.calls
    assert len(others) == 9
    assert min(call.at for call in others) - first.at >= 1


@pytest.mark.parametrize("in_order", [True, "key"])
def test_a_partner_that_puts_events_off_for_ever_does_not_hold_them_for_ever(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook, in_order: Any
) -> None:
    partner.always = (503, {"Retry-After": "0"})
    Order.watch.inserted.connect(hook(max_pause=1.0), name="partner")
    policy = RetryPolicy(max_attempts=1, in_order=in_order, **QUICK)
    with durable(retry=policy, heartbeat_interval=0.1) as listener:
        insert(client, "orders", 1)
        wait_until(client, lambda: listener.stats().dead_letters == 1)
        listener.catch_up()
    (letter,) = letters(client)
    assert letter == ("1", "partner", "RetryAfter: webhook to 127.0.0.1: answered 503, and asked for a pause", 1)
    assert len(partner.calls) == 2


def test_an_answer_other_than_2xx_is_a_failure_and_at_last_a_dead_letter(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    partner.answers = [(400, {}), (503, {"Retry-After": "soon"}), (200, {}), (299, {})]
    Order.watch.inserted.connect(hook(), name="partner")
    with durable(max_attempts=2) as listener:
        insert(client, "orders", 1, 2, 3)
        listener.catch_up()
    assert letters(client) == [("1", "partner", "WebhookFailed: webhook to 127.0.0.1: answered 503", 2)]
    told = [record for record in caplog.records if " failed on " in record.getMessage()]
    assert ["answered 400" in told[0].getMessage(), "answered 503" in told[1].getMessage()] == [True, True]
    assert not any(record.exc_info for record in told)  # a partner that is away is no bug
    assert len(set(partner.ids)) == 3


@pytest.mark.parametrize("status", [302, 308])
def test_a_redirect_is_not_followed(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook, status: int
) -> None:
    with serving(Partner()) as other:
        partner.always = (status, {"Location": other.url, "Retry-After": "1"})
        Order.watch.inserted.connect(hook())
        with durable(max_attempts=1) as listener:
            insert(client, "orders", 1)
            listener.catch_up()
    assert other.calls == []
    words = f"WebhookFailed: webhook to 127.0.0.1: answered {status}, and redirects are not followed: give its new url"
    assert letters(client)[0][2] == words


def test_an_event_is_given_up_at_once_where_the_partner_is_gone(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    partner.answers = [(410, {"Retry-After": "1"})]
    Order.watch.inserted.connect(hook(), name="partner")
    with durable() as listener:  # which tries for ever
        insert(client, "orders", 1, 2)
        listener.catch_up()
        assert listener.stats().dead_letters == 1
    assert len(partner.calls) == 2
    (letter,) = letters(client)
    assert letter[:2] == ("1", "partner")
    assert letter[2].startswith("GiveUp: webhook to 127.0.0.1: answered 410")


def test_a_call_that_is_not_answered_in_time_is_tried_again(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    slow = threading.Event()
    partner.before = lambda: slow.wait(PATIENCE) if len(partner.calls) == 1 else None
    Order.watch.inserted.connect(hook(timeout=0.2))
    with durable(retry=RetryPolicy(**QUICK)) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    slow.set()
    assert len(partner.calls) == 2
    assert len(set(partner.ids)) == 1


def test_with_workers_calls_are_made_side_by_side(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    together = threading.Barrier(4)
    partner.before = lambda: together.wait(PATIENCE)
    Order.watch.inserted.connect(hook())
    with durable(workers=4) as listener:
        insert(client, "orders", *range(8))
        listener.catch_up()
    assert len(set(partner.ids)) == 8
    assert not together.broken


def test_each_customer_has_an_endpoint_and_a_secret(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    with serving(Partner()) as other:
        urls, secrets = {"a": partner.url, "b": other.url}, {"a": new_secret(), "b": new_secret()}

        def url_of(event: Any) -> str | None:
            return urls.get(event.values["note"])

        def secret_of(event: Any) -> str:
            return secrets[event.values["note"]]

        Order.watch.inserted.connect(hook(url_of, secret=secret_of, allow_private=True))
        with durable() as listener:
            client.execute("INSERT INTO orders (id, note) VALUES (1, 'a'), (2, 'b'), (3, 'nobody'), (4, 'a')")
            listener.catch_up()
    told = [[call.verified(secrets[name])["data"]["identity"][0] for call in p.calls] for name, p in
            (("a", partner), ("b", other))]  # fmt: skip
    assert told == [[1, 4], [2]]


def test_one_customers_pause_does_not_keep_the_others_waiting(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    with serving(Partner()) as other:
        partner.always = (503, {"Retry-After": "600"})
        urls = {"a": partner.url, "b": other.url}
        Order.watch.inserted.connect(hook(lambda event: urls[event.values["note"]], allow_private=True))
        with durable(retry=RetryPolicy(in_order="key"), workers=2):
            client.execute("INSERT INTO orders (id, note) SELECT n, CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END "
                           "FROM generate_series(1, 20) n")  # fmt: skip
            wait_until(client, lambda: len(other.calls) == 10)
    assert len(partner.calls) <= 2  # of lanes that had begun


@pytest.mark.parametrize("url", ["http://partner.example/t0ken", 7])
def test_a_customers_url_that_is_none_is_a_failure_that_does_not_show_it(
    client: Client, Order: Any, durable: MakeListener, hook: MakeHook, url: Any
) -> None:
    Order.watch.inserted.connect(hook(lambda event: url))
    with durable(max_attempts=1) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    (letter,) = letters(client)
    assert letter[2].startswith("ConfigurationError: webhook")
    assert "t0ken" not in letter[2]


def test_a_customers_url_does_not_lead_to_a_private_network(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    Order.watch.inserted.connect(hook(lambda event: partner.url))
    with durable(max_attempts=1) as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert partner.calls == []
    assert "of a private network" in letters(client)[0][2]


def test_no_log_and_no_letter_has_secret_payload_or_url(
    client: Client,
    Order: Any,
    durable: MakeListener,
    partner: Partner,
    hook: MakeHook,
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = new_secret()
    url = f"http://127.0.0.1:{partner.port}/p4th-t0ken?q=t0ken"
    partner.answers = [(500, {}), (429, {"Retry-After": "1"}), (400, {})]
    hooked = hook(url, secret=secret, headers={"Authorization": "Bearer h3ader"}, timeout=5.0)
    Order.watch.inserted.connect(hooked, name="partner")
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpcore").setLevel(logging.DEBUG)
    with durable(max_attempts=2) as listener:
        client.execute("INSERT INTO orders (id, note) VALUES (1, 'n0te')")
        listener.catch_up()
    hooked.close()
    (letter,) = letters(client)
    assert len(partner.calls) == 3
    assert partner.calls[0].verified(secret)["data"]["values"]["note"] == "n0te"
    assert "answered 400" in letter[2]
    assert "answered 400" in caplog.text
    said = [caplog.text, letter[2], repr(hooked), *(str(record.__dict__) for record in caplog.records)]
    for hidden in (secret, secret[6:], "t0ken", "h3ader", "n0te"):
        assert not [text for text in said if hidden in text], hidden


def test_events_that_come_by_notify_are_refused(engine: Engine, client: Client, User: Any, hook: MakeHook) -> None:
    errors: list[str] = []
    User.watch.inserted.connect(hook())
    with Listener(engine, User) as listener:
        listener.receiver_failed.connect(lambda listener, receiver, event, error: errors.append(str(error)))
        insert(client, "users", 1)
        listener.catch_up()
    (error,) = errors
    assert error.startswith("webhook: User.inserted came by NOTIFY")
    assert "declare delivery='durable' in its Watch, and start a Listener(durable='a_group')" in error


def test_of_a_watch_that_is_both_the_group_alone_tells_the_partner(
    engine: Engine, Base: type[DeclarativeBase], client: Client, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    class Order(Watched, Base):
        __tablename__ = "orders"
        __watch__ = ("inserted",)
        __watch_delivery__ = "both"
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    failed: list[Any] = []
    heard: list[Any] = []
    Order.watch.inserted.connect(hook())
    Order.watch.inserted.connect(lambda sender, event: heard.append(event.lsn is None))
    with durable() as group, Listener(engine, Base) as other:
        for listener in (group, other):
            listener.receiver_failed.connect(lambda listener, receiver, event, error: failed.append(error))
        insert(client, "orders", 1)
        group.catch_up()
        other.catch_up()
    assert sorted(heard) == [False, True]
    assert (len(partner.calls), failed) == (1, [])


def test_a_table_without_a_model_has_webhooks(
    engine: Engine, Base: type[DeclarativeBase], client: Client, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    table = Table("OrderLines", Base.metadata, Column("id", Integer, primary_key=True))
    watch(table, Watch("inserted", delivery="durable")).inserted.connect(hook())
    Base.metadata.create_all(engine)
    with durable() as listener:
        client.execute('INSERT INTO "OrderLines" VALUES (1)')
        listener.catch_up()
    assert [call.verified()["type"] for call in partner.calls] == ["order_lines.inserted"]


def test_a_type_of_ones_own_is_sent(
    client: Client, Order: Any, durable: MakeListener, partner: Partner, hook: MakeHook
) -> None:
    Order.watch.inserted.connect(hook(type="shop.order_placed"))
    with durable() as listener:
        insert(client, "orders", 1)
        listener.catch_up()
    assert partner.calls[0].verified()["type"] == "shop.order_placed"


def test_batches_and_transactions_are_refused_when_a_webhook_is_connected(
    Order: Any, durable: MakeListener, hook: MakeHook
) -> None:
    with pytest.raises(ConfigurationError, match=r"<webhook to 127.0.0.1> can't be called as receiver\(sender, events"):
        Order.watch.inserted.batches(max_size=2).connect(hook())
    with pytest.raises(ConfigurationError, match=r"<webhook to a url for each event> can't be called as receiver"):
        durable().transactions.connect(hook(lambda event: None))


async def acoroutine(event: Any) -> str:
    return ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"body": {"a": 1}}, "body must be a function of the event"),
        ({"body": acoroutine}, "body must be a plain function: a coroutine function is not awaited"),
        ({"url": acoroutine}, "url must be a plain function"),
        ({"secret": acoroutine}, "secret must be a plain function"),
        ({"body": str, "type": "a.b"}, "leave out one of them"),
        ({"type": "order shipped"}, "type must be of the letters A-Z"),
        ({"type": "order..shipped"}, "type must be of the letters A-Z"),
        ({"type": "größe"}, "type must be of the letters A-Z"),
        ({"type": 7}, "type must be of the letters A-Z"),
        ({"timeout": 0}, "timeout must be seconds, more than 0 and at most a day, not 0"),
        ({"timeout": None}, "timeout must be seconds"),
        ({"timeout": True}, "timeout must be seconds"),
        ({"timeout": float("nan")}, "timeout must be seconds"),
        ({"max_pause": float("inf")}, "max_pause must be seconds"),
        ({"max_pause": -1}, "max_pause must be seconds"),
    ],
)
def test_a_wrong_argument_is_refused_at_declaration(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        webhook(**{"url": "https://partner.example", "secret": SECRET, **options})
