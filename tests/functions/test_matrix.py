"""What statements of every kind are heard as stays what it was: see `matrix`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import Cluster
from support import created_database

from .matrix import golden
from .matrix.declarations import VARIANTS, Variant
from .matrix.hearing import Hearing, Step
from .matrix.parts import PARTS


def _marked(variant: Variant) -> Any:
    """On other servers, and with another SQLAlchemy, the variants that have both ways of delivery are enough."""
    return pytest.param(variant, marks=[] if variant.delivery == "both" else pytest.mark.slow, id=str(variant))


@pytest.fixture(scope="module", params=map(_marked, VARIANTS))
def hearing(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Hearing]:
    name = f"matrix_{VARIANTS.index(request.param)}"
    with created_database(cluster, name) as database, Hearing(cluster, database, request.param) as hearing:
        yield hearing


@pytest.mark.server
@pytest.mark.parametrize("part", PARTS)
def test_events_are_those_of_the_golden_files(hearing: Hearing, part: str) -> None:
    if not hearing.can_hear(part):
        pytest.skip("the server has nothing of the kind")
    for route, steps in hearing.hear(PARTS[part]).items():
        found = golden.differences(golden.read(part, hearing.variant.heard_by(route)), steps)
        assert not found, f"{part}, {hearing.variant}, {route}:\n" + "\n".join(found)


def _steps(first: str) -> list[Step]:
    return [Step("one", [first]), Step("none", []), Step("many", [f'{{"a":{n}}}' for n in range(250)])]


HEARD = {
    "notify row notified": _steps('{"a":1}'),
    "durable row logged": _steps('{"a":2}'),
    "both row notified": _steps('{"a":1}'),
}


def test_a_golden_file_tells_each_what_it_was_to_hear(tmp_path: Path) -> None:
    golden.write("part", HEARD, tmp_path)
    for who, steps in HEARD.items():
        assert golden.differences(golden.read("part", who, tmp_path), steps) == []
    assert golden.path_of("part", tmp_path).read_text().splitlines()[:4] == [
        '{"step": "one", "heard by": ["notified"]}', '{"a":1}', '{"step": "one", "heard by": ["logged"]}', '{"a":2}',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "lines", "shown"),
    [
        (0, ['{"a":3}'], ['-{"a":1}', '+{"a":3}']),
        (0, [], ['-{"a":1}']),
        (1, ['{"a":4}'], ['+{"a":4}']),
        (2, [f'{{"a":{n if n != 130 else 7}}}' for n in range(250)], ["among the events from 100 on", '{"a":7}']),
        (2, [f'{{"a":{n}}}' for n in range(251)], ['"events": 251', '+{"a":250}']),
        (2, ['{"a":0}'], ["among the events from 0 on", '{"a":0}']),
    ],
)  # fmt: skip
def test_a_difference_is_shown(tmp_path: Path, number: int, lines: list[str], shown: list[str]) -> None:
    golden.write("part", HEARD, tmp_path)
    steps = list(HEARD["both row notified"])
    steps[number] = steps[number]._replace(lines=lines)
    [found] = golden.differences(golden.read("part", "both row notified", tmp_path), steps)
    assert all(words in found for words in [repr(steps[number].name), *shown])


def test_other_steps_are_a_difference(tmp_path: Path) -> None:
    golden.write("part", HEARD, tmp_path)
    steps = HEARD["both row notified"][:2]
    [found] = golden.differences(golden.read("part", "both row notified", tmp_path), steps)
    assert "-many" in found
