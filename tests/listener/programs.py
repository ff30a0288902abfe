"""Python programs of their own, which fork, exit, and are interrupted."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from postgres import restore_interrupts
from support import PATIENCE

PREAMBLE = """
import os, sys, threading, time, logging
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy_watch import Listener, Watched

class Base(DeclarativeBase):
    pass

class User(Watched, Base):
    __tablename__ = "users"
    __watch__ = ("inserted",)
    id: Mapped[int] = mapped_column(primary_key=True)

url = sys.argv[1]
engine = create_engine(url, poolclass=NullPool)  # nothing but the listener stays open
Base.metadata.create_all(engine)
heard = []
came = threading.Event()

@User.watch.inserted.connect
def remember(sender, event):
    heard.append(event.identity[0])
    came.set()

def insert(id):
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO users VALUES (:id)"), {"id": id})

def fork_idle_child():
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child

"""

#: Said once by each child of a process with a listener.
FORKED = "a listener of the parent does not run in this forked process"


class Program:
    """A Python program of its own, with a watched model, an engine and a recording receiver."""

    def __init__(self, url: str, code: str) -> None:
        self._folder = tempfile.mkdtemp(prefix="watch-tests-")
        script = Path(self._folder) / "program.py"
        script.write_text(PREAMBLE + textwrap.dedent(code))
        # A fork of a process with threads is what is tested here; Python 3.12 warns of it.
        options = ["-X", "faulthandler", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
        self.process = subprocess.Popen(
            [sys.executable, *options, str(script), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=restore_interrupts,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def finish(self, seconds: float = PATIENCE) -> tuple[int, str, str]:
        """Wait until it has ended by itself; return its exit status, output and errors."""
        try:
            output, errors = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler writes where each thread stands
            output, errors = self.process.communicate()
            raise AssertionError(f"did not end within {seconds} seconds: {output}\n{errors}") from None
        finally:
            self.process.kill()
            self.process.communicate()
            shutil.rmtree(self._folder)
        return self.process.returncode, output.strip(), errors


def run(url: str, code: str) -> str:
    """Run a program; it must end by itself, successfully, and without a word on stderr but those of a forked child."""
    status, output, errors = Program(url, code).finish()
    assert status == 0, errors
    assert not [line for line in errors.splitlines() if FORKED not in line], errors
    return output
