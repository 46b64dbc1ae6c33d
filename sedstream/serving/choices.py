"""What a server makes of what a client asks for: which channels it may analyse, and by which plan."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import BadInput
from ..manifest import Manifest

AGENT = "agent"
"""The role of a channel that is analysed only where the operator allows it."""


def choose_channels(roles: Sequence[str | None], allow_agent: bool) -> list[int]:
    """The channels that may be analysed. Raises ``BadInput`` when there is none."""
    # By its letters alone: 'Agent ' and '(agent)' are no other role, nor is one with a mark that nobody sees.
    bare = ["".join(filter(str.isalnum, role or "")).lower() for role in roles]
    channels = [n for n, role in enumerate(bare) if allow_agent or role != AGENT]
    if not channels:
        raise BadInput("Bad role 'agent', expected a customer: this server does not analyse agents (--allow-agent)")
    return channels


def choose_plan(manifest: Manifest, latency: float | str | None) -> str:
    """A plan by name, or the slowest (most accurate) one within ``latency`` seconds; None: live. Raises ``BadInput``
    when none is so fast, or it is not for live audio, ``BadModel`` for an unknown name."""
    if latency is None:
        return "live"
    if isinstance(latency, str):
        if manifest.plan(latency).whole:
            raise BadInput(f"Bad latency {latency!r}, expected a plan for live audio: it answers at the end")
        return latency
    live = {name: plan.latency for name, plan in manifest.plans.items() if not plan.whole}
    fitting = [name for name in live if live[name] <= latency]
    if not fitting:
        raise BadInput(f"Bad latency {latency}, expected {min(live.values())} s or more")
    return max(fitting, key=lambda name: live[name])
