"""Statements of every kind, transactions, what writers set, other triggers, and functions that can't describe a row."""

from __future__ import annotations

from sqlalchemy_watch import context, muted

from .hearing import Hearing


def kinds_of_statements(run: Hearing) -> None:
    run.run("insert", "INSERT INTO items VALUES (1, 'a', 5), (2, 'b', 6)")
    run.run("on conflict do nothing, for nothing", "INSERT INTO items VALUES (1, 'x', 0) ON CONFLICT DO NOTHING")
    run.run("on conflict do nothing", "INSERT INTO items VALUES (1, 'x', 0), (3, 'c', 50) ON CONFLICT DO NOTHING")
    upsert = "ON CONFLICT (id) DO UPDATE SET name = excluded.name, total = items.total + excluded.total"
    run.run("upsert one", f"INSERT INTO items VALUES (1, 'y', 1) {upsert}")
    run.run("upsert some", f"INSERT INTO items VALUES (4, 'd', 1), (2, 'b', 2), (5, 'e', 3), (3, 'z', 0) {upsert}")
    run.run("upsert 60", f"INSERT INTO items SELECT i, 'u', 1 FROM generate_series(1, 60) AS i {upsert}")
    run.run(
        "two updates in a statement",
        "WITH one AS (UPDATE items SET total = total + 1 WHERE id = 1), "
        "two AS (UPDATE items SET name = 'w' WHERE id IN (2, 3)) UPDATE items SET total = 0 WHERE id > 58",
    )
    run.run(
        "insert, update and delete in a statement",
        "WITH one AS (INSERT INTO items VALUES (100, 'cte', 20)), two AS (DELETE FROM items WHERE id = 60) "
        "UPDATE items SET total = 1 WHERE id = 2",
    )
    run.run("update from", "UPDATE items SET name = v.n FROM (VALUES (1, 'f1'), (3, 'f3')) AS v(i, n) WHERE id = v.i")
    run.run("delete using", "DELETE FROM items USING (VALUES (58), (59)) AS v(i) WHERE id = v.i")
    run.run("returning", "INSERT INTO items VALUES (101, 'r', 1) RETURNING total")
    run.run("update of no row", "UPDATE items SET total = 1 WHERE false")
    run.run("delete of no row", "DELETE FROM items WHERE false")
    with run.step("copy") as client, client.cursor().copy("COPY items FROM STDIN") as copy:
        for number in range(200, 260):
            copy.write_row((number, "copied", number % 20))
    loop = "FOR i IN 300..303 LOOP INSERT INTO items VALUES (i); DELETE FROM items WHERE id = i; END LOOP"
    run.run("do", f"DO 'BEGIN {loop}; END'")
    run.run("truncate", "TRUNCATE items")


def merge(run: Hearing) -> None:
    for count in (1, 20):
        run.run(f"insert {count}", f"INSERT INTO items SELECT i, 'a', i FROM generate_series(1, {2 * count}) AS i")
        run.run(
            f"merge {count}",
            f"MERGE INTO items USING generate_series(1, {4 * count}) AS s(i) ON items.id = s.i "
            f"WHEN MATCHED AND s.i <= {count} THEN UPDATE SET total = total + 5, name = 'm' "
            "WHEN MATCHED THEN DELETE WHEN NOT MATCHED AND s.i % 2 = 0 THEN INSERT VALUES (s.i, 'new', 30)",
        )
        run.run(f"delete {count}", "DELETE FROM items")


def transactions(run: Hearing) -> None:
    run.run(
        "several statements",
        *(f"INSERT INTO items VALUES ({i}, 'n', {i * 6})" for i in (1, 2, 3)),
        "UPDATE items SET total = 20 WHERE id = 1",
        "DELETE FROM items WHERE id = 2",
        "UPDATE items SET name = 'z'",
    )
    run.run("one key comes and goes", *["INSERT INTO items VALUES (7)", "DELETE FROM items WHERE id = 7"] * 3)
    run.run("the same twice", "UPDATE items SET total = 1", "UPDATE items SET total = 1")
    with run.step("three transactions") as client:
        for number in (11, 12, 13):
            client.execute("INSERT INTO items VALUES (%s)", [number])
    with run.step("rolled back") as client, client.transaction(force_rollback=True):
        client.execute("INSERT INTO items VALUES (20), (21)")
    with run.step("rolled back to a savepoint") as client, client.transaction():
        client.execute("INSERT INTO items VALUES (22)")
        with client.transaction(force_rollback=True):
            client.execute("INSERT INTO items SELECT generate_series(30, 100)")
            client.execute("UPDATE items SET total = 3")
        with client.transaction():
            client.execute("INSERT INTO items VALUES (23)")
        client.execute("UPDATE items SET total = 4 WHERE id = 23")
    caught = "UPDATE items SET total = 9; INSERT INTO items VALUES (40)"
    run.run(
        "an exception that is caught",
        f"DO 'BEGIN INSERT INTO items VALUES (40); BEGIN {caught}; EXCEPTION WHEN unique_violation THEN "
        "INSERT INTO items VALUES (41); END; END'",
    )
    run.run("delete", "DELETE FROM items")


