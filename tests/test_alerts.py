"""Alert rules over segments, and the webhooks that carry them: real HTTP on this machine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sedstream.errors import BadInput
from sedstream.events import End, Event, Final, Segment, Update
from sedstream.serving import webhooks
from sedstream.serving.alerts import CITED, Alert, Alerts, Rule, parse_rules
from sedstream.serving.client import Client
from sedstream.serving.server import Server
from sedstream.serving.webhooks import Webhook, read_alerts
from sedstream.zoo import Model

LABELS = ("neutral", "angry")
ANGRY = Rule("anger", label="angry", threshold=0.7, release=0.4, min_duration=2.0)
SOON = Rule("soon", label="angry", threshold=0.7, release=0.4, min_duration=2.0, on="provisional")


def segment(start: float, end: float, angry: float, arousal: float = 0.5) -> Segment:
    """From ``start`` to ``end`` seconds."""
    label = "angry" if angry > 0.5 else "neutral"
    first, last = round(start * 50), round(end * 50)
    return Segment(first, last, label, max(angry, 1 - angry), (1 - angry, angry), 0.5, arousal, arousal, 0.5)


def final(number: int, start: float, end: float, angry: float, arousal: float = 0.5) -> Final:
    return Final(number, 0, segment(start, end, angry, arousal), round(end * 16_000))


def update(number: int, start: float, end: float, angry: float) -> Update:
    return Update(number, 0, segment(start, end, angry), round(end * 16_000))


def told(alerts: list[Alert]) -> list[tuple[str, bool, float, float, list[int]]]:
    return [(a.rule.name, a.begins, a.start / 50, a.end / 50, [s[0] for s in a.segments]) for a in alerts]


def hear(rules: list[Rule], *events: Event, roles: tuple[str | None, ...] = (None,)) -> list[Any]:
    """Each event as a block of its own on channel 0."""
    alerts = Alerts(rules, roles, LABELS)
    return [alert for event in events for alert in told(alerts.hear(0, [event]))]


def test_a_duration_is_speech_that_counts() -> None:
    """Two seconds of it begin the alert; silence between neither counts nor ends it; a calm segment ends it."""
    events = [final(0, 0, 1, 0.9), final(1, 5, 6, 0.8), final(2, 6, 7, 0.5), final(3, 9, 10, 0.3)]
    assert hear([ANGRY], *events) == [("anger", True, 0, 6, [0, 1]), ("anger", False, 0, 7, [0, 1, 2])]


def test_hysteresis() -> None:
    """Between release and threshold a count waits and an alert goes on; below release the count starts again."""
    assert hear([ANGRY], final(0, 0, 1.9, 0.9), final(1, 2, 4, 0.5)) == []
    assert hear([ANGRY], final(0, 0, 1.9, 0.9), final(1, 2, 4, 0.5), final(2, 4, 5, 0.9)) == [
        ("anger", True, 0, 5, [0, 2])
    ]
    assert hear([ANGRY], final(0, 0, 1.9, 0.9), final(1, 2, 4, 0.39), final(2, 4, 5.9, 0.9)) == []
    assert hear([ANGRY], final(0, 0, 2, 0.7)) == [("anger", True, 0, 2, [0])]
    assert hear([ANGRY], final(0, 0, 2, 0.6999)) == []


def test_arousal_roles_and_the_value() -> None:
    loud = Rule("loud", track="arousal", threshold=0.6, release=0.6, role="customer")
    events = [final(0, 0, 1, 0.1, arousal=0.9), final(1, 1, 4, 0.1, arousal=0.7)]
    alerts = Alerts([loud], ("customer", "agent"), LABELS)
    [begin] = alerts.hear(0, events)
    assert begin.value == pytest.approx(0.9)
    assert alerts.hear(1, events) == []
    [end] = alerts.hear(0, [End(200, 200, 2, 0, 64_000)])
    assert not end.begins
    assert end.value == pytest.approx((0.9 + 3 * 0.7) / 4)
    fields = end.fields()
    assert fields["segments"] == [{"seg": 0, "start": 0.0, "end": 1.0}, {"seg": 1, "start": 1.0, "end": 4.0}]
    assert (fields["start"], fields["end"], fields["t_audio"], fields["state"]) == (0.0, 4.0, 4.0, "end")


def test_provisional_is_sooner_and_taken_back() -> None:
    events = [update(0, 0, 1.5, 0.9), update(0, 0, 2, 0.9)]
    assert hear([ANGRY], *events) == []
    assert hear([SOON], *events) == [("soon", True, 0, 2, [0])]
    back = hear([SOON], *events, update(0, 0, 2.3, 0.2))
    assert back == [("soon", True, 0, 2, [0]), ("soon", False, 0, 2, [0])]
    kept = hear([SOON], *events, final(0, 0, 2.2, 0.9), update(1, 2.2, 3, 0.1))
    assert kept == [("soon", True, 0, 2, [0]), ("soon", False, 0, 2.2, [0])]


def test_the_updates_of_a_block_count_together() -> None:
    """The first one of a block drops what stood behind it; only with the others is the block's picture whole."""
    alerts = Alerts([SOON], (None,), LABELS)
    assert told(alerts.hear(0, [update(0, 0, 1, 0.9), update(1, 1.5, 3, 0.9)])) == [("soon", True, 0, 3, [0, 1])]
    assert alerts.hear(0, [update(0, 0, 1.2, 0.9), update(1, 1.5, 3.5, 0.9)]) == []
    assert alerts.hear(0, [final(0, 0, 1.2, 0.9)]) == []


