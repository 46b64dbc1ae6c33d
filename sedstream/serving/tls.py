"""TLS 1.2 and newer by a certificate and a key in PEM files, which may be renewed while calls go on."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from ..errors import BadInput
from .watched import Watched

log = logging.getLogger(__name__)


class Certificate:
    """``context`` is for listening; ``refresh`` takes changed files for the connections that come from then on.

    ``key`` None: it stands in ``certificate``'s file. Raises ``BadInput`` when they cannot be read or do not belong
    together; a renewal that cannot be read leaves the last good one in force and is logged.
    """

    def __init__(self, certificate: str | Path, key: str | Path | None = None) -> None:
        self._certificate = Path(certificate)
        self._key = Path(key if key is not None else certificate)
        self._watched = Watched(self._certificate, self._key)
        self._newest = _load(self._certificate, self._key)
        self.context = _load(self._certificate, self._key)
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        # Called in every handshake, with or without a server name: a whole context takes the place of the last, so
        # no handshake ever sees the certificate of one renewal and the key of another.
        connection.context = self._newest

    def refresh(self) -> None:
        """Read the files again if they changed."""
        if not self._watched.changed():
            return
        try:
            self._newest = _load(self._certificate, self._key)
        except BadInput as error:
            log.error("certificate not renewed, the last good one stays in force: %s", error)
        else:
            log.info("certificate renewed")


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    def passphrase() -> str:  # without it, Python would ask on the terminal
        raise BadInput(f"Bad TLS key '{key}', expected one without a passphrase")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, passphrase)
    except OSError as error:  # ssl.SSLError is one
        raise BadInput(
            f"Bad TLS certificate '{certificate}' or key '{key}', expected PEM files that belong together: {error}"
        ) from error
    return context
