"""One section of RESULTS.md a benchmark, replaced as a whole."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
HEAD = """# Results

Written by `python -m benchmarks`. Absolute times belong to the machine; the ratios last.
"""


def commit() -> str:
    """The commit that was measured, with a + when the tree differs from it in more than results."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    name = git("rev-parse", "--short", "HEAD")
    differs = name and git(
        "diff", "HEAD", "--name-only", "--", ".", f":!{RESULTS.relative_to(ROOT)}", ":!models/*/CARD.md"
    )
    return name + "+" * bool(differs) or "no commit"


def machine() -> str:
    """Processor, cores, memory."""
    cpu = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"model name\s*: (.*)", info.read_text())):
        cpu = found[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def write(section: str, body: str) -> None:
    """Put ``body`` under the heading ``section``, in place of what stood there."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else HEAD
    stamp = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit {commit()}, {machine()}"
    new = f"\n## {section}\n\n{stamp}\n\n{body.strip()}\n"
    pattern = re.compile(rf"\n## {re.escape(section)}\n.*?(?=\n## |\Z)", re.S)
    text = pattern.sub(lambda _: new, text) if pattern.search(text) else text + new
    RESULTS.write_text(text, encoding="utf-8")
    print(body)
