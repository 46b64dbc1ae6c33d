"""``python -m sedstream`` and the command ``sedstream``."""

import os
import sys

from .cli import main


def run() -> None:
    """The command line, and out. What it wrote is closed by then; to unload torch takes half a second and, where it was
    built for CUDA, 120 MB more than the work did."""
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # closed, or nobody reads: Python knows what to do about it
        raise SystemExit(code) from None
    os._exit(code)


if __name__ == "__main__":
    run()
