"""`python -m tests.functions.matrix --record [PART ...]`: see the package."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # as pytest does
warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")

from postgres import Cluster, ensure_system_user  # noqa: E402
from support import created_database  # noqa: E402

from functions.matrix import golden  # noqa: E402
from functions.matrix.declarations import VARIANTS  # noqa: E402
from functions.matrix.hearing import Hearing  # noqa: E402
from functions.matrix.parts import PARTS  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Record the golden files of what this server has; those of other parts stay as they are."""
    parser = argparse.ArgumentParser(prog="python -m tests.functions.matrix", description="Record the golden files.")
    parser.add_argument("--record", nargs="*", metavar="PART", required=True, help=f"of {', '.join(PARTS)} (all)")
    parts = parser.parse_args(arguments).record or list(PARTS)
    ensure_system_user()
    heard: dict[str, golden.Heard] = {}
    cluster = Cluster().start()
    try:
        for variant in VARIANTS:
            with created_database(cluster, "matrix") as database, Hearing(cluster, database, variant) as hearing:
                for part in filter(hearing.can_hear, parts):
                    for route, steps in hearing.hear(PARTS[part]).items():
                        heard.setdefault(part, {})[variant.heard_by(route)] = steps
    finally:
        cluster.remove()
    for part, by_all in heard.items():
        golden.write(part, by_all)
    return 0


if __name__ == "__main__":
    sys.exit(main())
