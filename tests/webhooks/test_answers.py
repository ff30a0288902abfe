"""Retry-After, and pauses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from sqlalchemy_watch.webhooks.answers import Pauses, read_date, read_retry_after

NOW = datetime(2026, 2, 28, 23, 59, 30, tzinfo=UTC)
URL, HOST = "https://partner.example/hooks?t0ken", "partner.example"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Sun, 01 Mar 2026 00:00:00 GMT", 30.0),
        ("Sunday, 01-Mar-26 00:00:00 GMT", 30.0),
        ("Sun Mar  1 00:00:00 2026", 30.0),
        ("Sat, 28 Feb 2026 00:00:00 GMT", 0.0),
        (format_datetime(NOW + timedelta(days=400)), 400 * 86_400.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("+3", None),
        ("٣", None),
        ("Sun, 99 Mar 2026 00:00:00 GMT", None),
        ("Sun, 01 Mar 99999 00:00:00 GMT", None),
        ("1" + "," * 5000, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, NOW) == seconds


def test_an_endless_number_of_seconds_is_read() -> None:
    seconds = read_retry_after("9" * 100_000, NOW)
    assert seconds is not None
    assert seconds > 1e9


@pytest.mark.parametrize("value", [None, "", "yesterday", "Sun, 99 Mar 2026 00:00:00 GMT"])
def test_a_date_that_is_none_is_none(value: str | None) -> None:
    assert read_date(value) is None


def test_a_date_without_a_zone_is_utc() -> None:
    assert read_date("Sun, 01 Mar 2026 00:00:00 -0000") == datetime(2026, 3, 1, tzinfo=UTC)


def test_a_pause_is_for_its_url_alone_and_ends() -> None:
    pauses = Pauses(900)
    asked = pauses.begin(URL, HOST, 503, 30, now=100.0)
    assert (asked.seconds, asked.is_attempt) == (30, False)
    assert str(asked) == "webhook to partner.example: answered 503, and asked for a pause"
    other = pauses.present(URL, HOST, 110.0)
    assert other is not None
    assert (other.seconds, other.is_attempt) == (20, False)
    assert pauses.present("https://partner.example/other", HOST, 110.0) is None
    assert pauses.present(URL, HOST, 130.0) is None


@pytest.mark.parametrize(("asked", "given"), [(0.0, 1.0), (0.3, 1.0), (5.0, 5.0), (1e12, 900.0)])
def test_a_pause_is_neither_nothing_nor_endless(asked: float, given: float) -> None:
    assert Pauses(900).begin(URL, HOST, 429, asked, now=0.0).seconds == given


def test_of_two_pauses_at_the_same_time_the_longer_one_is_heeded() -> None:
    pauses = Pauses(900)
    pauses.begin(URL, HOST, 429, 60, now=0.0)
    assert pauses.begin(URL, HOST, 429, 10, now=1.0).seconds == 59


def test_pauses_one_after_the_other_count_as_attempts_at_last() -> None:
    pauses = Pauses(100)
    assert [pauses.begin(URL, HOST, 429, 60, now=now).is_attempt for now in (0.0, 60.0, 120.0, 180.0)] == [
        False, False, True, True,
    ]  # fmt: skip
    waiting = pauses.present(URL, HOST, 181.0)
    assert waiting is not None
    assert waiting.is_attempt  # others to be sent there, which a lane each has


def test_after_an_event_was_taken_pauses_count_anew() -> None:
    pauses = Pauses(100)
    pauses.begin(URL, HOST, 429, 100, now=0.0)
    assert pauses.begin(URL, HOST, 429, 100, now=100.0).is_attempt
    pauses.end(URL)
    assert pauses.present(URL, HOST, 101.0) is None
    assert not pauses.begin(URL, HOST, 429, 100, now=102.0).is_attempt


def test_a_pause_long_ago_is_forgotten() -> None:
    pauses = Pauses(100)
    pauses.begin(URL, HOST, 429, 50, now=0.0)
    assert not pauses.begin(URL, HOST, 429, 50, now=1000.0).is_attempt


def test_the_pauses_of_many_partners_are_not_kept_for_ever() -> None:
    pauses = Pauses(100)
    for number in range(10_000):
        pauses.begin(f"https://{number}.example", HOST, 429, 1, now=float(number))
    assert len(pauses._by_url) <= 1001
