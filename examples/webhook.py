"""Tell a partner of every shipped order, by signed webhooks that no crash and no outage loses.

The partner is somebody else's service. It is busy at first, and says when to come back; it checks the signature with
the library of Standard Webhooks, and knows by the id what it has been told already.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from embedded import as_another_program, embedded_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from standardwebhooks import Webhook as Verifier

from sqlalchemy_watch import Listener, RetryPolicy, Watch, Watched
from sqlalchemy_watch.webhooks import new_secret, webhook

#: Known to both sides, and to nobody else.
SECRET = new_secret()


class Base(DeclarativeBase):
    pass


class Order(Watched, Base):
    __tablename__ = "orders"
    __watch__ = (
        Watch(
            "updated",
            label="shipped",
            trigger_columns=("status",),
            extra_columns=("customer_id",),
            when=lambda old, new: new.status == "shipped",
            delivery="durable",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int]
    status: Mapped[str] = mapped_column(server_default="new")


def body_of(event):
    """What the partner gets; without body= it is all that the event carries."""
    return {
        "type": "order.shipped",
        "timestamp": event.emitted_at.isoformat(),
        "data": {"order": event.identity[0], "customer": event.values["customer_id"]},
    }


class Partner(BaseHTTPRequestHandler):
    """Somebody else's service, which wants to be called, but not just now."""

    told: dict[str, dict] = {}
    busy = 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Verifier(SECRET).verify(body, dict(self.headers))  # raises for what is not signed with the secret, or is old
        if Partner.busy:
            Partner.busy -= 1
            self.send_response(503)
            self.send_header("Retry-After", "1")
        else:
            self.told[self.headers["webhook-id"]] = json.loads(body)["data"]
            self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def report_failure(listener, receiver, event, error):
    print(f"not taken, and told again: order {event.identity[0]} ({error})")


def main() -> None:
    partner = HTTPServer(("127.0.0.1", 0), Partner)
    threading.Thread(target=partner.serve_forever, daemon=True).start()
    send = webhook(f"http://127.0.0.1:{partner.server_port}/orders", secret=SECRET, body=body_of)
    Order.watch.shipped.connect(send, name="partner")

    with embedded_engine() as engine:
        Base.metadata.create_all(engine)
        policy = RetryPolicy(max_attempts=20, in_order="key")
        with Listener(engine, Base, durable="webhooks", retry=policy, workers=4) as listener:
            listener.receiver_failed.connect(report_failure)
            as_another_program(engine, "INSERT INTO orders SELECT i, i % 3 FROM generate_series(1, 10) i")
            as_another_program(engine, "UPDATE orders SET status = 'packed'")
            as_another_program(engine, "UPDATE orders SET status = 'shipped' WHERE customer_id = 2")
            listener.catch_up()
    partner.shutdown()
    partner.server_close()

    for data in sorted(Partner.told.values(), key=lambda data: data["order"]):
        print("the webhook was called for order", data["order"], "of customer", data["customer"])
    if sorted(data["order"] for data in Partner.told.values()) != [2, 5, 8]:
        raise SystemExit("not the calls that were to be made")


if __name__ == "__main__":
    main()