def test_a_segment_that_both_begins_and_ends() -> None:
    """Nothing is swallowed because it came at once."""
    alerts = Alerts([ANGRY, SOON], (None,), LABELS)
    assert told(alerts.hear(0, [final(0, 0, 3, 0.9), final(1, 3, 4, 0.1)])) == [
        ("anger", True, 0, 3, [0]),
        ("soon", True, 0, 3, [0]),
        ("anger", False, 0, 3, [0]),
        ("soon", False, 0, 3, [0]),
    ]


def test_rules_change_while_they_hold() -> None:
    alerts = Alerts([ANGRY], (None,), LABELS)
    alerts.hear(0, [final(0, 0, 3, 0.9)])
    assert alerts.change([ANGRY]) == []
    other = Rule("other", label="angry", threshold=0.7, release=0.4, min_duration=2.0)
    [(channel, ended)] = alerts.change([other])
    assert (channel, ended.rule, ended.begins) == (0, ANGRY, False)
    assert alerts.hear(0, [final(1, 3, 4, 0.9)]) == [], "what was before is not counted by a new rule"
    assert [a.rule for a in alerts.hear(0, [final(2, 4, 5, 0.9)])] == [other]


def test_hours_of_anger_are_one_bounded_alert() -> None:
    alerts = Alerts([ANGRY], (None,), LABELS)
    found = [a for n in range(5000) for a in alerts.hear(0, [final(n, n, n + 1, 0.9)])]
    assert len(found) == 1
    [end] = alerts.hear(0, [final(5000, 5000, 5001, 0.0)])
    assert (end.start, end.end, len(end.segments)) == (0, 5000 * 50, CITED)
    assert end.segments[-1][0] == 4999


