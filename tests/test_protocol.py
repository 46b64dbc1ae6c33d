"""The wire without I/O: requests, numbering, what waits to be sent, what a client keeps to send again."""

from __future__ import annotations

import json
import pickle
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import CLOSE, SCHEMA, START, check_client

from sedstream.errors import BadMessage
from sedstream.serving.outbox import Letter, Outbox
from sedstream.serving.protocol import MAX_BINARY, REASONS, ServerProtocol
from sedstream.serving.requests import (
    OPTIONAL,
    Close,
    Continue,
    Discarded,
    Finalize,
    Pause,
    Resume,
    Start,
    Update,
)
from sedstream.serving.tape import CLOSE as TAPE_CLOSE
from sedstream.serving.tape import CONTINUE, FINALIZE, KEPT_SECONDS, PAUSE, Tape, Timeline

RULE = {"name": "anger", "label": "angry", "threshold": 0.7}


def started() -> ServerProtocol:
    protocol = ServerProtocol()
    assert isinstance(protocol.receive(json.dumps(START)), Start)
    return protocol


def test_requests() -> None:
    for message, expected in [
        ({"type": "finalize"}, Finalize()),
        ({"type": "analysis.pause"}, Pause()),
        ({"type": "analysis.resume"}, Continue()),
        ({"type": "discarded", "samples": 5}, Discarded(5)),
        ({"type": "session.update"}, Update(None, None)),
        ({"type": "session.update", "events": [], "alerts": []}, Update((), ())),
        ({"type": "close"}, Close()),
    ]:
        assert started().receive(json.dumps(check_client(message))) == expected
    start = started().start
    assert start is not None
    assert (start.events, start.alerts) == (OPTIONAL, ())
    resume = {"type": "session.start", "resume": {"token": "t", "seq": 7}}
    assert ServerProtocol().receive(json.dumps(check_client(resume))) == Resume("t", 7)
    with_rule = ServerProtocol().receive(json.dumps(check_client(START | {"alerts": [RULE]})))
    assert isinstance(with_rule, Start)
    assert [rule.name for rule in with_rule.alerts] == ["anger"]


def test_after_close() -> None:
    """A client that was cut off cannot know which of its last requests arrived: they may come twice."""
    protocol = started()
    for message in ({"type": "finalize"}, CLOSE, {"type": "finalize"}, CLOSE):
        expected = Close() if message == CLOSE else Finalize()
        assert protocol.receive(json.dumps(message)) == expected
    for bad in (b"\0\0", json.dumps(START), '{"type":"discarded","samples":5}'):
        with pytest.raises(BadMessage) as caught:
            protocol.receive(bad)
        assert (caught.value.code, caught.value.fatal) == ("closed", True)


@pytest.mark.parametrize("fatal", [True, False])
def test_an_error_is_the_same_in_another_process(fatal: bool) -> None:
    again = pickle.loads(pickle.dumps(BadMessage("bad_value", "Bad x 3, expected 4", fatal=fatal)))
    assert (type(again), again.code, str(again)) == (BadMessage, "bad_value", "Bad x 3, expected 4")
    assert again.fatal is fatal


@pytest.mark.parametrize("fields", [{"events": ["all"]}, {"alerts": [{"name": "x"}]}, {"alerts": 3}, {"events": "gap"}])
def test_a_bad_update_is_told_and_forgiven(fields: dict[str, Any]) -> None:
    with pytest.raises(BadMessage) as caught:
        started().receive(json.dumps({"type": "session.update"} | fields))
    assert (caught.value.code, caught.value.fatal) == ("bad_value", False)


def test_the_schema_knows_what_the_code_knows() -> None:
    for code, reason in REASONS.items():
        assert str(code) in SCHEMA["description"], reason
    for branch in ("client", "server"):
        for message in SCHEMA["$defs"][branch]["oneOf"]:
            if "events" in message["properties"]:
                assert message["properties"]["events"]["items"]["enum"] == list(OPTIONAL)
    for bad in [{"type": "discarded"}, {"type": "session.update", "alerts": [{"name": "x", "threshold": 0.5}]}]:
        with pytest.raises(jsonschema.ValidationError):
            check_client(bad)


def letter(kind: str, seg: int = 0, channel: int = 0, **fields: Any) -> Letter:
    return Letter.of({"type": kind, "session": "s", "seg": seg, "channel": channel} | fields)


def taken(box: Outbox) -> list[tuple[int, str, int, int]]:
    messages = [json.loads(box.take()) for _ in range(len(box))]
    return [(m["seq"], m["type"], m["channel"], m["seg"]) for m in messages]


