"""Let pyright verify that every public name of the installed package has a type.

Run outside the checkout, where pyright would look at the sources, which aren't an installed package.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as directory:
    command = [sys.executable, "-m", "pyright", "--verifytypes", "sqlalchemy_watch", "--ignoreexternal"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
