"""The parts that exist in Python and, where they were built, in C++."""

from __future__ import annotations

import pytest

from sedstream.audio.ring import Ring

try:
    from sedstream.audio.native import NativeRing
except ModuleNotFoundError:
    RINGS: tuple[type[Ring], ...] = (Ring,)
else:
    RINGS = (Ring, NativeRing)

each_ring = pytest.mark.parametrize("kind", RINGS, ids=lambda kind: kind.__name__)
needs_native = pytest.mark.skipif(len(RINGS) == 1, reason="needs the native ring: a C++ compiler when it was installed")
