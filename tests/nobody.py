"""The command line as a user who may not read everything, also where the tests run as root, who may."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import ROOT

NOBODY = 65534

# Everything is imported and loaded first: this user need not be able to read Python itself.
START = f"""
import os, sys
import soundfile, sedstream.folders, sedstream.progress, sedstream.scoring, sedstream.exports.jsonl
from sedstream.cli import main
sedstream.load()
if os.geteuid() == 0:
    os.seteuid({NOBODY})
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def readable_by_nobody() -> Iterator[Path]:
    """An empty folder whose parents all may pass, which is not so of pytest's."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        for place, folders, _ in os.walk(name):
            for folder in folders:
                os.chmod(Path(place, folder), 0o700)


def as_nobody(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", START, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
