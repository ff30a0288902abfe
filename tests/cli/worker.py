"""Listeners of an application, as `run` takes them: each prints what it hears."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Any

import shop
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqlalchemy_watch import Listener, Watched


class Base(DeclarativeBase):
    pass


class Job(Watched, Base):
    __tablename__ = "jobs"
    __watch__ = ("inserted",)
    id: Mapped[int] = mapped_column(primary_key=True)


engine = create_engine(
    os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:"), connect_args={"connect_timeout": 2}
)
orders = Listener(engine, shop.Base)
jobs = Listener(engine, Base)
listeners = {"orders": orders}


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


@shop.Order.watch.inserted.connect
def take_order(sender: Any, event: Any) -> None:
    say("order", event.identity[0])
    if event.identity[0] == 99:
        time.sleep(60)


@Job.watch.inserted.connect
async def do_job(sender: Any, event: Any) -> None:
    await asyncio.sleep(0)
    say("job", event.identity[0])
    if event.identity[0] == 99:
        await asyncio.sleep(0.5)
        say("done")


@orders.connected.connect
def tell_connection(sender: Any) -> None:
    say("connected")


@orders.resync.connect
def tell_resync(sender: Any, reason: str) -> None:
    say("resync", reason)


@jobs.connected.connect
def tell_jobs(sender: Any) -> None:
    say("connected to jobs")


def make() -> Listener:
    return orders


async def make_later() -> Listener:
    return orders


def fail() -> Listener:
    raise KeyError("WORKER_URL")
