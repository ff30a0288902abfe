"""Run what depends on the server's version on the version that is named, where there are binaries of it."""

from __future__ import annotations

import os
import subprocess
import sys

from fetch_servers import local_bin

version, *arguments = sys.argv[1:]
try:
    local_bin(int(version))
except RuntimeError as error:
    print(f"nothing was run on PostgreSQL {version}: {error}")
    sys.exit(0)
command = [sys.executable, "-m", "pytest", "-n", "4", *(arguments or ["-m", "server and not slow"])]
sys.exit(subprocess.call(command, env=os.environ | {"WATCH_TEST_POSTGRES": version}))