def muted_writers(run: Hearing) -> None:
    statements = (
        "INSERT INTO items SELECT i, 'n', i FROM generate_series(1, {}) AS i",
        "UPDATE items SET total = total + 1, name = 'm'",
        "DELETE FROM items",
        "TRUNCATE items",
    )
    for count in (1, 2, 60):
        with run.step(f"muted {count}"), run.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO items VALUES (1000)")
            with muted(connection):
                for statement in statements:
                    connection.exec_driver_sql(statement.format(count))
                with muted(connection):
                    connection.exec_driver_sql("INSERT INTO items VALUES (1001)")
            connection.exec_driver_sql("INSERT INTO items VALUES (1002)")
        run.run(f"heard again {count}", "DELETE FROM items")
    for value in ("off", "ON", "", "on "):
        run.run(
            f"muted set to {value!r}",
            f"SET LOCAL sqlalchemy_watch.muted = '{value}'",
            "INSERT INTO items VALUES (1)",
            "INSERT INTO items VALUES (2), (3)",
            "DELETE FROM items",
        )


def _of(text: str) -> str:
    return f'{{"a": "{text}"}}'


#: Values of the setting, as anybody may set it. Those that are too long see `differences`.
CONTEXTS = {
    "nothing": "", "no JSON": "garbage", "broken JSON": '{"a": 1', "a list": "[1, 2]", "a text": '"text"',
    "null": "null", "NaN": '{"a": NaN}', "spaces": '  {"a" :  1 }  ', "two keys alike": '{"a": 1, "a": 2}',
    "quotes": _of("it's \\\"q\\\" \\\\"), "control": _of("\\u0001\\n"), "a bare control": _of("\x01"),
    "a lone surrogate": _of("\\ud800"), "NUL": _of("\\u0000"), "more behind it": '{"a": 1} trailing', "deep": "[" * 300,
    "300 bytes": _of("x" * 290), "400 bytes": _of("x" * 390), "1,900 bytes": _of("x" * 1_880),
    "escaped, 1,800 bytes": _of('\\"' * 400), "two bytes each": _of("é" * 900),
}  # fmt: skip


def contexts(run: Hearing) -> None:
    with run.step("context() and none"), run.engine.begin() as connection:
        with context(connection, request_id="7f3a", user={"id": 7, "names": ["é", None]}):
            connection.exec_driver_sql("INSERT INTO items VALUES (1)")
            with context(connection, request_id="inner", more=True):
                connection.exec_driver_sql("INSERT INTO items VALUES (2), (3)")
                connection.exec_driver_sql("TRUNCATE items")
            connection.exec_driver_sql("INSERT INTO items VALUES (4)")
        connection.exec_driver_sql("DELETE FROM items")
    with run.step("context() of 2,000 bytes"), run.engine.begin() as connection, context(connection, a="x" * 1_980):
        connection.exec_driver_sql("INSERT INTO items VALUES (1)")
        connection.exec_driver_sql("INSERT INTO items SELECT i FROM generate_series(2, 60) AS i")
        connection.exec_driver_sql("TRUNCATE items")
    for name, value in CONTEXTS.items():
        with run.step(name) as client, client.transaction():
            client.execute("SELECT set_config('sqlalchemy_watch.context', %s, true)", [value])
            client.execute("INSERT INTO bigs VALUES (1, 'a')")
            client.execute("INSERT INTO bigs VALUES (2, 'b'), (3, 'c')")
            client.execute("UPDATE bigs SET name = 'a' WHERE id < 3")
            client.execute("DELETE FROM bigs")
            client.execute("TRUNCATE items")
    insert = "INSERT INTO documents SELECT i, '', repeat('x', {}) FROM generate_series({}, {}) AS i"
    with run.step("long rows beside a context of 1,900 bytes") as client, client.transaction():
        client.execute("SELECT set_config('sqlalchemy_watch.context', %s, true)", [CONTEXTS["1,900 bytes"]])
        client.execute("INSERT INTO documents VALUES (1, 'fits', repeat('x', 5000))")
        client.execute("INSERT INTO documents VALUES (2, 'fits not', repeat('x', 7000))")
        run.prepare(insert.format("3000", 3, 6), insert.format("110 * i", 7, 44), insert.format("110 * i", 61, 70))
        client.execute("DELETE FROM documents")


