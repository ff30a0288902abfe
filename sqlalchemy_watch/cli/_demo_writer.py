"""The demo's other process: plain SQL through psycopg. It knows nothing of models, signals or this library.

`python _demo_writer.py URL SCHEMA` writes for some seconds. It prints one JSON object a line: `{"sql": ...}`
for a statement, and at the end `{"written": ...}`, the number of rows that each signal should have told of.
"""

import json
import sys
import time
from collections import Counter
from typing import Any

import psycopg

NAMES = ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Margaret", "Alan", "Katherine", "Dennis", "Radia"]
BULK = 5_000

#: Seconds after a statement that somebody may want to look at.
PAUSE = 1.0


class Writer:
    """Writes rows, prints its statements, and counts the rows that each signal should tell of."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.written: Counter[str] = Counter()
        self._connection = connection

    def execute(self, sql: str, *signals: str, pause: float = PAUSE) -> None:
        """Run a statement, each row of which is to be told of by these signals."""
        print(json.dumps({"sql": sql}), flush=True)
        done = self._connection.execute(sql)
        for signal in signals:
            self.written[signal] += 1 if done.rowcount < 0 else done.rowcount  # TRUNCATE counts no rows
        time.sleep(pause)

    def write(self) -> None:
        """Write everything."""
        self._write_single_rows()
        self._write_unheard()
        self._write_many_rows()

    def _write_single_rows(self) -> None:
        for number, name in enumerate(NAMES, 1):
            self.execute(
                f"INSERT INTO customers VALUES ({number}, '{name}', '{name.lower()}@example.org')",
                "Customer.inserted", pause=0.05,
            )  # fmt: skip
            for item in range(3):
                order, total = number * 10 + item, 9.5 * (item + number)
                self.execute(
                    f"INSERT INTO orders (id, customer_id, total) VALUES ({order}, {number}, {total})",
                    "Order.inserted", pause=0.05,
                )  # fmt: skip
        for number in (2, 4, 6):
            self.execute(
                f"UPDATE customers SET email = 'new{number}@example.org' WHERE id = {number}",
                "Customer.email_changed", pause=0.3,
            )  # fmt: skip
        for number in (10, 21, 32, 41):
            self.execute(
                f"UPDATE orders SET status = 'shipped' WHERE id = {number}", "Order.updated", "Order.shipped", pause=0.3
            )

    def _write_unheard(self) -> None:
        self.execute("UPDATE customers SET email = email", pause=PAUSE / 2)
        with self._connection.transaction() as transaction:
            self.execute("INSERT INTO orders (id, customer_id, total) VALUES (-1, 1, 1)", pause=PAUSE / 2)
            print(json.dumps({"sql": "ROLLBACK"}), flush=True)
            raise psycopg.Rollback(transaction)

    def _write_many_rows(self) -> None:
        self.execute(
            "INSERT INTO orders (id, customer_id, total) "
            f"SELECT i, 1 + i % 10, i % 500 FROM generate_series(1000, {999 + BULK}) i",
            "Order.inserted",
        )
        self.execute("UPDATE orders SET status = 'shipped' WHERE id >= 1000", "Order.updated", "Order.shipped")
        self.execute("DELETE FROM orders WHERE id % 5 = 0", "Order.deleted")
        self.execute("DELETE FROM customers WHERE id > 7", "Customer.deleted")
        self.execute("TRUNCATE orders", "Order.truncated", pause=PAUSE / 2)


if __name__ == "__main__":
    url, schema = sys.argv[1:]
    with psycopg.connect(url, autocommit=True, options=f"-c search_path={schema}") as connected:
        writer = Writer(connected)
        writer.write()
    print(json.dumps({"written": writer.written}))
