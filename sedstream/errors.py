"""What can go wrong, in five classes. Every message reads ``Bad X 'y', expected …``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


class SedstreamError(Exception):
    """Any error that sedstream raises on purpose; the command line prints it as one line and exits with 2."""

    code = "error"


class BadInput(SedstreamError):
    """Audio, a path or an argument that cannot be used."""

    code = "bad_input"


class BadModel(SedstreamError):
    """An unknown model, a manifest or weights that do not fit."""

    code = "bad_model"


class BadMessage(SedstreamError):
    """A wire message that breaks the protocol; ``code`` goes out with the ``error`` message."""

    def __init__(self, code: str, message: str, *, fatal: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.fatal = fatal

    def __reduce__(self) -> tuple[Callable[..., BadMessage], tuple[str, str]]:
        return partial(BadMessage, fatal=self.fatal), (self.code, str(self))


class Unavailable(SedstreamError):
    """Something outside that is missing or taken: a microphone, PortAudio, ffmpeg, a port, a server."""

    code = "unavailable"
