"""Statements on columns of every type, keys, hierarchies, names and conditions of every kind, and partitions."""

from __future__ import annotations

from psycopg import sql

from .declarations import HOSTILE_NAMES, HOSTILE_SCHEMA, HOSTILE_TABLE
from .hearing import Hearing

#: Values as literals, by column: of the first row, and of what it becomes.
FIRST = {
    "small": "1", "number": "2", "big": "3", "flag": "true", "amount": "1.50", "price": "9.99", "ratio": "1e300",
    "rough": "0.5", "words": "'plain'", "short": "'short'", "padded": "'a'",
    "token": "'0e37df36-f698-11e6-8dd4-cb9ced3df976'", "day": "'2024-02-29'", "moment": "'2024-02-29 12:34:56'",
    "instant": "'2024-02-29 12:34:56+00'", "clock": "'12:00'", "span": "'1 day 2 hours'", "data": r"'\x01'",
    "document": "'[]'", "tree": "'{}'", "numbers": "'{1,2,3}'", "names": "'{}'", "color": "'red'",
    "address": "'192.168.0.1'", "network": "'192.168.0.0/24'", "hardware": "'00:00:00:00:00:01'", "bits": "'1111'",
    "reach": "'[1,5)'",
}  # fmt: skip

OTHERS = {
    "small": "-32768", "number": "2147483647", "big": "-9223372036854775808", "flag": "false",
    "amount": "12345678901234567890.0123456789", "price": "-0.01", "ratio": "0.1", "rough": "1.5e-10",
    "words": r"""E'it''s \\ "q" \t\n\r\x01\x1f\x7f é 名前 🙂 \u2028 % $1 </script>'""", "short": "''",
    "padded": "'ä b'", "token": "'ffffffff-ffff-ffff-ffff-ffffffffffff'", "day": "'0001-01-01'",
    "moment": "'9999-12-31 23:59:59.999999'", "instant": "'2024-02-29 12:34:56.789012+05:45'",
    "clock": "'23:59:59.999999'", "span": "'-3 days 04:05:06.789'", "data": r"'\x00ff5c2722'",
    "document": r"""'{"b": [1, 2.50, null], "a":  "é\u0001"}'""", "tree": """'{"b": [1, 2.50, null], "a":  "é"}'""",
    "numbers": "'{{1,2},{3,NULL}}'", "names": r"""ARRAY['a,b', '"', '\', NULL, 'null', '', '{}']""", "color": "'it''s'",
    "address": "'2001:db8::1/64'", "network": "'10.0.0.0/8'", "hardware": "'08:00:2b:01:02:03'", "bits": "'0101'",
    "reach": "'empty'",
}  # fmt: skip

#: What a writer's session may be set to.
SETTINGS = (
    "SET DateStyle = 'SQL, DMY'", "SET IntervalStyle = 'iso_8601'", "SET TimeZone = 'Asia/Kathmandu'",
    "SET extra_float_digits = -10", "SET bytea_output = 'escape'", "SET standard_conforming_strings = off",
    "SET search_path = pg_temp, public",
)  # fmt: skip


