"""Call a webhook for every shipped order."""

from __future__ import annotations

import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

from embedded import as_another_program, embedded_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched


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
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int]
    status: Mapped[str] = mapped_column(server_default="new")


class Partner(BaseHTTPRequestHandler):
    """Somebody else's service, which wants to be called."""

    called: list[dict] = []

    def do_POST(self) -> None:
        self.called.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    partner = HTTPServer(("127.0.0.1", 0), Partner)
    threading.Thread(target=partner.serve_forever, daemon=True).start()
    hook = f"http://127.0.0.1:{partner.server_port}/orders"

    @Order.watch.shipped.connect
    def call_webhook(sender, event):
        body = {"order": event.identity[0], "customer": event.values["customer_id"], "at": event.emitted_at.isoformat()}
        request = urllib.request.Request(hook, json.dumps(body).encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=5).close()

    def report_failure(listener, receiver, event, error):
        print(f"{receiver.__name__} failed on {event}: {error}")

    with embedded_engine() as engine:
        Base.metadata.create_all(engine)
        with Listener(engine, Base) as listener:
            listener.receiver_failed.connect(report_failure)
            as_another_program(engine, "INSERT INTO orders SELECT i, i % 3 FROM generate_series(1, 10) i")
            as_another_program(engine, "UPDATE orders SET status = 'packed'")
            as_another_program(engine, "UPDATE orders SET status = 'shipped' WHERE customer_id = 2")
            listener.catch_up()
    partner.shutdown()
    partner.server_close()

    for call in Partner.called:
        print("the webhook was called for order", call["order"], "of customer", call["customer"])
    if sorted(call["order"] for call in Partner.called) != [2, 5, 8]:
        raise SystemExit("not the calls that were to be made")


if __name__ == "__main__":
    main()
