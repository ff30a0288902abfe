"""Run it: `python -m examples.live_orders --write`, in the checkout."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import uvicorn
from sqlalchemy import Engine, create_engine

from .app import create_app
from .models import prepare


@contextlib.contextmanager
def database() -> Iterator[Engine]:
    """The database that DATABASE_URL names, or an embedded one that is gone afterwards."""
    if "DATABASE_URL" in os.environ:
        engine = create_engine(os.environ["DATABASE_URL"])
        try:
            yield engine
        finally:
            engine.dispose()
    else:
        from ..embedded import embedded_engine

        with embedded_engine() as engine:
            yield engine


@contextlib.contextmanager
def writer(url: str) -> Iterator[None]:
    """Another process, which writes."""
    environment = {**os.environ, "DATABASE_URL": url}  # no argument: those are for everybody to see
    process = subprocess.Popen([sys.executable, "-m", f"{__package__}.writer"], env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--write", action="store_true", help="change orders at random, in another process")
    options = parser.parse_args()
    # uvicorn raises the signal again once it has stopped, which is not to be the end before the database is.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(database())
        prepare(engine)
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        print(f"http://127.0.0.1:{options.port}", flush=True)
        if "DATABASE_URL" not in os.environ:
            print(f'To change orders yourself: psql "{url}"', flush=True)
        if options.write:
            stack.enter_context(writer(url))
        uvicorn.run(create_app(engine), port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
