"""Run the tests that depend on the server's version on server binaries of this machine, where there are any."""

from __future__ import annotations

import os
import subprocess
import sys

from fetch_servers import local_bin

VERSION = os.environ["WATCH_TEST_POSTGRES"]

#: Tests of what is the same on every version (declaring, the command line, ...) are left to the other environments.
SELECTION = ["tests/test_main_job.py", "tests/functions", "tests/listener/decoding/test_values.py"]

if not Path(f"/usr/lib/postgresql/{VERSION}/bin/initdb").exists():
    print(f"there are no server binaries of PostgreSQL {VERSION} on this machine: nothing to run")
    sys.exit(0)
command = [sys.executable, "-m", "pytest", "-n", "4", *(arguments or ["-m", "server and not slow"])]
sys.exit(subprocess.call(command, env=os.environ | {"WATCH_TEST_POSTGRES": version}))
