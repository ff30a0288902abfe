"""Sets in a declaration: the functions' text is the same in every process, whatever its hash seed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from postgres import Cluster
from sqlalchemy import Column, Integer, MetaData, Table

from sqlalchemy_watch import ConfigurationError, Watch, watch
from sqlalchemy_watch.declaring.targets import watches_of_table

PROGRAM = Path(__file__).with_name("unordered.py")

pytestmark = pytest.mark.sqlalchemy


def run(seed: int, *arguments: str) -> Mapping[str, Any]:
    """What a process with this hash seed makes of the models."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": str(seed)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_functions_text_does_not_follow_the_hash_seed(cluster: Cluster, database: str) -> None:
    first, *others = (run(seed, cluster.url(database, "psycopg")) for seed in (1, 2, 3, 4))
    assert first["states"] == ["installed"]
    for other in others:
        assert {name for name in first if first[name] != other[name]} == set()


def test_a_set_of_columns_is_in_the_order_of_the_table() -> None:
    table = Table("t", MetaData(), *(Column(name, Integer, primary_key=name == "id") for name in ("z", "id", "m", "a")))
    watch(
        table,
        Watch("inserted", extra_columns={"a", "m", "z"}),
        Watch("updated", label="listed", extra_columns=("a", "z", "m"), trigger_columns={"m": 1, "a": 2}.keys()),
    )
    of_set, of_list = watches_of_table(table)
    assert [column.name for column in of_set.extra] == ["z", "m", "a"]
    assert [column.name for column in of_list.extra] == ["a", "z", "m"]
    assert [column.name for column in of_list.trigger_columns] == ["m", "a"]


def test_a_set_says_in_one_order_what_is_wrong_with_it() -> None:
    table = Table("t", MetaData(), Column("id", Integer, primary_key=True))
    with pytest.raises(ConfigurationError, match="names 'a'.*{'a', 'b', 'c', 'id'}"):
        watch(table, Watch("inserted", extra_columns={"c", "b", "a", "id"}))
    with pytest.raises(ConfigurationError, match="give them one by one"):
        watch(table, {"inserted", "updated"})
