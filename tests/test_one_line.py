"""Errors in one line: whatever an error says, it fits into a log, a terminal and a database."""

from __future__ import annotations

from types import SimpleNamespace

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from sqlalchemy_watch.errors import one_line


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not now")


class Said(Exception):
    """As psycopg's errors: a message of several lines, whose first part is in `diag`."""

    def __init__(self, primary: object) -> None:
        super().__init__("no such table\nLINE 1: SELECT\n        ^\nHINT:  make it")
        self.diag = SimpleNamespace(message_primary=primary)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a word"), "a word"),
        (ValueError("  two\r\n\n\tlines \x0b\u2028and more\n"), "two lines and more"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (TimeoutError(), "TimeoutError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (Unspeakable(), "Unspeakable"),
        (KeyError("name"), "'name'"),
        (ValueError("\x1b[31mred\x07 \x00 \x7f \x9b"), r"\x1b[31mred\x07 \x00 \x7f \x9b"),
        (ValueError("caf\udce9, café, 桜"), r"caf\udce9, café, 桜"),
        (Said("no such table"), "no such table LINE 1: SELECT ^ HINT: make it"),
        (psycopg.OperationalError("connection failed:\nno route"), "connection failed: no route"),
        (InvalidRequestError("wrong"), "wrong"),
        (DBAPIError("SELECT 1", {"password": "x"}, ValueError("gone\naway")), "gone away"),
        (DBAPIError("SELECT 1", {}, Unspeakable()), "Unspeakable"),
    ],
)
def test_words_of_an_error_are_one_line(error: BaseException, line: str) -> None:
    assert one_line(error) == line
    assert one_line(error).encode()


def test_without_an_error_the_default_is_said() -> None:
    assert one_line(None)
    assert one_line(None, "the stream ended") == "the stream ended"
    assert one_line(ValueError("x"), "the stream ended") == "x"


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: DBAPIError("SELECT 1", {}, error)])
def test_brief_line_is_the_servers_primary_message(wrap: object) -> None:
    assert one_line(wrap(Said("no such table")), brief=True) == "no such table"  # type: ignore[operator]


@pytest.mark.parametrize("primary", [None, "", 7])
def test_brief_line_without_a_primary_message_is_the_whole_one(primary: object) -> None:
    assert one_line(Said(primary), brief=True).startswith("no such table LINE 1")


def test_brief_line_of_other_errors_is_their_message() -> None:
    assert one_line(psycopg.OperationalError("no\nroute"), brief=True) == "no route"
    assert one_line(Unspeakable(), brief=True) == "Unspeakable"


def test_attributes_of_other_libraries_errors_are_no_concern() -> None:
    error = ValueError("a word")
    error.orig = "something else"  # type: ignore[attr-defined]
    assert one_line(error) == "a word"
