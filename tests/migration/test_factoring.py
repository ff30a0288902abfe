"""Texts that are alike share what they have in common, and give back exactly what they were."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alembic_ext import factoring
from alembic_ext.factoring import Filled, factor

#: Two functions, such as triggers call, in short.
FUNCTION = """\
CREATE FUNCTION watch_{table}_{label}() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- {{"table": "{table}", "label": "{label}"}}
BEGIN
  SELECT {row} INTO watch_rows
  FROM {rows} AS r WHERE r.{key} = 1 AND pg_catalog.textne('{table}', 'x');
  PERFORM pg_catalog.pg_notify('watch_{table}_{label}', '{{"v":1,"columns":[{columns}],"rows":[[' || watch_rows);
END
$watch$"""

ORDERS = FUNCTION.format(
    table="orders", label="inserted", rows="watch_new", key="id", columns='"id"', row="coalesce(r.id::text, 'null')"
)
USERS = FUNCTION.format(
    table="users", label="deleted", rows="watch_old", key="uuid", columns='"uuid","name"',
    row="coalesce(quoted(r.uuid), 'null') || ',' || coalesce(r.name, 'null')",
)  # fmt: skip


def shared(*texts: str) -> list[Filled]:
    found = factor(texts)
    filled = [each for each in found if each is not None]
    assert len(filled) == len(found)
    assert [each.template.format(**each.parts) for each in filled] == list(texts)
    return filled


def test_what_differs_has_telling_names_and_the_rest_is_shared() -> None:
    orders, users = shared(ORDERS, USERS)
    assert orders.template == users.template
    assert orders.parts == {
        "name": "watch_orders_inserted",
        "table": "orders",
        "label": "inserted",
        "row": "coalesce(r.id::text, 'null')",
        "rows": "watch_new",
        "column": "id",
        "columns": '"id"',
    }
    assert users.parts["row"] == "coalesce(quoted(r.uuid), 'null') || ',' || coalesce(r.name, 'null')"
    assert orders.template.splitlines()[2:7] == [
        '-- {{"table": "{table}", "label": "{label}"}}',
        "BEGIN",
        "  SELECT {row} INTO watch_rows",
        "  FROM {rows} AS r WHERE r.{column} = 1 AND pg_catalog.textne('{table}', 'x');",
        """  PERFORM pg_catalog.pg_notify('{name}', '{{"v":1,"columns":[{columns}],"rows":[[' || watch_rows);""",
    ]


def test_a_text_like_no_other_is_left_as_it_is() -> None:
    longer = ORDERS.replace("BEGIN\n", "BEGIN\n  NULL;\n")
    replacing = ORDERS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    assert factor([ORDERS]) == [None]
    assert factor([ORDERS, longer, replacing]) == [None, None, None]
    assert [each is not None for each in factor([ORDERS, longer, USERS])] == [True, False, True]


def test_the_same_text_twice_has_no_parts() -> None:
    assert [each.parts for each in shared(ORDERS, ORDERS)] == [{}, {}]


#: What nobody writes; each in two forms, which are alike.
MONSTERS = {
    "deep": lambda word: "SELECT " + "(" * 2_000 + word + ")" * 2_000,
    "never closed": lambda word: "SELECT " + "(" * 20_000 + f"{word} [ " * 10_000,
    "large": lambda word: f"SELECT {word}\n" * 100_000,
    "different all over": lambda word: "".join(f"SELECT {word}{n}\n" for n in range(3_000)),
    "one line": lambda word: "SELECT " + " || ".join(f"{word}{n}" for n in range(5_000)),
}


@pytest.mark.parametrize("monster", MONSTERS.values(), ids=MONSTERS)
def test_texts_that_nobody_would_read_are_not_waited_for(monster: Callable[[str], str]) -> None:
    texts = [monster("a"), monster("bb")]
    for text, each in zip(texts, factor(texts), strict=True):
        assert each is None or each.template.format(**each.parts) == text


tokens = st.sampled_from([
    *"{}()[]'\"\\,;:.%$<>=|/*- \n\t", "{name}", "{0}", "{{", "}}", "{!r}", "a", "b", "id", "é", "SELECT", "CASE", "END",
    "AS", " ", "''", '""', "$$", "\\:", "::", "coalesce(", "FROM", '"table":', "self", "class",
])  # fmt: skip
pieces = st.lists(tokens, max_size=8).map("".join)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(pieces, min_size=1, max_size=3), st.lists(st.lists(pieces, min_size=3, max_size=3), min_size=2, max_size=4)
)
def test_any_texts_are_given_back(common: list[str], own: list[list[str]]) -> None:
    texts = ["CREATE FUNCTION f() " + "".join(map("".join, zip(common, parts, strict=False))) for parts in own]
    for text, each in zip(texts, factor(texts), strict=True):
        assert each is None or each.template.format(**each.parts) == text


def test_the_result_depends_on_no_hash() -> None:
    """Sets of strings have another order in each process."""
    code = f"from alembic_ext.factoring import factor; print(factor([{ORDERS!r}, {USERS!r}]))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(printed) == 1


def test_nothing_is_kept_of_the_texts() -> None:
    shared(ORDERS, USERS)
    assert factoring._words.cache_info().currsize == 0
