"""Statements of few and many rows, and rows that are short, long, too long, and mixed.

Sizes keep clear of the limit of a notification: how many bytes of it are left for the rows is the text's own affair.
"""

from __future__ import annotations

from .hearing import Hearing

#: Around the number of rows that one query tells of, and beyond; that is nothing to a row trigger.
COUNTS = (0, 1, 2, 10, 49, 50, 51, 52, 1_000)

#: Bytes of a text, of which a row has one.
SIZES = (900, 1_100, 3_000, 3_900, 5_000, 7_000, 9_000, 100_000)

QUOTE, CONTROL = "'\"'", "chr(1)"


def numbers_of_rows(run: Hearing) -> None:
    for count in COUNTS if run.variant.level == "statement" else COUNTS[:-1]:
        run.run(
            f"insert {count}",
            "INSERT INTO items SELECT i, CASE i % 3 WHEN 0 THEN NULL ELSE 'n' || i END, i "
            f"FROM generate_series(1, {count}) AS i",
        )
        run.run(
            f"update {count}, every third name",
            "UPDATE items SET name = 'x', total = total + id % 2 WHERE id % 3 = 0",
        )
        run.run(f"update {count} to what they are", "UPDATE items SET name = name, total = total")
        run.run(f"update {count}, one of them changes", "UPDATE items SET total = total - (id = 2)::int")
        run.run(f"update {count} to NULL", "UPDATE items SET name = NULL")
        run.run(f"delete {count}", "DELETE FROM items")
    run.run("truncate", "TRUNCATE items")
    run.run("truncate what is empty, twice in a transaction", "TRUNCATE items", "TRUNCATE items")


def many_rows(run: Hearing) -> None:
    count = 20_000 if run.variant.level == "statement" else 500
    run.run("insert", f"INSERT INTO bigs SELECT i, 'n' || i FROM generate_series(1, {count}) AS i")
    run.run("update, every third changes", "UPDATE bigs SET name = CASE WHEN id % 3 = 0 THEN 'x' || id ELSE name END")
    run.run("update, none changes", "UPDATE bigs SET name = name")
    run.run("update, the last changes", f"UPDATE bigs SET name = CASE WHEN id = {count} THEN '' ELSE name END")
    run.run(
        "update to short rows with some of 1,500 and some of 9,000 bytes among them",
        "UPDATE bigs SET name = CASE WHEN id % 97 = 0 THEN repeat('l', 1500) WHEN id % 499 = 0 THEN repeat('m', 9000) "
        "ELSE 'short' END",
    )
    run.run("update those", "UPDATE bigs SET name = 'new' WHERE id % 97 = 0 OR id % 499 = 0")
    run.run("delete", "DELETE FROM bigs")


def long_rows(run: Hearing) -> None:
    for size in SIZES:
        run.run(f"insert {size}", f"INSERT INTO documents VALUES (1, 'title', repeat('x', {size}))")
        run.run(f"update title {size}", "UPDATE documents SET title = NULL")
        run.run(f"update body {size}", f"UPDATE documents SET body = repeat('y', {size})")
        run.run(f"shorten {size}", "UPDATE documents SET body = 'short'")
        run.run(f"lengthen {size}", f"UPDATE documents SET body = repeat('z', {size})")
        run.run(f"delete {size}", "DELETE FROM documents")
    for name, character, size, too_many in (
        ("two bytes", "'ä'", 3_000, 5_000), ("four bytes", "'🙂'", 1_500, 2_500), ("escaped", QUOTE, 3_000, 5_000),
        ("control", CONTROL, 1_100, 1_500),
    ):  # fmt: skip
        run.run(f"insert {name}", f"INSERT INTO documents VALUES (1, 'title', repeat({character}, {size}))")
        run.run(f"insert {name}, too many", f"INSERT INTO documents VALUES (2, '', repeat({character}, {too_many}))")
        run.run(f"delete {name}", "DELETE FROM documents")


def long_rows_among_others(run: Hearing) -> None:
    def insert(name: str, count: int, body: str) -> None:
        run.run(
            f"insert {name}",
            f"INSERT INTO documents SELECT i, nullif('t' || i, 't3'), {body} FROM generate_series(1, {count}) AS i",
        )
        run.run(f"update {name}", "UPDATE documents SET title = title || 'x', body = body || 'x'")
        run.run(f"update the short of {name}", "UPDATE documents SET title = 'new' WHERE length(body) < 800")
        run.run(f"delete {name}", "DELETE FROM documents")

    insert("3 of 5,000", 3, "repeat('x', 5000)")
    insert("10 of 900", 10, "repeat('x', 900)")
    insert("45 of 200", 45, "repeat('x', 200)")
    insert("51 of 1,500", 51, "repeat('x', 1500)")
    insert("52 of 9,000", 52, "repeat('x', 9000)")
    for place in (1, 2, 4):
        insert(f"4, the long one at {place}", 4, f"CASE i WHEN {place} THEN repeat('x', 9000) ELSE 'short' END")
    for place in (1, 26, 60):
        insert(f"60, the long one at {place}", 60, f"CASE i WHEN {place} THEN repeat('x', 9000) ELSE 'short' END")
    insert("60, every other one long", 60, "CASE i % 2 WHEN 0 THEN repeat('x', 9000) ELSE 'short' END")
    insert(
        "1,000 mixed",
        1_000,
        "CASE WHEN i % 100 = 0 THEN repeat('x', 9000) WHEN i % 37 = 0 THEN repeat('y', 2000) "
        "WHEN i % 10 = 0 THEN repeat('z', 500) ELSE 'short' END",
    )


def long_keys(run: Hearing) -> None:
    """Keys that do not fit stand alone here; among other rows see `differences`."""
    keys = {"letters": "repeat('k', 2500)", "escaped": f"repeat({QUOTE}, 2000)", "control": f"repeat({CONTROL}, 2000)"}
    for name, key in keys.items():
        run.run(f"insert {name}", f"INSERT INTO tags VALUES ({key})")
        run.run(f"update {name}", "UPDATE tags SET note = 'noted'")
        run.run(f"lengthen {name}", "UPDATE tags SET note = repeat('x', 9000)")
        run.run(f"shorten {name}", "UPDATE tags SET note = ''")
        run.run(f"delete {name}", "DELETE FROM tags")
    insert = "INSERT INTO tags SELECT repeat('k', 2400) || i, 'n' FROM generate_series(1, {}) AS i"
    run.run("3 keys that fit", insert.format(3))
    run.run("3 keys whose rows don't fit", "UPDATE tags SET note = repeat('x', 9000)")
    run.run("delete 3", "DELETE FROM tags")
    run.run("60 keys that fit", insert.format(60))
    run.run("delete 60", "DELETE FROM tags")
