"""Another program, which changes orders at random and knows nothing of the page.

`DATABASE_URL=postgresql://... python -m examples.live_orders.writer`
"""

from __future__ import annotations

import os
import random
import time

import psycopg

CUSTOMERS = ("Ada", "Grace", "Edsger", "Barbara", "Donald", "<script>alert(1)</script>")

#: The oldest order of a status.
OLDEST = "(SELECT id FROM orders WHERE status = '{}' ORDER BY id LIMIT 1)"

STATEMENTS = (
    "INSERT INTO orders (org_id, customer, total) VALUES (%(org)s, %(customer)s, %(total)s)",
    "UPDATE orders SET status = 'paid' WHERE id = " + OLDEST.format("new"),
    "UPDATE orders SET status = 'shipped' WHERE id = " + OLDEST.format("paid"),
    "UPDATE orders SET org_id = 3 - org_id WHERE id = (SELECT id FROM orders ORDER BY random() LIMIT 1)",
    "DELETE FROM orders WHERE id <= (SELECT max(id) - 20 FROM orders)",
)


def write(url: str) -> None:
    """Change something twice a second; orders come more often than anything else happens to them."""
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            (statement,) = random.choices(STATEMENTS, weights=(3, 2, 2, 1, 1))
            values = {"org": random.randint(1, 2), "customer": random.choice(CUSTOMERS), "total": random.randint(5, 99)}
            connection.execute(statement.encode(), values)
            time.sleep(0.5)


if __name__ == "__main__":
    try:
        write(os.environ["DATABASE_URL"])
    except KeyboardInterrupt:  # Ctrl-C, which the whole process group hears
        pass