def test_the_outbox_keeps_finals_and_coalesces_the_rest() -> None:
    box = Outbox(limit=10)
    for _ in range(50):
        for place in ((3, 0), (4, 0), (4, 1)):
            box.put(letter("emotion.update", *place))
        box.put(letter("flow"))
    box.put(letter("emotion.update", 3))
    assert taken(box) == [(0, "emotion.update", 1, 4), (1, "flow", 0, 0), (2, "emotion.update", 0, 3)]
    box.put(letter("emotion.update", 0))
    for number in range(10):
        box.put(letter("emotion.final", number))
    box.put(letter("arousal"))
    assert len(box) == 10
    assert not box.full
    box.put(letter("emotion.final", 10))
    assert box.full
    assert [seg for *_, seg in taken(box)] == list(range(11))


def test_a_client_that_resumes_gets_what_it_missed() -> None:
    """In order and numbered on, without what is obsolete by now."""
    box = Outbox()
    for kind, seg in [("emotion.update", 0), ("arousal", 0), ("emotion.update", 0), ("emotion.final", 0)]:
        box.put(letter(kind, seg))
        taken(box)
    box.put(letter("emotion.update", 1))
    taken(box)
    box.put(letter("alert"))
    box.rewind(0)
    assert taken(box) == [
        (1, "arousal", 0, 0),
        (2, "emotion.final", 0, 0),
        (3, "emotion.update", 0, 1),
        (4, "alert", 0, 0),
    ]
    box.rewind(3)
    box.put_first(letter("session.ready"))
    assert [(seq, kind) for seq, kind, *_ in taken(box)] == [(4, "session.ready"), (5, "alert")]
    box.rewind(3)
    box.put_first(letter("session.ready"))
    assert [(seq, kind) for seq, kind, *_ in taken(box)] == [(4, "session.ready"), (5, "alert")], "one is enough"
    with pytest.raises(BadMessage, match="Bad seq 99, expected at most 5"):
        box.rewind(99)


def test_what_was_sent_is_kept_for_a_while_only() -> None:
    """Provisional messages do not push final ones out; what is too old is refused, not skipped."""
    box = Outbox(kept=40)
    for number in range(30):
        for _ in range(10):
            box.put(letter("emotion.update", number))
            taken(box)
        box.put(letter("emotion.final", number))
        taken(box)
    box.rewind(-1)
    assert [seg for *_, seg in taken(box)] == list(range(30))
    for number in range(30, 130):
        box.put(letter("emotion.final", number))
        taken(box)
    assert len(box._sent) <= 40
    with pytest.raises(BadMessage) as caught:
        box.rewind(0)
    assert caught.value.code == "unknown_session"
    box.rewind(109)
    assert [seg for *_, seg in taken(box)] == list(range(110, 130))


def audio(first: int, count: int) -> bytes:
    """A byte a sample that tells where it stands."""
    return bytes(n % 251 for n in range(first, first + count))


def test_the_tape_sends_again_from_any_sample() -> None:
    tape = Tape(1, 8000, lasting=True)
    tape.audio(audio(0, 100))
    tape.request(FINALIZE)
    tape.audio(audio(100, 50))
    tape.discarded(30)
    tape.request(TAPE_CLOSE)
    assert list(tape.unsent)[:2] == [audio(0, 100), FINALIZE]
    assert (tape.end, tape.closed) == (180, True)
    for sample, expected in [
        (0, [audio(0, 100), FINALIZE, audio(100, 50), '{"type":"discarded","samples":30}', TAPE_CLOSE]),
        (100, [FINALIZE, audio(100, 50), '{"type":"discarded","samples":30}', TAPE_CLOSE]),
        (120, [audio(120, 30), '{"type":"discarded","samples":30}', TAPE_CLOSE]),
        (170, ['{"type":"discarded","samples":10}', TAPE_CLOSE]),
        (180, [TAPE_CLOSE]),
    ]:
        tape.rewind(sample)
        assert list(tape.unsent) == expected


def test_the_tape_cuts_what_no_message_holds() -> None:
    tape = Tape(2, 8000, lasting=True)
    whole = bytes(range(250)) * 10_000
    tape.audio(whole)
    tape.audio(b"")
    assert [len(part) for part in tape.unsent] == [MAX_BINARY, MAX_BINARY, len(whole) - 2 * MAX_BINARY]
    assert b"".join(part for part in tape.unsent if isinstance(part, bytes)) == whole
    tape.rewind(MAX_BINARY)  # samples of two bytes
    assert list(tape.unsent) == [whole[2 * MAX_BINARY :]]


def test_the_tape_forgets_what_is_settled_and_is_bounded() -> None:
    tape = Tape(1, 100, lasting=True)
    kept = round(KEPT_SECONDS * 100)
    for n in range(100):
        tape.audio(audio(n * 100, 100))
    assert tape.full, "much is under way"
    tape.acknowledge(10_000, 9_950)
    assert not tape.full
    assert tape.start == 9_950
    for n in range(100, 200):
        tape.audio(audio(n * 100, 100))
        tape.acknowledge((n + 1) * 100, 9_950)
    assert tape.start == 20_000 - kept
    assert sum(piece.samples for piece in tape._pieces) <= kept + 100
    tape.rewind(9_950)
    assert tape.unsent[0] == f'{{"type":"discarded","samples":{20_000 - kept - 9_950}}}', "what is gone is told"
    once = Tape(1, 100, lasting=False)
    once.audio(audio(0, 100_000))
    assert not once.full
    assert not once._pieces


