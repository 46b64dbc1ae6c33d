"""Who may come in: what a route asks of a request, and how a request is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

SCOPES = ("stream", "watch", "admin")
"""What a token may allow: send calls, follow calls, operate the server."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served: an HTTP status and one line."""

    status: HTTPStatus
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)