def _assigned(values: dict[str, str]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def types(run: Hearing) -> None:
    columns, first, others = ", ".join(FIRST), ", ".join(FIRST.values()), ", ".join(OTHERS[name] for name in FIRST)
    run.run("insert", f"INSERT INTO specimens (id, {columns}) VALUES (1, {first})")
    for name, other in OTHERS.items():
        run.run(f"update {name}", f"UPDATE specimens SET {name} = {other}")
    run.run("update to the same", f"UPDATE specimens SET {_assigned(OTHERS)}")
    run.run("insert NULLs", "INSERT INTO specimens (id) VALUES (2)")
    run.run("update all to NULL", f"UPDATE specimens SET {', '.join(f'{name} = NULL' for name in FIRST)}")
    run.run("update to the first", f"UPDATE specimens SET {_assigned(FIRST)}")
    run.run(
        "numbers that are none, and without end",
        "UPDATE specimens SET amount = 'NaN', ratio = 'NaN', rough = '-Infinity' WHERE id = 1",
        "UPDATE specimens SET amount = 'NaN', ratio = 'NaN', rough = 'Infinity' WHERE id = 1",
    )
    run.run("days that Python has not", "UPDATE specimens SET day = 'infinity', moment = '0044-03-15 BC' WHERE id = 1")
    run.run("delete them", "DELETE FROM specimens")
    run.run("insert 60", f"INSERT INTO specimens (id, {columns}) SELECT i, {others} FROM generate_series(1, 60) AS i")
    run.run("update 60", "UPDATE specimens SET words = words || id, instant = instant + make_interval(hours => id)")
    run.run("delete 60", "DELETE FROM specimens")
    run.prepare(*SETTINGS)
    try:
        # A backslash means something else now.
        plain = {name: value for name, value in FIRST.items() if "\\" not in value}
        values = ", ".join(plain.values())
        run.run("insert with settings", f"INSERT INTO specimens (id, {', '.join(plain)}) VALUES (1, {values})")
        run.run(
            "update with settings",
            "UPDATE specimens SET moment = moment + '1 day', instant = instant + '1 day', span = span * 2, "
            "ratio = 0.1, day = day + 1, data = decode('00ff5c27', 'hex'), words = repeat(chr(92), 3)",
        )
        run.run("delete with settings", "DELETE FROM specimens")
    finally:
        run.prepare("RESET ALL")


def composite_keys(run: Hearing) -> None:
    for count in (1, 2, 60):
        series = f"generate_series(1, {count}) AS i"
        run.run(f"insert {count}", f"INSERT INTO lines SELECT i / 10, i % 10, 'k' || i FROM {series}")
        run.run(f"update {count}", "UPDATE lines SET note = 'first'")
        run.run(f"update {count} again", "UPDATE lines SET note = CASE number % 2 WHEN 0 THEN note ELSE 'second' END")
        run.run(f"delete {count}", "DELETE FROM lines")
        run.run(
            f"insert accounts {count}",
            "INSERT INTO accounts SELECT ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid, "
            f"date '2024-01-01' + i FROM {series}",
        )
        run.run(f"update accounts {count}", "UPDATE accounts SET balance = balance + extract(day FROM day)::int % 2")
        run.run(f"delete accounts {count}", "DELETE FROM accounts")


def joined_inheritance(run: Hearing) -> None:
    for count in (1, 60):
        run.run(
            f"insert {count} of each",
            "INSERT INTO animals SELECT i, (ARRAY['animal', 'dog', 'puppy', 'cat'])[i % 4 + 1], 'a' || i "
            f"FROM generate_series(1, {4 * count}) AS i",
            "INSERT INTO dogs SELECT id, 'mixed' FROM animals WHERE kind IN ('dog', 'puppy')",
            "INSERT INTO puppies SELECT id, 'ball' FROM animals WHERE kind = 'puppy'",
        )
        run.run(f"update the root of {count}", "UPDATE animals SET name = 'b' || id")
        run.run(
            f"update the middle of {count}", "UPDATE dogs SET breed = CASE id % 8 WHEN 2 THEN 'poodle' ELSE breed END"
        )
        run.run(f"update the lowest of {count}", "UPDATE puppies SET toy = 'bone'")
        run.run(
            f"change kinds of {count}, and update",
            "UPDATE animals SET kind = 'dog' WHERE kind = 'puppy'",
            "UPDATE puppies SET toy = 'stick'",
        )
        run.run(f"delete {count} from below", "DELETE FROM puppies", "DELETE FROM dogs WHERE id % 2 = 0")
        run.run(f"delete {count} from the root", "DELETE FROM animals")


def joined_inheritance_in_a_schema(run: Hearing) -> None:
    for count in (1, 60):
        run.run(
            f"insert {count}",
            f"INSERT INTO garage.vehicles SELECT 'at', i, i % 2 + 1 FROM generate_series(1, {2 * count}) AS i",
            "INSERT INTO garage.trucks SELECT country, number FROM garage.vehicles WHERE kind = 2",
        )
        run.run(f"update {count}", "UPDATE garage.trucks SET load = 1.5", "UPDATE garage.vehicles SET wheels = 6")
        run.run(f"delete {count}", "DELETE FROM garage.trucks", "DELETE FROM garage.vehicles")


def single_table_inheritance(run: Hearing) -> None:
    for count in (1, 60):
        run.run(
            f"insert {count} of each",
            "INSERT INTO employees SELECT i, (ARRAY['employee', 'manager']::rank[])[i % 2 + 1], 'n' || i, i "
            f"FROM generate_series(1, {2 * count}) AS i",
        )
        run.run(f"update {count}", "UPDATE employees SET name = name || 'x', budget = 7")
        run.run(f"promote {count}", "UPDATE employees SET rank = 'manager'")
        run.run(f"delete {count}", "DELETE FROM employees")


def hostile_names(run: Hearing) -> None:
    table = sql.Identifier(HOSTILE_SCHEMA, HOSTILE_TABLE).as_string(run.client)
    columns = [sql.Identifier(name).as_string(run.client) for name in HOSTILE_NAMES]
    names = ", ".join(['"per cent %s"', *columns])
    values = ", ".join(["'k%'", *map(str, range(len(columns)))])
    for count in (1, 60):
        run.run(
            f"insert {count}",
            f"INSERT INTO {table} (id, {names}) SELECT i, {values} FROM generate_series(1, {count}) AS i",
        )
        run.run(f"update {count}", f"UPDATE {table} SET {', '.join(f'{name} = id' for name in columns)}")
        run.run(f"update {count} to the same", f"UPDATE {table} SET r = r")
        run.run(f"delete {count}", f"DELETE FROM {table}")
    run.run("truncate", f"TRUNCATE {table}")


#: a, b, s, t and f of the rows that conditions choose from.
CASES = r"""
    (1, 2, 'x', '2024-05-01', true), (2, 1, 'X', '2023-05-01', false), (3, 0, 'it''s', NULL, NULL),
    (-1, 4, 'back\slash', '2024-01-01', true), (0, 3, '50% off', '2024-01-02', false), (7, 0, '50x', NULL, true),
    (NULL, 2, 'ax', NULL, NULL), (2, NULL, NULL, NULL, NULL), (NULL, NULL, '', NULL, false), (4, 1, 'abc', NULL, NULL)
"""


def conditions(run: Hearing) -> None:
    rows = f"SELECT a, b, s, t::timestamp, f FROM (VALUES {CASES}) AS v(a, b, s, t, f)"
    insert = "INSERT INTO cases SELECT row_number() OVER (), v.* FROM"
    for number in range(10):
        chosen = f"({rows} OFFSET {number} LIMIT 1) AS v"
        run.run(f"insert row {number + 1}", f"INSERT INTO cases SELECT {number + 1}, v.* FROM {chosen}")
    run.run("update nothing", "UPDATE cases SET a = a")
    run.run("update a", "UPDATE cases SET a = coalesce(a, 0) + 1")
    for number in range(1, 11):
        run.run(f"swap a and b of row {number}", f"UPDATE cases SET a = b, b = a WHERE id = {number}")
    run.run("update s", "UPDATE cases SET s = CASE id % 3 WHEN 0 THEN NULL WHEN 1 THEN 'm' ELSE 'z' END")
    run.run("delete", "DELETE FROM cases")
    run.run("insert all at once", f"{insert} ({rows}) AS v")
    run.run("delete all at once", "DELETE FROM cases")
    run.run("insert 60", f"{insert} ({rows}) AS v, generate_series(1, 6)")
    run.run("update 60", "UPDATE cases SET a = a + id % 2, s = s || 'x'")
    run.run("delete 60", "DELETE FROM cases")


def partitions(run: Hearing) -> None:
    run.prepare(
        "CREATE TABLE visits_at PARTITION OF visits FOR VALUES IN ('at')",
        "CREATE TABLE visits_de PARTITION OF visits FOR VALUES IN ('de')",
    )
    run.run("insert", "INSERT INTO visits VALUES (1, 'at'), (2, 'de'), (3, 'at')")
    run.run("insert into a partition", "INSERT INTO visits_de VALUES (4, 'de', 7)")
    run.run("update", "UPDATE visits SET pages = pages + 1")
    run.run("update a partition", "UPDATE visits_at SET pages = 5 WHERE id = 1")
    run.run("move", "UPDATE visits SET country = 'de' WHERE id = 3")
    run.run("delete", "DELETE FROM visits WHERE id < 3")
    run.run("truncate", "TRUNCATE visits")
    run.catch_up()  # of a partition that is gone nobody can tell whose it was
    run.prepare("DROP TABLE visits_at, visits_de")
