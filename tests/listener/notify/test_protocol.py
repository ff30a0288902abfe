"""LISTEN as a state machine: which notifications are ours, and what proves that it is in force. No server, no clock."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from sqlalchemy_watch.listener.heartbeat import Heartbeat, Silent
from sqlalchemy_watch.listener.notify.protocol import NotifyProtocol, Part, Returned
from sqlalchemy_watch.listener.pipeline.parts import Notification

OWN = b"watch_listener_secret"


class Came(NamedTuple):
    """A notification, as libpq gives it."""

    relname: bytes
    extra: bytes


@pytest.fixture
def protocol() -> NotifyProtocol:
    return NotifyProtocol({b"users": "users", b"orders": "orders"}, OWN, Heartbeat(30.0, 10.0, 0.0))


def receive(protocol: NotifyProtocol, *came: Came, now: float = 1.0) -> list[Part]:
    return list(protocol.receive(came, now))


def test_notifications_of_our_channels_come_in_one_run(protocol: NotifyProtocol) -> None:
    came = [Came(b"users", b"1"), Came(b"strange", b"2"), Came(b"orders", b"3")]
    assert receive(protocol, *came) == [[Notification("users", b"1"), Notification("orders", b"3")]]
    assert receive(protocol) == []
    assert receive(protocol, Came(b"strange", b"2")) == []


def test_channels_are_found_by_their_name_on_the_server_and_payloads_converted() -> None:
    protocol = NotifyProtocol({"größe".encode("latin1"): "größe"}, OWN, Heartbeat(30.0, 10.0, 0.0), bytes.upper)
    assert receive(protocol, Came("größe".encode("latin1"), b"x")) == [[Notification("größe", b"X")]]


def test_tokens_take_their_place_among_the_notifications(protocol: NotifyProtocol) -> None:
    channel, secret = protocol.begin_trip(["one", "two"], 0.0)
    came = [Came(b"users", b"1"), Came(channel, secret), Came(b"users", b"2")]
    assert receive(protocol, *came) == [
        [Notification("users", b"1")], Returned(["one", "two"]), [Notification("users", b"2")],
    ]  # fmt: skip


@pytest.mark.parametrize("forged", [b"", b"beat", b"0" * 32])
def test_nobody_else_can_send_an_answer(protocol: NotifyProtocol, forged: bytes) -> None:
    assert receive(protocol, Came(OWN, forged)) == []
    protocol.begin_trip(["token"], 0.0)
    assert receive(protocol, Came(OWN, forged)) == []
    protocol.answer()
    assert not protocol.end_trip(1.0)
    with pytest.raises(Silent):
        protocol.check(10.0)


def test_an_answer_to_an_earlier_round_trip_counts_no_more(protocol: NotifyProtocol) -> None:
    _, first = protocol.begin_trip([], 0.0)
    _, second = protocol.begin_trip(["token"], 0.0)
    assert receive(protocol, Came(OWN, first)) == []
    assert receive(protocol, Came(OWN, second)) == [Returned(["token"])]


def test_an_answer_that_comes_twice_brings_its_tokens_once(protocol: NotifyProtocol) -> None:
    _, secret = protocol.begin_trip(["token"], 0.0)
    assert receive(protocol, Came(OWN, secret), Came(OWN, secret)) == [Returned(["token"]), Returned(())]


@pytest.mark.parametrize("order", ["notification first", "result first"])
def test_a_round_trip_is_over_when_notification_and_result_are_back(protocol: NotifyProtocol, order: str) -> None:
    _, secret = protocol.begin_trip([], 1.0)
    assert not protocol.end_trip(2.0)
    if order == "result first":
        protocol.answer()
        assert not protocol.end_trip(2.0)
        receive(protocol, Came(OWN, secret))
    else:
        receive(protocol, Came(OWN, secret))
        assert not protocol.end_trip(2.0)
        protocol.answer()
    assert protocol.end_trip(2.0)
    assert not protocol.end_trip(2.0)
    assert protocol.deadline == 32.0


@pytest.mark.parametrize(
    ("now", "has_tokens", "wants"), [(29.9, False, False), (30.0, False, True), (0.0, True, True), (30.0, True, True)]
)
def test_a_round_trip_is_due_by_the_heartbeat_or_for_somebody_who_waits(
    protocol: NotifyProtocol, now: float, has_tokens: bool, wants: bool
) -> None:
    assert protocol.wants_trip(now, has_tokens) == wants
    protocol.begin_trip([], now)
    assert not protocol.wants_trip(now + 100, has_tokens)  # one at a time


def test_silence_is_a_loss(protocol: NotifyProtocol) -> None:
    protocol.begin_trip([], 30.0)
    protocol.check(39.9)
    with pytest.raises(Silent):
        protocol.check(40.0)


def test_a_backlog_is_not_silence(protocol: NotifyProtocol) -> None:
    protocol.begin_trip([], 30.0)
    receive(protocol, Came(b"users", b"1"), now=39.0)
    protocol.check(48.9)
    receive(protocol, Came(b"strange", b"1"), now=48.9)
    with pytest.raises(Silent):
        protocol.check(49.0)
