"""Statements whose events the next text of the functions changes on purpose.

Rows pair by position then, so that a row whose key changed has `old` and `changed`, and a condition sees its true
previous row; "really changed" is stored bytes; a row that does not fit asks for a resync in its own place; contexts
that are too long, columns that were retyped by hand, and those whose names are PL/pgSQL's own words are dealt with
otherwise. The golden files of these parts are recorded anew with that text, and show exactly this as their difference.
"""

from __future__ import annotations

from .declarations import KEYWORDS
from .hearing import Hearing


def changed_keys(run: Hearing) -> None:
    for count in (1, 2, 5, 60):
        run.run(f"insert {count}", f"INSERT INTO items SELECT i, 'n' || i % 3, i FROM generate_series(1, {count}) AS i")
        # Each new key but the last was another row's; a constraint would be checked row by row.
        run.prepare("ALTER TABLE items DROP CONSTRAINT items_pkey")
        run.run(f"shift {count}", "UPDATE items SET id = id + 1")
        run.run(f"shift {count} back, and change some", "UPDATE items SET id = id - 1, name = 'n' || id % 2")
        run.prepare("ALTER TABLE items ADD PRIMARY KEY (id)")
        run.run(f"move {count} to where nobody was", "UPDATE items SET id = id + 10000, total = total + 1")
        run.run(f"delete {count}", "DELETE FROM items")
    run.run("insert", "INSERT INTO items VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 30)")
    run.run("one key of three", "UPDATE items SET id = 9 WHERE id = 2")
    run.run("one key in a statement of three rows", "UPDATE items SET id = CASE id WHEN 9 THEN 2 ELSE id END")
    run.run("one key and its name", "UPDATE items SET id = 8, name = 'B' WHERE id = 2")
    run.prepare("ALTER TABLE items DROP CONSTRAINT items_pkey")
    run.run("swap", "UPDATE items SET id = 4 - id WHERE id IN (1, 3)")
    run.run(
        "swap, and the names go along",
        "UPDATE items SET id = 4 - id, name = CASE id WHEN 1 THEN 'a' ELSE 'c' END WHERE id IN (1, 3)",
    )
    run.prepare("ALTER TABLE items ADD PRIMARY KEY (id)")
    run.run("delete", "DELETE FROM items")
    run.run("insert 1,000", "INSERT INTO bigs SELECT i, 'n' || i FROM generate_series(1, 1000) AS i")
    run.prepare("ALTER TABLE bigs DROP CONSTRAINT bigs_pkey")
    run.run("shift 1,000", "UPDATE bigs SET id = id + 1")
    run.run(
        "shift 1,000 back, and change some",
        "UPDATE bigs SET id = id - 1, name = CASE id % 3 WHEN 0 THEN name || 'x' ELSE name END",
    )
    run.prepare("ALTER TABLE bigs ADD PRIMARY KEY (id)")
    run.run("delete 1,000", "DELETE FROM bigs")


def changed_keys_of_several_columns(run: Hearing) -> None:
    # One row a statement: the joins of composite keys tell of several in an order of the planner's.
    run.run("insert", "INSERT INTO lines SELECT 1, i, 'k', 'n' || i FROM generate_series(1, 5) AS i")
    run.run("a part of a key", "UPDATE lines SET kind = 'l' WHERE number = 3")
    run.run("another part of a key", 'UPDATE lines SET "order" = "order" + number WHERE number = 2')
    run.run("a part of a key, and the note", "UPDATE lines SET kind = 'm', note = note || 'x' WHERE number = 4")
    run.run("delete", "DELETE FROM lines")
    run.run("insert a text", "INSERT INTO tags VALUES ('a', 'n')")
    run.run("change a text", "UPDATE tags SET name = 'b'")
    run.run("change a text to a long one", "UPDATE tags SET name = repeat('k', 2500)")
    run.run("change a long text, and the note", "UPDATE tags SET name = 'c', note = repeat('x', 9000)")
    run.run("delete the text", "DELETE FROM tags")


def changed_keys_that_cascade(run: Hearing) -> None:
    run.run(
        "insert",
        "INSERT INTO cities VALUES (1), (2), (3)",
        "INSERT INTO routes SELECT i, 1 + i % 2, 3, 3 FROM generate_series(1, 4) AS i",
    )
    run.run("cascade", "UPDATE cities SET id = id + 10 WHERE id < 3")
    run.run("delete", "DELETE FROM routes", "DELETE FROM cities")


def rows_updated_twice_in_a_statement(run: Hearing) -> None:
    run.run(
        "insert",
        "INSERT INTO cities VALUES (1), (2)",
        "INSERT INTO routes VALUES (1, 1, 1, 2), (2, 1, 2, 2), (3, 2, 1, 2), (4, 2, 2, 2)",
    )
    run.run("two references to one city", "DELETE FROM cities WHERE id = 1")
    run.run("delete", "DELETE FROM routes", "DELETE FROM cities")


