"""`run`: the listeners of an application, as a process of their own."""

from __future__ import annotations

import inspect
import logging
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from ..errors import ConfigurationError, WatchError
from ..listener.foreground import run_until_told
from ..listener.listener import Listener
from .output import LogFormatter
from .target import describe_failure, load_object

EXAMPLE = "myapp.worker:listener"


class Level(StrEnum):
    """Levels of the log, by their names on the command line."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LogLevel = Annotated[
    Level, typer.Option("--log-level", help="What to log to stderr, unless the application sets up its log itself.")
]


def run(
    listeners: Annotated[
        list[str],
        typer.Argument(
            metavar="LISTENER",
            help=f"A Listener as module:name, such as {EXAMPLE}, or a function without arguments that returns one.",
            show_default=False,
        ),
    ],
    log_level: LogLevel = Level.INFO,
    stop_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that receivers get to end in, after SIGTERM or Ctrl-C.")
    ] = 10.0,
) -> None:
    """Run listeners until SIGTERM or Ctrl-C; where the database is down, wait for it."""
    found: list[Listener] = []
    for target in listeners:
        listener = load_listener(target)
        if listener not in found:
            found.append(listener)
    set_up_log(log_level, logging.StreamHandler(sys.stderr))
    try:
        run_until_told(found, stop_timeout)
    except KeyboardInterrupt:  # the second one
        raise typer.Exit(130) from None


def set_up_log(level: Level, handler: logging.Handler) -> None:
    """Have the log go to a handler, unless the application has set it up itself."""
    if not logging.getLogger().handlers:
        handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.basicConfig(level=level.name, handlers=[handler])


def load_listener(target: str) -> Listener:
    """Return the listener that `module:name` stands for.

    :raises ConfigurationError: where there is none.
    """
    found: Any = load_object(target, EXAMPLE)
    if callable(found) and not inspect.isclass(found):
        try:
            found = found()
        except WatchError:
            raise
        except Exception as error:
            raise ConfigurationError(f"listener {target!r} could not be made: {describe_failure(error)}") from error
    if inspect.iscoroutine(found):
        found.close()
    if not isinstance(found, Listener):
        kind = found.__name__ if inspect.isclass(found) else type(found).__name__
        raise ConfigurationError(
            f"{target!r} is a {kind}: name a Listener, such as {EXAMPLE}, or a function without arguments that returns "
            f"one"
        )
    return found
