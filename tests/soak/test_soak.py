"""Both soaks, for some seconds."""

from __future__ import annotations

import pytest
from listener.consumers import MODES
from postgres import Cluster, needs_logical_messages

from .notify import Soak
from .report import Report
from .takeovers import KINDS, Takeovers

pytestmark = pytest.mark.slow

SEED = 1


def check(report: Report) -> None:
    print(report)
    assert report.faults == []


def test_an_application_is_told_of_everything_or_to_read_anew_whatever_fails(cluster: Cluster, database: str) -> None:
    check(Soak(cluster, database, 10, SEED, print, pause=0.4).run())


@needs_logical_messages
@pytest.mark.parametrize("mode", MODES)
def test_consumers_that_take_over_from_one_another_lose_nothing(cluster: Cluster, database: str, mode: str) -> None:
    check(Takeovers(cluster, database, len(KINDS), SEED, print, mode).run())