def stored_bytes(run: Hearing) -> None:
    run.run(
        "insert",
        """INSERT INTO measures SELECT i, 1.0, 0.0, '1 day', '{1.0}', '{"a": 1.0}', '{"a": 1}', 'plain' """
        "FROM generate_series(1, 2) AS i",
    )
    values = {
        "amount": "1.00", "ratio": "'-0.0'", "span": "'24 hours'", "amounts": "'{1.00}'", "tree": """'{"a": 1.00}'""",
        "document": """'{"a":1}'""", "words": "repeat('plain', 1)",
    }  # fmt: skip
    for name, value in values.items():
        run.run(f"{name} of one", f"UPDATE measures SET {name} = {value} WHERE id = 1")
        run.run(f"{name} of both", f"UPDATE measures SET {name} = {value}")
        run.run(f"{name} to what it is", f"UPDATE measures SET {name} = {name}")
    run.run("delete", "DELETE FROM measures")


def names_that_differ_in_case_alone(run: Hearing) -> None:
    run.prepare(
        "CREATE COLLATION ignoring_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "ALTER TABLE people ALTER name TYPE text COLLATE ignoring_case",
    )
    run.run("insert", "INSERT INTO people VALUES (1, 'anna'), (2, 'bert')")
    run.run("update one", "UPDATE people SET name = 'ANNA' WHERE id = 1")
    run.run("update both", "UPDATE people SET name = lower(name)")
    run.run("update to what they are", "UPDATE people SET name = name")


def keys_that_do_not_fit_among_others(run: Hearing) -> None:
    for name, count, condition in (
        ("the first of 3", 3, "i = 1"), ("the second of 3", 3, "i = 2"), ("two of 4", 4, "i IN (2, 3)"),
        ("one of 60", 60, "i = 30"), ("each fourth of 60", 60, "i % 4 = 0"),
    ):  # fmt: skip
        key = f"CASE WHEN {condition} THEN repeat(chr(1), 2000) || i ELSE 'k' || i END"
        run.run(f"insert {name}", f"INSERT INTO tags SELECT {key}, 'n' FROM generate_series(1, {count}) AS i")
        run.run(f"update {name}", "UPDATE tags SET note = note || 'x'")
        run.run(f"lengthen {name}", "UPDATE tags SET note = repeat('x', 9000)")
        run.run(f"delete {name}", "DELETE FROM tags")


def contexts_that_are_too_long(run: Hearing) -> None:
    contexts = {f"{size} bytes": f'{{"a": "{"x" * (size - 9)}"}}' for size in (2_100, 5_000, 9_000, 100_000)}
    garbage = {"2100 bytes of no JSON": "x" * 2_100, "1100 quotes": '"' * 1_100, "400 controls": "\x01" * 400}
    for name, value in (contexts | garbage).items():
        with run.step(name) as client, client.transaction():
            client.execute("SELECT set_config('sqlalchemy_watch.context', %s, true)", [value])
            run.prepare(
                "INSERT INTO documents VALUES (1, 'short', '')",
                "INSERT INTO documents VALUES (2, 'long', repeat('x', 5000))",
                "INSERT INTO documents VALUES (3, 'longer', repeat('x', 7000))",
                "INSERT INTO documents SELECT i, 'some', '' FROM generate_series(4, 8) AS i",
                "INSERT INTO documents SELECT i, 'more', repeat('x', i * 100) FROM generate_series(10, 70) AS i",
                "DELETE FROM documents",
                "TRUNCATE items",
            )


def keywords_as_names(run: Hearing) -> None:
    columns, values = ", ".join(f'"{word}"' for word in KEYWORDS), ", ".join("i::text" for _ in KEYWORDS)
    for count in (1, 2, 60):
        series = f"generate_series(1, {count}) AS i"
        run.run(f"insert {count}", f"INSERT INTO keywords (id, {columns}) SELECT i, {values} FROM {series}")
        run.run(f"update {count}", f'UPDATE keywords SET "{KEYWORDS[0]}" = NULL')
        run.run(f"delete {count}", "DELETE FROM keywords")


def integers_retyped_by_hand(run: Hearing) -> None:
    run.prepare("ALTER TABLE readings ALTER number TYPE text")
    values = {
        "digits": "7", "a fraction": "1.5", "no number": "x", "a list": "[1]", "rows": "1],[666,1", "a quote": '"',
    }  # fmt: skip
    for name, value in values.items():
        run.run(f"insert {name}", f"INSERT INTO readings VALUES (1, '{value}')")
        run.run(f"update {name}", "UPDATE readings SET number = number")
        run.run(f"delete {name}", "DELETE FROM readings")
        run.run(f"insert {name} twice", f"INSERT INTO readings VALUES (1, '{value}'), (2, '{value}')")
        run.run(f"delete {name} twice", "DELETE FROM readings")