GATE = "IF NEW.number < 0 THEN RETURN NULL; END IF; NEW.number := NEW.number * 2; RETURN NEW"
KEEP = "IF OLD.number > 1000 THEN RETURN NULL; END IF; RETURN OLD"
PASS = "INSERT INTO passages (gate, number) VALUES (NEW.id, NEW.number); RETURN NULL"


def other_triggers(run: Hearing) -> None:
    run.prepare(
        *(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {body}; END'"
            for name, body in (("gate", GATE), ("keep", KEEP), ("pass", PASS))
        ),
        "CREATE TRIGGER gate BEFORE INSERT OR UPDATE ON gates FOR EACH ROW EXECUTE FUNCTION gate()",
        "CREATE TRIGGER keep BEFORE DELETE ON gates FOR EACH ROW EXECUTE FUNCTION keep()",
        "CREATE TRIGGER pass AFTER INSERT OR UPDATE ON gates FOR EACH ROW WHEN (NEW.number > 10) "
        "EXECUTE FUNCTION pass()",
    )
    run.run("one changed", "INSERT INTO gates VALUES (1, 2)")
    run.run("one suppressed", "INSERT INTO gates VALUES (2, -1)")
    run.run("some suppressed", "INSERT INTO gates VALUES (3, -1), (4, 4), (5, -1), (6, 6)")
    run.run(
        "many, every other suppressed",
        "INSERT INTO gates SELECT i, CASE i % 2 WHEN 0 THEN 1 ELSE -1 END FROM generate_series(10, 129) AS i",
    )
    run.run("update, one suppressed", "UPDATE gates SET number = CASE id WHEN 4 THEN -1 ELSE id END WHERE id < 10")
    run.run("update, many suppressed", "UPDATE gates SET number = CASE id % 3 WHEN 0 THEN -1 ELSE 600 END")
    run.run("delete, some suppressed", "DELETE FROM gates")
    run.prepare("DROP FUNCTION gate, pass, keep CASCADE")
    run.run("delete the others", "DELETE FROM gates")


def references(run: Hearing) -> None:
    run.run(
        "insert",
        "INSERT INTO cities SELECT generate_series(1, 9)",
        "INSERT INTO routes SELECT i, i % 3 + 1, i % 2 + 4, i % 3 + 7 FROM generate_series(1, 70) AS i",
    )
    run.run("set null", "DELETE FROM cities WHERE id = 1")
    run.run("set null in another column", "DELETE FROM cities WHERE id = 5")
    run.run("cascade", "DELETE FROM cities WHERE id IN (8, 9)")
    run.run("delete", "DELETE FROM routes", "DELETE FROM cities")


def faults(run: Hearing) -> None:
    run.run("one that can't be decided", "INSERT INTO faults VALUES (1, 0)")
    run.run("the last of 3 can't", "INSERT INTO faults VALUES (2, 1), (3, 20), (4, 0)")
    run.run("the last of 60 can't", "INSERT INTO faults SELECT i, 100 - i FROM generate_series(41, 100) AS i")
    last = 4_000 if run.variant.level == "statement" else 1_300
    run.run("one of many can't", f"INSERT INTO faults SELECT i, 1200 - i FROM generate_series(1001, {last}) AS i")
    run.run("update one", "UPDATE faults SET n = 0 WHERE id = 3")
    run.run("update some", "UPDATE faults SET n = 5 WHERE id < 60")
    with run.step("muted"), run.engine.begin() as connection, muted(connection):
        connection.exec_driver_sql("INSERT INTO faults VALUES (5001, 0), (5002, 0)")
        connection.exec_driver_sql("UPDATE faults SET n = 0 WHERE id = 3")
    run.run("delete", "DELETE FROM faults")
    run.prepare("ALTER TABLE faults RENAME COLUMN n TO number")
    for count in (1, 2, 60):
        run.run(
            f"insert {count}, a column renamed",
            f"INSERT INTO faults SELECT i, 5 FROM generate_series(1, {count}) AS i",
        )
        run.run(f"update {count}, a column renamed", "UPDATE faults SET number = 6")
        run.run(f"delete {count}, a column renamed", "DELETE FROM faults")
    run.run("update of no row, a column renamed", "UPDATE faults SET number = 6")
    run.prepare("ALTER TABLE faults RENAME COLUMN number TO n")
    run.run("renamed back", "INSERT INTO faults VALUES (1, 5)", "UPDATE faults SET n = 6", "DELETE FROM faults")
    run.prepare("ALTER TABLE faults DROP CONSTRAINT faults_pkey", "ALTER TABLE faults ALTER id DROP NOT NULL")
    run.run("a key that is NULL", "INSERT INTO faults VALUES (NULL, 5)")
    run.run("keys that are NULL", "INSERT INTO faults VALUES (NULL, 5), (1, 5), (NULL, 6)")
    run.run("delete them", "DELETE FROM faults")
    run.prepare("ALTER TABLE faults ADD PRIMARY KEY (id)")
