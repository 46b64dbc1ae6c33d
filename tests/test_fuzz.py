"""Broken, hostile and random messages against every dialect: commands or ``BadMessage`` with a code, never anything
else."""

import json
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import NAMES, ODD, Crash, Peer, dialogue, run

MESSAGES = st.one_of(
    st.binary(max_size=600),
    st.text(max_size=600),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
        max_leaves=12,
    ).map(json.dumps),
)


@st.composite
def fields_of_a_dialect(draw: st.DrawFn) -> tuple[str, list[str | bytes]]:
    """A good beginning of a dialogue, then one message with some of its fields replaced by any JSON at all."""
    name = draw(st.sampled_from(NAMES))
    good = dialogue(name, Random(draw(st.integers(0, 1000))))
    wire = [message if isinstance(message, bytes) else json.dumps(message) for message in good]
    place = draw(st.sampled_from((0, 0, 1, 1)) | st.integers(0, len(good) - 1))
    message = good[place]
    if isinstance(message, bytes):
        return name, [*wire[:place], draw(st.binary(max_size=400)), *wire[place:]]
    path = []
    inner = message
    while isinstance(inner, dict) and inner and (not path or draw(st.booleans())):
        path.append(draw(st.sampled_from(sorted(inner))))
        inner = inner[path[-1]]
    changed = json.loads(json.dumps(message))
    target = changed
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = json.loads(draw(MESSAGES.filter(lambda m: isinstance(m, str) and _is_json(m))))
    return name, [*wire[:place], json.dumps(changed), *wire[place + 1 :]]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def feed(name: str, messages: list[str | bytes]) -> Peer:
    peer = Peer(name, Random(0))
    for message in messages:
        if not peer.receive(message):
            break
    return peer


@settings(max_examples=300)
@given(st.sampled_from(NAMES), st.lists(MESSAGES, max_size=8))
def test_anything_at_all(name: str, messages: list[str | bytes]) -> None:
    feed(name, messages)


@settings(max_examples=300)
@given(st.sampled_from(NAMES), st.integers(0, 1000), st.integers(0, 20), st.lists(MESSAGES, max_size=8))
def test_anything_after_a_good_beginning(name: str, seed: int, good: int, messages: list[str | bytes]) -> None:
    begun = dialogue(name, Random(seed))[:good]
    feed(name, [*(m if isinstance(m, bytes) else json.dumps(m) for m in begun), *messages])


@settings(max_examples=300)
@given(fields_of_a_dialect())
def test_one_field_is_something_else(case: tuple[str, list[str | bytes]]) -> None:
    feed(*case)


@settings(max_examples=200)
@given(st.integers(0, 2**40))
def test_broken_dialogues(seed: int) -> None:
    run(seed)


@pytest.mark.parametrize("name", NAMES)
def test_good_dialogues_are_taken_and_broken_ones_are_told_why(name: str) -> None:
    """The generator itself: what it sends unbroken is no error, and what it breaks meets every check there is."""
    for seed in range(40):
        good = [m if isinstance(m, bytes) else json.dumps(m) for m in dialogue(name, Random(seed))]
        # A session that is resumed has no start, and audio of AudioHook may fall into a pause.
        assert set(feed(name, good).codes) <= {"taken", "no_session", "bad_state"}
    broken: Counter[str] = Counter()
    for seed in range(NAMES.index(name), 1200, len(NAMES)):
        broken += run(seed)[1]
    expected = {
        "wire": {"bad_json", "bad_message", "bad_value", "bad_audio", "no_session", "already_started", "unknown_type"},
        "twilio": {"bad_json", "bad_message", "bad_value", "no_session", "already_started", "unknown_type", "closed"},
        "audiohook": {"bad_json", "bad_message", "bad_value", "bad_seq", "bad_state", "bad_audio", "wrong_session"},
        "audiosocket": {"bad_message", "bad_value", "no_session", "already_started", "unknown_type", "bad_audio"},
    }
    assert {f"{name} {code}" for code in expected[name]} <= set(broken)


@pytest.mark.parametrize("where", ["roles", "alerts"])
def test_half_a_surrogate_pair_reaches_nobody(where: str) -> None:
    """It can be written in JSON, but not sent on: one client's role would cut every follower."""
    alert = {"name": "\ud800", "label": "angry", "threshold": 0.5}
    start = {"audio": {"roles": ["\ud800"]}} if where == "roles" else {"alerts": [alert]}
    peer = Peer("wire", Random(0))
    assert not peer.receive(json.dumps({"type": "session.start"} | start))
    assert peer.codes == {"bad_json": 1}


def test_a_crash_is_seen() -> None:
    """The judge is not asleep."""

    class Broken(Peer):
        def _talk(self, message: str | bytes) -> None:
            raise KeyError("x")

    with pytest.raises(Crash, match="KeyError"):
        Broken("twilio", Random(0)).receive("{}")
