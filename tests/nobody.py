"""The command line as a user who may not read everything, also where the tests run as root, who may."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import ROOT

NOBODY = 65534

# Everything is imported and loaded first: this user need not be able to read Python itself.
START = f"""
import contextlib, io, json, os, sys
import soundfile, sedstream.folders, sedstream.progress, sedstream.scoring, sedstream.exports.jsonl
from sedstream.cli import main
sedstream.load()
if os.geteuid() == 0:
    os.seteuid({NOBODY})
for line in json.loads(sys.argv[1]):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(line)
    print(json.dumps([code, errors.getvalue()]))
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


def as_nobody(*lines: Sequence[str | Path]) -> list[tuple[int, str]]:
    """Exit code and standard error of each command line."""
    given = json.dumps([[str(word) for word in line] for line in lines])
    result = subprocess.run(
        [sys.executable, "-c", START, given], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]
