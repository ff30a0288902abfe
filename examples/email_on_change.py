"""Send an email to the old and the new address when an address changes (against a local SMTP server)."""

from __future__ import annotations

import smtplib
import socket
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from embedded import as_another_program, embedded_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched


class Base(DeclarativeBase):
    pass


class User(Watched, Base):
    __tablename__ = "users"
    __watch__ = (
        Watch("updated", label="email_changed", trigger_columns=("email",), extra_columns=("name", "email"), old=True),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    logins: Mapped[int] = mapped_column(server_default="0")


class Inbox:
    """The local SMTP server's handler: keeps what it is sent."""

    def __init__(self) -> None:
        self.received: list[tuple[list[str], str]] = []

    async def handle_DATA(self, server, session, envelope) -> str:
        self.received.append((list(envelope.rcpt_tos), envelope.content.decode()))
        return "250 OK"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    inbox = Inbox()
    port = free_port()
    smtp = Controller(inbox, hostname="127.0.0.1", port=port)
    smtp.start()

    @User.watch.email_changed.connect
    def confirm_address(sender, event):
        message = EmailMessage()
        message["From"] = "accounts@example.org"
        message["To"] = ", ".join([event.old["email"], event.values["email"]])
        message["Subject"] = "Your email address has changed"
        message.set_content(f"Hello {event.values['name']},\n\nis this right? If not, tell us.\n")
        with smtplib.SMTP("127.0.0.1", port) as mailer:
            mailer.send_message(message)

    try:
        with embedded_engine() as engine:
            Base.metadata.create_all(engine)
            with Listener(engine, Base) as listener:
                as_another_program(engine, "INSERT INTO users VALUES (1, 'Ada', 'ada@old.example')")
                as_another_program(engine, "UPDATE users SET logins = logins + 1, email = email")  # no change: no email
                as_another_program(engine, "UPDATE users SET email = 'ada@new.example' WHERE name = 'Ada'")
                listener.catch_up()
    finally:
        smtp.stop()

    for recipients, _ in inbox.received:
        print("an email went to", " and ".join(recipients))
    if [recipients for recipients, _ in inbox.received] != [["ada@old.example", "ada@new.example"]]:
        raise SystemExit("not the emails that were to be sent")


if __name__ == "__main__":
    main()
