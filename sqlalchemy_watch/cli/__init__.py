"""The command line, `sqlalchemy-watch`. A group of commands is a module; this one puts them together."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without its libraries, say how to get them."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        sys.exit(f"sqlalchemy-watch: {error.name} is missing: pip install 'sqlalchemy-watch[cli]'")
    from .app import run

    run()