def test_card_data_is_not_kept_on_the_tape() -> None:
    tape = Tape(1, 8000, lasting=True)
    tape.audio(audio(0, 10))
    tape.request(PAUSE)
    tape.audio(b"4111 1111 1111 1111")
    assert tape.unsent[-1] == b"4111 1111 1111 1111"
    tape.unsent.clear()
    tape.rewind(5)
    assert list(tape.unsent) == [audio(5, 5), PAUSE, '{"type":"discarded","samples":19}']
    tape.rewind(20, anew=True)
    assert list(tape.unsent) == [PAUSE, '{"type":"discarded","samples":9}'], "a new server is told first"
    tape.request(CONTINUE)
    tape.audio(audio(0, 5))
    tape.acknowledge(tape.end, tape.end)
    tape.rewind(tape.end, anew=True)
    assert not tape.unsent


def test_one_timeline_for_several_sessions() -> None:
    timeline = Timeline(100)
    timeline.begin([0, 1])
    final = {"type": "emotion.final", "channel": 0, "start": 1.0, "end": 3.0, "t_audio": 4.0}
    assert timeline.place(dict(final))
    assert timeline.settled == 0, "the other channel has nothing yet"
    assert timeline.place(final | {"channel": 1, "start": 0.0, "end": 2.0})
    assert timeline.settled == 200
    timeline.base = 200
    timeline.begin([0, 1])
    known = final | {"start": 0.0, "end": 0.5}
    assert not timeline.place(known), "2.0 to 2.5 of channel 0 was told by the first session"
    across = final | {"start": 0.5, "end": 2.0}
    assert timeline.place(across)
    assert (across["start"], across["end"], across["t_audio"]) == (3.0, 4.0, 6.0)
    alert = {"type": "alert", "start": 0.0, "end": 1.0, "segments": [{"seg": 0, "start": 0.0, "end": 1.0}]}
    assert timeline.place(alert)
    assert alert["segments"] == [{"seg": 0, "start": 2.0, "end": 3.0}]


@given(st.lists(st.tuples(st.sampled_from(["u", "f", "a"]), st.integers(0, 1)), max_size=40), st.data())
def test_any_resumption_gives_every_final_once(parts: list[tuple[str, int]], data: st.DataObject) -> None:
    """Whatever was sent, received and lost: the finals that a client has seen are all, once, in order."""
    box = Outbox()
    numbers = [0, 0]
    seen: list[dict[str, Any]] = []
    expected = []
    for kind, channel in parts:
        if kind == "u":
            box.put(letter("emotion.update", numbers[channel], channel))
        elif kind == "a":
            box.put(letter("arousal", 0, channel))
        else:
            box.put(letter("emotion.final", numbers[channel], channel))
            expected.append((channel, numbers[channel]))
            numbers[channel] += 1
        sent = [json.loads(box.take()) for _ in range(data.draw(st.integers(0, len(box))))]
        arrived = sent[: data.draw(st.integers(0, len(sent)))]
        seen += arrived
        if len(arrived) < len(sent) or data.draw(st.booleans()):
            box.rewind(seen[-1]["seq"] if seen else -1)
    seen += [json.loads(box.take()) for _ in range(len(box))]
    assert [message["seq"] for message in seen] == list(range(len(seen)))
    assert [(m["channel"], m["seg"]) for m in seen if m["type"] == "emotion.final"] == expected


def test_nothing_is_skipped_where_keeping_ends() -> None:
    """Whatever was received last: all that came behind it, or a refusal."""
    refused = 0
    for seq in range(130):
        box = Outbox(kept=40)
        for number in range(130):
            box.put(letter("emotion.final", number))
            taken(box)
        try:
            box.rewind(seq)
        except BadMessage:
            refused += 1
        else:
            assert [seg for *_, seg in taken(box)] == list(range(seq + 1, 130))
    assert 90 <= refused < 130


def test_a_final_of_one_channel_replaces_nothing_of_another() -> None:
    box = Outbox()
    box.put(letter("emotion.update", 0, channel=1))
    box.put(letter("emotion.final", 0, channel=0))
    assert taken(box) == [(0, "emotion.update", 1, 0), (1, "emotion.final", 0, 0)]


def test_only_what_the_server_has_not_got_fills_the_tape() -> None:
    """A server that has everything, and makes nothing of it final for half a minute, stops nobody."""
    tape = Tape(1, 100, lasting=True)
    kept = round(KEPT_SECONDS * 100)
    tape.audio(audio(0, 2 * kept))
    tape.acknowledge(2 * kept, 0)
    tape.audio(audio(0, kept))
    assert not tape.full
    tape.audio(audio(0, 1))
    assert tape.full
