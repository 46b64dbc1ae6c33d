"""Functions that Numba compiles, and keeps for the next process where it finds a place to: beside the module or in the
home of the user. A service may have neither: it compiles them anew (some seconds) instead of not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Function], Function]:
    """As ``numba.njit`` with these options, kept if that is possible, and without Python's lock."""

    def decorate(function: Function) -> Function:
        try:
            found: Function = njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # "no locator available"
            found = njit(nogil=True, **options)(function)
        return found

    return decorate
