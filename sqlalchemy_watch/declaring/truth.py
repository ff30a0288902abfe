"""Python's `and`, `or`, `not` and `in` between SQL comparisons, which would drop a part of the condition in silence.

They ask an operand for its truth, and SQLAlchemy answers for `==` and `!=`, since sets and dictionaries of columns
need that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from sqlalchemy import BinaryExpression

from ..errors import ConfigurationError

_ASKED: CodeType = BinaryExpression.__bool__.__code__


@contextmanager
def refusing_truth(subject: str) -> Iterator[None]:
    """Refuse that anything in the block asks a comparison for its truth.

    :param subject: for the error: what is evaluated in the block.
    :raises ConfigurationError: at the end of the block.
    """
    was_asked = False

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal was_asked
        was_asked |= event == "call" and frame.f_code is _ASKED

    before = sys.getprofile()
    sys.setprofile(note)  # of this thread alone
    try:
        yield
    finally:
        sys.setprofile(before)
    if was_asked:
        raise ConfigurationError(
            f"{subject} asks a comparison for its truth, as Python's and, or, not and in do, and a part of the "
            f"condition would be lost: write &, | and ~, with brackets round each comparison, and new.status.in_([...])"
        )
