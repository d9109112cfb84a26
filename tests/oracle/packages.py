"""Debian's packages, downloaded and unpacked into a cache folder, never installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache() -> Path:
    """Where the folders are in which things are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@contextmanager
def unpacked(place: Path, *packages: str) -> Iterator[Path]:
    """A folder that goes with the block: `root` in it is what the packages hold. What is to be kept is renamed to
    `place`, at once: another test run may be doing the same. CalledProcessError, OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="fetching-") as name:
        work = Path(name)
        _run(work, "apt-get", "download", *packages)
        for package in work.glob("*.deb"):
            _run(work, "dpkg-deb", "-x", package.name, "root")
        yield work


def _run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def main(fetch: Callable[[], Path], failure: str) -> None:
    """Print where it is, or why it is not."""
    try:
        print(fetch())
    except subprocess.CalledProcessError as error:
        sys.exit(f"xfrmi: {failure}: {(error.stderr or b'').decode().strip() or error}")
    except OSError as error:
        sys.exit(f"xfrmi: {failure}: {error}")
