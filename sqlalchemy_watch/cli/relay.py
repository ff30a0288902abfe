"""`relay`: what a consumer group is told of into a message broker, or what NOTIFY brings to many processes."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from ..declaring.targets import tables_of
from ..errors import ConfigurationError
from ..watched import signals_in
from ._progress import BroadcastProgress, ConsoleHandler, Progress, RelayProgress
from .running import Level, LogLevel, set_up_log
from .target import Target, Url, check_watched, load_target, make_engine

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: By the names that `Relay` and `Broadcast` have for them: options that are for one of the two alone.
OF_GROUPS = {
    "format": "--format", "subject": "--subject", "source": "--source", "create": "--create",
    "max_attempts": "--max-attempts", "timeout": "--timeout", "backfill": "--backfill",
}  # fmt: skip
OF_BROADCASTS = {"name": "--name"}

RELAY = "--group NAME, which publishes what is durable to a broker"
BROADCAST = "--broadcast, which passes what NOTIFY brings on to many listeners"


def relay(
    target: Target,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="The broker: nats://host:4222, redis://host:6379/0?stream=watch or kafka://host:9092/topic.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Publish what this consumer group is told of.", show_default=False)
    ] = None,
    broadcast: Annotated[
        bool, typer.Option("--broadcast", help="Listen for others: for Listener(via=relay.nats(...)).")
    ] = False,
    url: Url = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="cloudevents|plain", help="Of messages.", show_default="cloudevents"),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="Of {schema}, {table}, {operation}, {label} and {key}, for NATS.",
            show_default="watch.{schema}.{table}.{operation}.{key}",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Where events come from, in CloudEvents, such as /shop/eu.", show_default=False
        ),
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Make the stream of NATS where it is missing.")] = False,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            help="Attempts at a message that the broker will never take, before it is a dead letter.",
            show_default="for ever",
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds within which the broker has to answer.", show_default="10")
    ] = None,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Publish the rows that are there as well, once for the group.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="By which listeners find the broadcast.", show_default="the database's")
    ] = None,
    log_level: LogLevel = Level.INFO,
    stop_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that messages in hand get, after SIGTERM or Ctrl-C.")
    ] = 10.0,
) -> None:
    """Publish events to a message broker until SIGTERM or Ctrl-C; where it or the database is down, wait.

    With --group durable events, each until NATS JetStream, Redis or Kafka has confirmed it. With --broadcast what
    NOTIFY brings, over NATS, so that one process listens for many.
    """
    given = {
        "format": form, "subject": subject, "source": source, "create": create or None, "max_attempts": max_attempts,
        "timeout": timeout, "backfill": backfill or None, "name": name,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    place = _check(group, broadcast, to, options)
    found = load_target(target)
    check_watched(target, found)
    _check_delivery(target, found, "durable" if group is not None else "notify")
    engine = make_engine(url)
    made: RelayProgress | BroadcastProgress
    made = _broadcast(engine, found, place, options) if group is None else _relay(engine, found, group, place, options)
    console = Console(stderr=True)
    is_live = console.is_terminal and not console.is_dumb_terminal
    set_up_log(log_level, ConsoleHandler(console) if is_live else logging.StreamHandler(sys.stderr))
    try:
        with Progress(made, console if is_live else None):
            made.of.run(stop_timeout)
    except KeyboardInterrupt:  # the second one
        raise typer.Exit(130) from None


def _relay(engine: Engine, found: Any, group: str, to: str, options: dict[str, Any]) -> RelayProgress:
    from ..relay import Relay

    return RelayProgress(Relay(engine, found, group=group, to=to, **options))


def _broadcast(engine: Engine, found: Any, to: str, options: dict[str, Any]) -> BroadcastProgress:
    from ..relay import Broadcast

    return BroadcastProgress(Broadcast(engine, found, to=to, **options))


def _check(group: str | None, broadcast: bool, to: str | None, options: dict[str, Any]) -> str:
    """Return the broker's URL.

    :raises ConfigurationError: it is missing, or what is given does not go together.
    """
    if broadcast and group is not None:
        raise ConfigurationError(f"--group and --broadcast don't go together: give {RELAY}, or {BROADCAST}")
    if not broadcast and group is None:
        raise ConfigurationError(f"a group or a broadcast: give {RELAY}, or {BROADCAST}")
    others, wanted = (OF_GROUPS, "--group NAME") if broadcast else (OF_BROADCASTS, "--broadcast")
    wrong = [others[name] for name in options if name in others]
    if wrong:
        have, them = "--broadcast" if broadcast else "--group", "them" if len(wrong) > 1 else "it"
        raise ConfigurationError(f"{', '.join(wrong)}: only with {wanted}, not with {have}: leave {them} out")
    if to is None:
        raise ConfigurationError("no broker is given: pass --to, such as --to nats://localhost:4222")
    return to


def _check_delivery(target: str, found: Any, wanted: str) -> None:
    """Raise where nothing of the target comes this way.

    :raises ConfigurationError: naming the remedy.
    """
    if any(signal.delivery in (wanted, "both") for signal in signals_in(tables_of(found))):
        return
    if wanted == "durable":
        words = 'nothing of it is durable: give a model __watch_delivery__ = "durable" or "both", or use --broadcast'
    else:
        words = "all of it is durable, and nothing comes by NOTIFY: use --group NAME"
    raise ConfigurationError(f"target {target!r}: {words}")
