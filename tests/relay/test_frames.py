"""Frames of a broadcast, without a broker."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqlalchemy_watch.errors import PayloadError
from sqlalchemy_watch.listener.pipeline.parts import Notification
from sqlalchemy_watch.relay.frames import BEGUN_ANEW, Following, Frame, decode

notifications = st.lists(
    st.builds(Notification, st.text(min_size=1), st.binary(max_size=50), st.integers(0, 10)), max_size=5
)


@given(
    st.builds(
        Frame, st.text(min_size=1, max_size=100), st.integers(0, 2**40), notifications, st.none() | st.lists(st.text()),
        st.none() | st.text(max_size=100),
    )
)  # fmt: skip
def test_a_frame_is_read_as_it_was_written(frame: Frame) -> None:
    assert decode(frame.encode())._replace(reason=frame.reason) == frame


def test_a_reason_is_one_line_whoever_made_it_up() -> None:
    assert decode(Frame("e", 0, reason="a\nERROR b\x1b[2J").encode()).reason == "a ERROR b\\x1b[2J"


@given(st.binary() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["version", "epoch", "number", "notifications", "channels", "reason"]), inner
    ),
).map(lambda value: json.dumps(value).encode() + b"\n..."))  # fmt: skip
def test_anything_else_is_refused_in_plain_words(data: bytes) -> None:
    with pytest.raises(PayloadError, match="no frame of a broadcast|a frame of version"):
        decode(data)


@pytest.mark.parametrize(
    "change",
    [
        {"number": -1}, {"number": True}, {"number": 1.5}, {"number": 2**70}, {"epoch": ""}, {"epoch": None},
        {"notifications": [["c", 4, 0]]}, {"notifications": [["c", -1, 0], ["c", 4, 0]]},
        {"notifications": [["c", 3]]}, {"notifications": [[b"c".hex(), 3, -1]]}, {"notifications": 7},
        {"channels": "c"}, {"channels": [1]}, {"reason": 1}, {"reason": "x" * 2000}, {"version": 2}, {"version": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_frame_that_is_nearly_one_is_refused(change: dict[str, object]) -> None:
    right = {"version": 1, "epoch": "e", "number": 1, "notifications": [["c", 3, 0]]}
    assert decode(json.dumps(right).encode() + b"\nabc").notifications == [Notification("c", b"abc")]
    with pytest.raises(PayloadError):
        decode(json.dumps({**right, **change}).encode() + b"\nabc")


def data(epoch: str, number: int) -> Frame:
    return Frame(epoch, number, [Notification("c", b"")])


def test_what_was_lost_came_twice_or_began_anew_is_noticed() -> None:
    following = Following()
    assert following.gap(Frame("a", 7)) is None  # one may come at any moment
    assert not following.is_stale(Frame("a", 7))
    assert following.gap(Frame("a", 7)) is None
    assert following.is_stale(data("a", 7))
    assert following.gap(data("a", 8)) is None
    assert following.gap(Frame("a", 8)) is None
    assert following.gap(Frame("a", 10)) == "messages of the broadcast were lost on the way: 2"
    assert following.gap(data("a", 11)) is None
    assert following.gap(data("a", 13)) == "messages of the broadcast were lost on the way: 1"
    assert following.is_stale(Frame("a", 12))
    assert following.gap(Frame("b", 0, reason="the server was restarted")) == "the server was restarted"
    assert following.gap(data("c", 1)) == BEGUN_ANEW
    assert following.is_stale(data("a", 99))  # of one that was frozen, say
    assert following.is_stale(Frame("b", 99))
    assert not following.is_stale(data("c", 2))
