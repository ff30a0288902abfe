"""The demo's other process: plain SQL through psycopg. It knows nothing of models, signals or this library.

`python _demo_writer.py URL SCHEMA` writes for some seconds and prints, as JSON, how many rows each signal
should have told of.
"""

import json
import sys
import time
from collections import Counter
from typing import Any

import psycopg

NAMES = ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Margaret", "Alan", "Katherine", "Dennis", "Radia"]
BULK = 5_000


def write(connection: psycopg.Connection[Any], written: Counter[str]) -> None:
    execute = connection.execute

    for number, name in enumerate(NAMES, 1):
        execute("INSERT INTO customers VALUES (%s, %s, %s)", [number, name, f"{name.lower()}@example.org"])
        written["Customer.inserted"] += 1
        for position in range(3):
            execute(
                "INSERT INTO orders (id, customer_id, total) VALUES (%s, %s, %s)",
                [number * 10 + position, number, 9.5 * (position + number)],
            )
            written["Order.inserted"] += 1
            time.sleep(0.03)

    for number in (2, 4, 6):
        execute("UPDATE customers SET email = %s WHERE id = %s", [f"new{number}@example.org", number])
        execute("UPDATE customers SET email = email WHERE id = %s", [number])  # nothing changed: not heard
        written["Customer.email_changed"] += 1
        time.sleep(0.25)

    for number in (10, 21, 32, 41):
        shipped = execute("UPDATE orders SET status = 'shipped' WHERE id = %s", [number]).rowcount
        written["Order.updated"] += shipped
        written["Order.shipped"] += shipped
        time.sleep(0.25)

    with connection.transaction() as transaction:  # never heard
        execute("INSERT INTO orders (id, customer_id, total) VALUES (-1, 1, 1)")
        raise psycopg.Rollback(transaction)

    inserted = execute(
        "INSERT INTO orders (id, customer_id, total) SELECT i, 1 + i %% 10, i %% 500 FROM generate_series(1000, %s) i",
        [999 + BULK],
    )
    written["Order.inserted"] += inserted.rowcount
    time.sleep(1)
    updated = execute("UPDATE orders SET status = 'shipped' WHERE id >= 1000")
    written["Order.updated"] += updated.rowcount
    written["Order.shipped"] += updated.rowcount
    time.sleep(1)
    written["Order.deleted"] += execute("DELETE FROM orders WHERE id %% 5 = 0", []).rowcount
    time.sleep(0.5)
    written["Customer.deleted"] += execute("DELETE FROM customers WHERE id > 7").rowcount
    time.sleep(0.5)
    execute("TRUNCATE orders")
    written["Order.truncated"] += 1


if __name__ == "__main__":
    url, schema = sys.argv[1:]
    counts: Counter[str] = Counter()
    with psycopg.connect(url, autocommit=True, options=f"-c search_path={schema}") as writer:
        write(writer, counts)
    print(json.dumps(counts))
