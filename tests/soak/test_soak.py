"""Both soaks, for some seconds."""

from __future__ import annotations

import pytest
from postgres import needs_logical_messages

from . import notify, takeovers

pytestmark = pytest.mark.slow

SEED = 1


def test_an_application_is_told_of_everything_or_to_read_anew_whatever_fails() -> None:
    report = notify.run(10, SEED, print)
    print(report)
    assert not report.faults


@needs_logical_messages
def test_consumers_that_take_over_from_one_another_lose_nothing() -> None:
    report = takeovers.run(10, SEED, print)
    print(report)
    assert not report.faults
