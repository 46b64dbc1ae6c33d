"""``python -m benchmarks.accuracy``: the same as ``python -m benchmarks accuracy``."""

from . import main

main()
