"""HTTP message signatures as Genesys AudioHook signs its handshake: HMAC-SHA256 over chosen parts of the request.

https://developer.genesys.cloud/devapps/audiohook/session-walkthrough#establishing-connection, a draft of RFC 9421
(https://www.rfc-editor.org/rfc/rfc9421) that still has ``@request-target`` as a derived component. The signature's
``keyid`` is the API key, which stands in ``X-API-KEY`` too; the key of the HMAC is the client secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping

from ...errors import BadMessage

COVERED = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
"""What a signature must cover."""
MAX_AGE = 10
"""Seconds after which a signature is too old to open a connection with."""
SKEW = 3
"""Seconds that the clocks of both sides may differ."""
MIN_NONCE = 22
"""Characters: 128 bits of base64."""
REMEMBERED = MAX_AGE + 2 * SKEW
"""Seconds after which a signature that was seen could not be used again anyway."""
_STRING = r'"[\x20\x21\x23-\x5b\x5d-\x7e]*"'  # a Structured Fields string (RFC 8941) that needs no escapes
_INPUT = re.compile(rf"([a-z*][a-z0-9_.*-]*)=(\((?:{_STRING} *)*\)(?:; *[a-z]+=(?:{_STRING}|\d{{1,15}}))*)")
_PARAMETER = re.compile(rf"; *([a-z]+)=({_STRING}|\d{{1,15}})")


class Nonces:
    """The nonces of the signatures that came in of late: a request that was overheard opens nothing a second time."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], float] = {}  # until when, the oldest first

    def __len__(self) -> int:
        return len(self._seen)

    def spend(self, key: str, nonce: str, now: float) -> None:
        """Use up the nonce of a signature of ``key`` that holds. Raises ``BadMessage`` if it was used before."""
        while self._seen and next(iter(self._seen.values())) < now:
            del self._seen[next(iter(self._seen))]
        if (key, nonce) in self._seen:
            raise _refused("nonce", "one that was never used")
        self._seen[key, nonce] = now + REMEMBERED


def verify(
    target: str, headers: Mapping[str, str], secrets: Mapping[str, bytes], now: float, nonces: Nonces | None = None
) -> str:
    """The API key of a request that may come in.

    ``target``: path and query as on the request line. ``headers``: by lower-case name. ``secrets``: client secret of
    each API key; an empty one asks for no signature. ``now``: seconds since 1970. ``nonces``: those of earlier
    requests, which must not come again. Raises ``BadMessage`` with code ``unauthorized``, which does not tell an
    unknown key from a wrong secret.
    """
    key = headers.get("x-api-key", "")
    # An unknown key costs the same work as a known one.
    secret = next((secrets[known] for known in secrets if hmac.compare_digest(known.encode(), _bytes(key))), None)
    if secret == b"" and "signature-input" not in headers and "signature" not in headers:
        return key
    found = _INPUT.fullmatch(headers.get("signature-input", "").strip())
    if not found:
        raise _refused("Signature-Input", "one signature's components and parameters")
    label, described = found[1], found[2]
    components = re.findall(r'"([^"]*)"', described[: described.index(")")])
    parameters = dict(_PARAMETER.findall(described))
    if len(set(components)) < len(components) or not set(COVERED) <= set(components):
        raise _refused("Signature-Input", f"each of {', '.join(COVERED)} once")
    if parameters.get("alg", '"hmac-sha256"') != '"hmac-sha256"' or parameters.get("keyid") != f'"{key}"':
        raise _refused("Signature-Input", "alg hmac-sha256 and the API key as keyid")
    if len(parameters.get("nonce", "").strip('"')) < MIN_NONCE:
        raise _refused("Signature-Input", f"a nonce of {MIN_NONCE} characters or more")
    created, expires = parameters.get("created", ""), parameters.get("expires", str(10**15))
    if not created.isdigit() or not expires.isdigit():
        raise _refused("Signature-Input", "created and expires in seconds")
    if not int(created) - SKEW <= now <= min(int(created) + MAX_AGE, int(expires)) + SKEW:
        raise _refused("signature", "one made just now")
    values = dict(headers) | {"@request-target": target, "@authority": headers.get("host", "")}
    if not all(values.get(name) for name in components):
        raise _refused("Signature-Input", "components that the request has")
    lines = [f'"{name}": {values[name].strip()}' for name in components]
    base = "\n".join([*lines, f'"@signature-params": {described}'])
    signed = hmac.digest(secret or b"nobody", _bytes(base), hashlib.sha256)
    if not hmac.compare_digest(signed, _signature(headers.get("signature", ""), label)) or not secret:
        raise _refused("signature", "that of a known API key and its client secret")
    if nonces is not None:  # last: only who knows the secret can fill them
        nonces.spend(key, parameters["nonce"], now)
    return key


def _signature(field: str, label: str) -> bytes:
    head, _, rest = field.strip().partition("=:")
    if head != label or not rest.endswith(":"):
        raise _refused("Signature", f"{label}=:…:")
    try:
        return base64.b64decode(rest[:-1], validate=True)
    except (ValueError, binascii.Error):
        raise _refused("Signature", "base64") from None


def _refused(what: str, expected: str) -> BadMessage:
    return BadMessage("unauthorized", f"Bad {what}, expected {expected}")


def _bytes(text: str) -> bytes:
    # Bytes of a header that are no ASCII arrive as halves of surrogate pairs.
    return text.encode("utf-8", "surrogateescape")
