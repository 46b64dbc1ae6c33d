"""Alerts to the operator's own HTTP service: signed, retried, and never in the way of a session.

Requests and signatures follow https://www.standardwebhooks.com (``webhook-id``, ``webhook-timestamp``,
``webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">``), so that ready-made libraries verify them.
The id of a message is the same for every attempt: a receiver that has seen it answers 200 and does nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import logging
import queue
import random
import ssl
import threading
import time
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import BadInput
from .alerts import Rule, check_rules, parse_rules

QUEUED = 1_000
"""Alerts that may wait for a service that does not answer; the next ones are dropped and counted."""
ATTEMPTS = 8
"""How often one alert is tried: for about two minutes."""
FIRST_DELAY, MAX_DELAY = 0.5, 60.0
"""Seconds before the second attempt, doubled each time, and at most; the actual delay is random below that."""
TIMEOUT = 10.0
"""Seconds that the service may take to answer."""
FAREWELL = 5.0
"""Seconds that remain for what waits when the server stops."""

log = logging.getLogger(__name__)


class Webhook:
    """One service. ``post`` never blocks; one thread delivers, in order. Raises ``BadInput`` for an unusable URL.

    ``secret``: any text; one that begins with ``whsec_`` is base64 behind it. ``first_delay``: see ``FIRST_DELAY``.
    """

    def __init__(self, url: str, secret: str, *, queued: int = QUEUED, first_delay: float = FIRST_DELAY) -> None:
        try:
            parts = urlsplit(url)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            # Signatures are how it is told who asks: a name and a password would be left out without a word.
            plain = "@" not in parts.netloc and all("!" <= char <= "~" for char in path)
            usable = plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            (parts.hostname or "").encode("idna")
        except ValueError:  # a port past 65,535, half an IPv6 address, a host name that can be none
            usable = False
        if not usable:
            raise BadInput(
                f"Bad webhook url {url[:80]!r}, expected http:// or https://, without a user, blanks and accents"
            )
        self.url = url
        self.delivered = self.dropped = 0
        """Alerts that the service took, and those that it never will."""
        self._secure = parts.scheme == "https"
        self._host, self._port = str(parts.hostname), parts.port
        self._path = path
        self._secret = _key(secret)
        self._first_delay = first_delay
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(queued)
        self._stopping = threading.Event()
        self._until = float("inf")
        self._thread = threading.Thread(target=self._run, name="sedstream-webhook", daemon=True)

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Deliver what waits, for ``FAREWELL`` seconds."""
        self._until = time.monotonic() + FAREWELL
        self._stopping.set()
        with suppress(queue.Full):  # then the thread looks at the clock anyway
            self._queue.put_nowait(None)
        self._thread.join(FAREWELL + TIMEOUT)

    def post(self, message: Mapping[str, Any]) -> None:
        """Deliver ``message`` as JSON some time, or count it as dropped."""
        body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            self._queue.put_nowait((f"msg_{uuid.uuid4().hex}", body))
        except queue.Full:
            self._drop("too many alerts wait")

    def _run(self) -> None:
        while time.monotonic() < self._until:
            try:
                item = self._queue.get(timeout=None if not self._stopping.is_set() else 0)
            except queue.Empty:
                return
            if item is not None:
                self._deliver(*item)
        while not self._queue.empty():
            if self._queue.get() is not None:
                self._drop("the server stops")

    def _deliver(self, name: str, body: bytes) -> None:
        for attempt in range(ATTEMPTS):
            status = self._attempt(name, body)
            if 200 <= status < 300:
                self.delivered += 1
                return
            if 300 <= status < 500 and status not in (408, 409, 425, 429):
                self._drop(f"HTTP {status}")  # it would be refused again
                return
            delay = random.uniform(0.5, 1.0) * min(MAX_DELAY, self._first_delay * 2**attempt)
            if self._stopping.wait(delay):
                time.sleep(min(delay, FAREWELL / 10))  # a few quick attempts more
                if time.monotonic() > self._until:
                    break
        self._drop("the service does not take it")

    def _attempt(self, name: str, body: bytes) -> int:
        """The HTTP status; 0 when there was none."""
        now = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": now,
            "webhook-signature": sign(self._secret, name, now, body),
        }
        connection = (
            http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT, context=ssl.create_default_context())
            if self._secure
            else http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        )
        try:
            connection.request("POST", self._path, body, headers)
            return connection.getresponse().status
        except Exception as error:  # whatever it is, the alerts behind this one must be delivered
            log.info("webhook: %s", error)
            return 0
        finally:
            connection.close()

    def _drop(self, why: str) -> None:
        self.dropped += 1
        log.warning("webhook: alert dropped, %s", why)


def sign(key: bytes, name: str, timestamp: str, body: bytes) -> str:
    """The ``webhook-signature`` of a request."""
    digest = hmac.new(key, b".".join([name.encode(), timestamp.encode(), body]), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def read_alerts(path: str | Path, labels: Sequence[str]) -> tuple[tuple[Rule, ...], tuple[Webhook, ...]]:
    """An operator's TOML file: ``[[alert]]`` rules over the ``labels`` of the model, and ``[[webhook]]`` with ``url``
    and ``secret``.

    Raises ``BadInput`` naming the file and what is wrong in it.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        for key in tables:
            if key not in ("alert", "webhook"):
                raise BadInput(f"Bad table {key!r}, expected [[alert]] or [[webhook]]")
        hooks = tables.get("webhook", [])
        if not isinstance(hooks, list):
            raise BadInput("Bad [webhook], expected [[webhook]]")
        rules = parse_rules(tables.get("alert", []))
        check_rules(rules, labels)
        return rules, tuple(_read_hook(hook) for hook in hooks)
    except OSError as error:
        raise BadInput(f"Bad alerts file '{path}', expected one that can be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"Bad alerts file '{path}', expected TOML: {error}") from error
    except BadInput as error:
        raise BadInput(f"{error} (in '{path}')") from error


def _read_hook(table: object) -> Webhook:
    if not isinstance(table, dict) or set(table) != {"url", "secret"}:
        raise BadInput("Bad [[webhook]], expected url and secret")
    for key, value in table.items():
        if not isinstance(value, str) or not value:
            raise BadInput(f"Bad {key} of a webhook, expected a text")
    return Webhook(table["url"], table["secret"])


def _key(secret: str) -> bytes:
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise BadInput("Bad secret of a webhook, expected base64 after 'whsec_'") from None
