"""``python -m benchmarks NAME [options]``: one of NAMES, each told by its ``--help``."""

import sys
from importlib import import_module

NAMES = (
    "accuracy",
    "attention",
    "capacity",
    "fuzz",
    "gpu",
    "joins",
    "leaveout",
    "native",
    "recordings",
    "sessions",
    "soak",
    "speed",
)

if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
    raise SystemExit(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [options]")
name = sys.argv.pop(1)
sys.argv[0] = f"python -m benchmarks {name}"
import_module(f"benchmarks.{name}").main()
