"""`python -m tests.soak`: see the package."""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # as pytest does
warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")

from listener.consumers import MODES  # noqa: E402
from postgres import ensure_system_user  # noqa: E402

from soak import notify, takeovers  # noqa: E402
from soak.report import Report  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Run the soaks.")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak of NOTIFY (10)")
    parser.add_argument(
        "--takeovers", type=int, default=200, help="of the soak of durable delivery, in each mode (200)"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of all that is left to chance")
    parser.add_argument("--only", choices=("notify", *MODES), help="NOTIFY, or one mode of durable delivery")
    options = parser.parse_args(arguments)
    ensure_system_user()
    print(f"seed {options.seed}", flush=True)
    soaks: dict[str, Callable[[], Report]] = {
        "notify": lambda: notify.run(options.minutes * 60, options.seed, say),
        **{mode: partial(takeovers.run, options.takeovers, options.seed, say, mode) for mode in MODES},
    }
    reports = []
    for name, soak in soaks.items():
        if options.only in (None, name):
            reports.append(soak())
            print(reports[-1], end="\n\n", flush=True)
    return int(any(report.faults for report in reports))


def say(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    sys.exit(main())