@given(
    parts=st.lists(st.tuples(st.integers(1, 100), st.integers(0, 30), st.floats(0, 1)), max_size=20),
    cuts=st.lists(st.integers(0, 20), max_size=5),
)
def test_final_rules_are_a_function_of_the_segments(parts: list[tuple[int, int, float]], cuts: list[int]) -> None:
    """However they were delivered; begins and ends alternate; the counted speech is long enough."""
    events: list[Event] = []
    at = 0
    for number, (length, silence, angry) in enumerate(parts):
        start, at = at + silence, at + silence + length
        events.append(final(number, start / 50, at / 50, angry))
    events.append(End(at, at, len(parts), 0, at * 320))
    whole = told(Alerts([ANGRY], (None,), LABELS).hear(0, events))
    cut = Alerts([ANGRY], (None,), LABELS)
    places = sorted({0, len(events), *(min(cut, len(events)) for cut in cuts)})
    assert [a for i, j in pairwise(places) for a in told(cut.hear(0, events[i:j]))] == whole
    assert [begins for _, begins, *_ in whole] == [n % 2 == 0 for n in range(len(whole))]
    assert len(whole) % 2 == 0
    reaching = sum(length for length, _, angry in parts if angry >= 0.7) / 50
    assert bool(whole) <= (reaching >= 2.0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "Bad name None of alert 1, expected a text"),
        ("x", "Bad alert 1: 'x', expected a table"),
        ({"name": "a", "threshold": 0.5}, "Bad alert 'a', expected either a label or a track"),
        ({"name": "a", "label": "x", "track": "arousal", "threshold": 0.5}, "expected either a label or a track"),
        ({"name": "a", "track": "valence", "threshold": 0.5}, "Bad track 'valence' of alert 'a', expected arousal"),
        ({"name": "a", "label": "x"}, "Bad threshold None of alert 'a', expected a number from 0 to 1"),
        ({"name": "a", "label": "x", "threshold": 2}, "Bad threshold 2 of alert 'a', expected a number from 0 to 1"),
        ({"name": "a", "label": "x", "threshold": True}, "Bad threshold True"),
        ({"name": "a", "label": "x", "threshold": 0.5, "release": 0.6}, "Bad release 0.6 .* from 0 to 0.5"),
        ({"name": "a", "label": "x", "threshold": 0.5, "min_duration": -1}, "Bad min_duration"),
        ({"name": "a", "label": "x", "threshold": 0.5, "on": "both"}, "Bad on 'both'.*final or provisional"),
        ({"name": "a", "label": "x", "threshold": 0.5, "role": 1}, "Bad role"),
        ({"name": "a", "label": "x", "threshold": 0.5, "treshold": 1}, "Bad field 'treshold' of alert 'a'"),
    ],
)
def test_bad_rules(table: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_rules([table])


def test_bad_lists_of_rules() -> None:
    rule = {"name": "a", "label": "x", "threshold": 0.5}
    assert parse_rules([rule]) == (Rule("a", label="x"),)
    with pytest.raises(BadInput, match="Bad alert name 'a', expected each name once"):
        parse_rules([rule, rule])
    with pytest.raises(BadInput, match="Bad alerts dict, expected a list"):
        parse_rules(rule)
    with pytest.raises(BadInput, match="33 rules, expected at most 32"):
        parse_rules([rule] * 33)


def test_the_operators_file(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    path.write_text(
        '[[alert]]\nname = "anger"\nlabel = "angry"\nthreshold = 0.7\nrelease = 0.4\nmin_duration = 2\n'
        '[[webhook]]\nurl = "http://127.0.0.1:1/hook"\nsecret = "s"\n'
    )
    rules, [hook] = read_alerts(path, LABELS)
    assert rules == (ANGRY,)
    assert hook.url == "http://127.0.0.1:1/hook"
    for text, message in [
        ("[[alert", "Bad alerts file '.*alerts.toml', expected TOML"),
        ("[[alarm]]", r"Bad table 'alarm', expected \[\[alert\]\] or \[\[webhook\]\] \(in '.*alerts.toml'\)"),
        ('[[alert]]\nname = "a"', "Bad alert 'a', expected either"),
        (
            '[[alert]]\nname = "a"\nlabel = "angri"\nthreshold = 0.5',
            r"Bad label 'angri' of alert 'a', expected one of neutral, angry \(in '.*alerts.toml'\)",
        ),
        ('[[webhook]]\nurl = "http://x"', "Bad .*webhook.*, expected url and secret"),
        ('[[webhook]]\nurl = "ftp://x"\nsecret = "s"', "Bad webhook url 'ftp://x', expected http"),
        ('[[webhook]]\nurl = "http://x"\nsecret = "whsec_?"', "Bad secret of a webhook"),
        *(
            (f'[[webhook]]\nurl = "{url}"\nsecret = "s"', "Bad webhook url '.*', expected http")
            for url in (
                "http://user:word@x/",
                "http://x/my hook",
                "http://x/é",
                "http://x/?q=é",
                "http://x:99999/",
                "http://[::1/",
                "http://a..b/",
                "https://",
                f"http://{'x' * 64}.example/",
            )
        ),
    ]:
        path.write_text(text)
        with pytest.raises(BadInput, match=message):
            read_alerts(path, LABELS)
    with pytest.raises(BadInput, match="Bad alerts file '.*none.toml', expected one that can be read"):
        read_alerts(tmp_path / "none.toml", LABELS)


class Service:
    """An HTTP service that answers with the given statuses, then 200; ``open`` False: it keeps its callers waiting."""

    def __init__(self, statuses: list[int]) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.paths: list[str] = []
        self.open = threading.Event()
        self.open.set()
        service = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.paths.append(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.requests.append(({key.lower(): value for key, value in self.headers.items()}, body))
                service.open.wait(10)
                self.send_response(statuses.pop(0) if statuses else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts?key=1"


@contextmanager
def service(*statuses: int) -> Iterator[Service]:
    made = Service(list(statuses))
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.open.set()
        made.server.shutdown()
        made.server.server_close()
        thread.join()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_webhook_is_signed_and_retried_under_one_id() -> None:
    secret = "whsec_" + base64.b64encode(b"secret").decode()
    with service(500, 429) as there:
        with Webhook(there.url, secret, first_delay=0.01) as hook:
            hook.post({"type": "alert", "name": "é"})
            hook.post({"type": "alert", "name": "second"})
            wait_for(lambda: hook.delivered == 2)
        assert hook.dropped == 0
        bodies = [json.loads(body)["name"] for _, body in there.requests]
        assert bodies == ["é", "é", "é", "second"]
        assert len({headers["webhook-id"] for headers, _ in there.requests}) == 2
        for headers, body in there.requests:
            signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
            expected = base64.b64encode(hmac.new(b"secret", signed, hashlib.sha256).digest()).decode()
            assert headers["webhook-signature"] == f"v1,{expected}"
            assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60


@pytest.mark.parametrize("status", [400, 301, 307])
def test_a_refused_alert_is_dropped_at_once(status: int) -> None:
    """A redirection is a refusal too: where it leads was not signed for."""
    with service(status) as there, Webhook(there.url, "s", first_delay=0.01) as hook:
        hook.post({"n": 1})
        hook.post({"n": 2})
        wait_for(lambda: hook.delivered == 1)
        assert (hook.dropped, len(there.requests)) == (1, 2)


def test_a_service_that_hangs_blocks_nobody() -> None:
    """``post`` returns at once, what finds no room is counted, and what waited is delivered when the service wakes."""
    with service() as there:
        there.open.clear()
        with Webhook(there.url, "s", queued=3, first_delay=0.01) as hook:
            hook.post({"n": 0})
            wait_for(lambda: there.requests)
            began = time.monotonic()
            for n in range(1, 11):
                hook.post({"n": n})
            assert time.monotonic() - began < 1.0
            assert hook.dropped == 7
            there.open.set()
            wait_for(lambda: hook.delivered == 4)
        assert [json.loads(body)["n"] for _, body in there.requests] == [0, 1, 2, 3]


def test_what_one_alert_meets_does_not_stop_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that fails in a way nobody thought of is one that failed."""
    attempts = iter([UnicodeError("a name that no resolver takes")])
    connect = http.client.HTTPConnection.connect

    def unlucky(connection: http.client.HTTPConnection) -> None:
        for error in attempts:
            raise error
        connect(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", unlucky)
    with service() as there, Webhook(there.url, "s", first_delay=0.01) as hook:
        hook.post({"n": 1})
        hook.post({"n": 2})
        wait_for(lambda: hook.delivered == 2)


def test_a_service_that_is_gone_loses_nothing_silently() -> None:
    with service() as there:
        url = there.url
    with Webhook(url, "s", first_delay=0.001) as hook:
        hook.post({"n": 1})
        wait_for(lambda: hook.dropped == 1)
    assert hook.delivered == 0


def test_a_servers_alerts_reach_its_webhook(model: Model, speech: NDArray[np.float32], tmp_path: Path) -> None:
    """What the service gets is what the client is told, number and version of the wire aside."""

    async def run(path: Path) -> list[dict[str, Any]]:
        async with Server(model, port=0, alerts=path) as server, Client(server.url) as client:
            await client.send(speech[:64_000])
            await client.close()
            told = [message async for message in client if message["type"] == "alert"]
            await asyncio.to_thread(wait_for, lambda: server.webhooks[0].delivered == 2)
            assert 'sedstream_webhook_alerts_total{outcome="delivered"} 2.0' in server.metrics.text()
            return told

    with service(503) as there:
        rule = '[[alert]]\nname = "any"\ntrack = "arousal"\nthreshold = 0.0\n'
        path = tmp_path / "alerts.toml"
        path.write_text(f'{rule}[[webhook]]\nurl = "{there.url}"\nsecret = "s"\n')
        told_client = asyncio.run(run(path))
        assert [message["state"] for message in told_client] == ["begin", "end"]
        expected = [{k: v for k, v in message.items() if k not in ("v", "seq")} for message in told_client]
        got = [json.loads(body) for _, body in there.requests]
        assert got == [expected[0], *expected], "the first was refused once"


def test_a_server_that_stops_delivers_what_its_webhooks_have(
    model: Model, speech: NDArray[np.float32], tmp_path: Path
) -> None:
    async def run(path: Path, there: Service) -> Server:
        async with Server(model, port=0, alerts=path) as server, Client(server.url) as client:
            await client.send(speech[:64_000])
            await client.close()
            async for _ in client:
                pass
            threading.Timer(0.2, there.open.set).start()
        return server

    with service() as there:
        there.open.clear()
        rule = '[[alert]]\nname = "any"\ntrack = "arousal"\nthreshold = 0.0\n'
        path = tmp_path / "alerts.toml"
        path.write_text(f'{rule}[[webhook]]\nurl = "{there.url}"\nsecret = "s"\n')
        assert asyncio.run(run(path, there)).webhooks[0].delivered == 2


def test_what_is_provisional_goes_with_what_replaces_it() -> None:
    """An update takes back what stood behind it; a final segment, what it has grown over, which counts once."""
    alerts = Alerts([SOON], (None,), LABELS)
    assert told(alerts.hear(0, [update(0, 0, 1, 0.9), update(1, 1, 3, 0.9)])) == [("soon", True, 0, 3, [0, 1])]
    assert told(alerts.hear(0, [update(0, 0, 3, 0.2)])) == [("soon", False, 0, 3, [0, 1])]
    alerts = Alerts([SOON], (None,), LABELS)
    assert alerts.hear(0, [update(0, 0, 0.5, 0.9), update(1, 0.5, 1.5, 0.9)]) == []
    assert alerts.hear(0, [final(0, 0, 1.5, 0.9)]) == []


def test_release_itself_is_not_below_release() -> None:
    even = Rule("even", label="angry", threshold=0.7, release=0.7, min_duration=2.0)
    assert hear([even], final(0, 0, 1, 0.7), final(1, 1, 2, 0.7)) == [("even", True, 0, 2, [0, 1])]


def test_what_waits_when_the_server_stops_is_delivered() -> None:
    with service() as there:
        there.open.clear()
        with Webhook(there.url, "s") as hook:
            for n in range(3):
                hook.post({"n": n})
            wait_for(lambda: there.requests)
            threading.Timer(0.2, there.open.set).start()
        assert (hook.delivered, hook.dropped) == (3, 0)


def test_what_is_left_when_the_server_stops_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FAREWELL", 0.2)
    with service() as there:
        url = there.url
    with Webhook(url, "s") as hook:
        for n in range(20):
            hook.post({"n": n})
    assert (hook.delivered, hook.dropped) == (0, 20)


def test_what_may_go_better_another_time_is_tried_again() -> None:
    with service(408, 409, 425, 429, 500) as there, Webhook(there.url, "s", first_delay=0.01) as hook:
        hook.post({"n": 1})
        wait_for(lambda: hook.delivered == 1)
    assert (hook.dropped, len(there.requests)) == (0, 6)


def test_attempts_are_ever_further_apart() -> None:
    """A service that is down for a while is neither hammered nor given up soon."""
    with service(500, 500, 500, 500, 500) as there, Webhook(there.url, "s", first_delay=0.1) as hook:
        began = time.monotonic()
        hook.post({"n": 1})
        wait_for(lambda: hook.delivered == 1)
        assert time.monotonic() - began >= 0.5 * 0.1 * (1 + 2 + 4 + 8 + 16)


def test_a_webhook_asks_for_what_its_url_says() -> None:
    with service() as there, Webhook(there.url, "s") as hook:
        hook.post({"n": 1})
        wait_for(lambda: hook.delivered == 1)
    assert there.paths == ["/alerts?key=1"]


def test_no_alert_goes_to_who_cannot_prove_to_be_the_service() -> None:
    with service() as there:
        secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("localhost").configure_cert(secure)
        there.server.socket = secure.wrap_socket(there.server.socket, server_side=True)
        url = there.url.replace("http://127.0.0.1", "https://localhost")
        with Webhook(url, "s", first_delay=0.001) as hook:
            hook.post({"n": 1})
            wait_for(lambda: hook.dropped == 1 or hook.delivered)
    assert (hook.delivered, there.requests) == (0, [])
