"""What the server tells Prometheus: one registry a server, in its text format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..engine import Delivery
from ..events import Final, Gap, Update
from ..grid import HOP, RATE

if TYPE_CHECKING:
    from .server import Server

LAGS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24)
"""Bounds of what is computed, in seconds."""
LATENCIES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.4, 1.6, 2.0, 2.5, 3.0, 5.0, 10.0)
"""Bounds from sound to event, in seconds."""
BLOCKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/"""


class Metrics:
    """The counters and histograms of one server; gauges are read from it when it is asked."""

    def __init__(self, server: Server) -> None:
        self._registry = registry = CollectorRegistry()
        self._ticks = Histogram(
            "sedstream_tick_seconds", "Time of one tick: a batch of blocks.", buckets=LAGS, registry=registry
        )
        self._blocks = Histogram("sedstream_tick_blocks", "Blocks of one tick.", buckets=BLOCKS, registry=registry)
        self._lags = Histogram(
            "sedstream_emission_lag_seconds",
            "From the arrival of the audio that completes a block to the hand-over of its events.",
            buckets=LAGS,
            registry=registry,
        )
        self._latencies = Histogram(
            "sedstream_emission_latency_seconds",
            "From the end of a segment as the event tells it, in the audio, to the hand-over of the event.",
            ["type"],
            buckets=LATENCIES,
            registry=registry,
        )
        self._lost = Counter(
            "sedstream_lost_audio_seconds",
            "Audio that was not heard, of each channel: lost, discarded, or sent during a pause.",
            registry=registry,
        )
        self._ended = Counter(
            "sedstream_calls_ended", "Calls that are over, by close code.", ["code"], registry=registry
        )
        self._alerts = Counter("sedstream_alerts", "Alerts that were raised, by rule.", ["rule"], registry=registry)
        self._refusals = Counter(
            "sedstream_refusals", "Requests that were refused, by HTTP status.", ["status"], registry=registry
        )
        ProcessCollector(registry=registry)
        registry.register(_Gauges(server))

    def text(self) -> str:
        """The exposition, of ``CONTENT_TYPE``."""
        return generate_latest(self._registry).decode()

    def ticked(self, blocks: int, seconds: float) -> None:
        """The engine answered ``blocks`` blocks together. May be called on any thread."""
        self._ticks.observe(seconds)
        self._blocks.observe(blocks)

    def delivered(self, delivery: Delivery, now: float) -> None:
        """A delivery was handed over at ``now`` of the engine's clock."""
        for _, event in delivery.events:
            if isinstance(event, Gap):
                self._lost.inc(event.samples / RATE)
        if delivery.came is None:
            return
        lag = max(0.0, now - delivery.came)
        self._lags.observe(lag)
        for _, event in delivery.events:
            if isinstance(event, Update | Final):
                kind = "final" if isinstance(event, Final) else "provisional"
                self._latencies.labels(kind).observe(lag + (event.at - event.segment.end * HOP) / RATE)

    def ended(self, code: int) -> None:
        """A call is over and its client is told this close code."""
        self._ended.labels(str(code)).inc()

    def alerted(self, rule: str) -> None:
        """A rule raised an alert."""
        self._alerts.labels(rule).inc()

    def refused(self, status: int) -> None:
        """A request was answered with this HTTP status instead of a call."""
        self._refusals.labels(str(status)).inc()


class _Gauges(Collector):
    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        engine = self._server.engine
        sessions = engine.sessions
        queued = [session.queued for session in sessions]
        values = {
            "sedstream_sessions": ("Sessions on the engine.", len(sessions)),
            "sedstream_streams": ("Channels that are analysed.", engine.streams),
            "sedstream_queue_seconds": ("Audio that is not answered yet, over all sessions.", sum(queued)),
            "sedstream_queue_seconds_max": ("The same of the session that has most.", max(queued, default=0.0)),
            "sedstream_ready": ("1 while new calls are let in.", float(self._server.admission.ready)),
        }
        if engine.capacity is not None:
            values["sedstream_capacity_streams"] = ("Channels that may be analysed at once.", engine.capacity)
        for name, (text, value) in values.items():
            yield GaugeMetricFamily(name, text, value)
        hooks = self._server.webhooks
        told = CounterMetricFamily(
            "sedstream_webhook_alerts",
            "Alerts that a webhook's service took, and that it never will.",
            labels=["outcome"],
        )
        told.add_metric(["delivered"], sum(hook.delivered for hook in hooks))
        told.add_metric(["dropped"], sum(hook.dropped for hook in hooks))
        yield told
