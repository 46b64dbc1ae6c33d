"""Whose block is next: deadlines, what a tick may hold, and how fast one session may go, on a clock of paper."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sedstream.grid import HOP
from sedstream.manifest import Manifest
from sedstream.schedule import CATCH_UP, Lane, Schedule
from sedstream.stream import Stream

STEP = 0.32


def lane(manifest: Manifest, blocks: int, came: float) -> Lane:
    """A stream with so many blocks complete at once."""
    stream = Stream(manifest, "live")
    plan = stream.plan
    stream.write(np.zeros((plan.step * blocks + plan.right) * HOP, np.float32))
    found = Lane(stream)
    found.arrived(stream.written, came)
    found.line_up()
    return found


def test_the_oldest_deadline_comes_first(manifest: Manifest) -> None:
    lanes = [lane(manifest, 1, came) for came in (3.0, 1.0, 2.0)]
    schedule = Schedule(budget=0.04, least=2)
    assert schedule.choose(lanes, 5.0) == [lanes[1], lanes[2]]


def test_audio_ahead_of_its_time_is_due_as_if_spoken(manifest: Manifest) -> None:
    """A file's second block stands behind all calls of the next quarter second, its tenth behind those of two
    seconds."""
    file = lane(manifest, 20, 10.0)
    assert file.due == 10.0
    for block in range(1, 10):
        file.line_up()
        assert file.due == pytest.approx(10.0 + block * STEP / CATCH_UP)
        call = lane(manifest, 1, 10.0 + block * STEP / CATCH_UP - 0.01)
        assert Schedule(0.04).choose([file, call], 20.0) == [call]


def test_a_hold_is_no_debt(manifest: Manifest) -> None:
    """Zeros for a minute that never came are there at once: their blocks wait, and who speaks then is in time."""
    found = lane(manifest, 1, 1.0)
    stream, plan = found.stream, found.stream.plan
    ahead = []
    for blocks, came, lost in ((200, 2.0, True), (2, 3.0, False)):
        stream.write(np.zeros(plan.step * blocks * HOP, np.float32), lost=lost)
        found.arrived(stream.written, came, lost)
    while True:
        block = stream.pull()
        assert block is not None
        stream.hear(np.zeros(len(block.chunks), np.float32), block.state)
        stream.push(None, None)
        if not found.ready:
            break
        found.line_up()
        ahead.append(found.due - found.came)
    assert max(ahead[:-3]) > 30
    assert ahead[-1] < 1


def test_a_pause_is_no_credit(manifest: Manifest) -> None:
    """Who was silent for a minute is due when the audio came, neither before nor after."""
    found = lane(manifest, 1, 1.0)
    stream = found.stream
    stream.write(np.zeros(stream.plan.step * HOP, np.float32))
    found.arrived(stream.written, 61.0)
    block = stream.pull()
    assert block is not None
    stream.hear(np.zeros(len(block.chunks), np.float32), block.state)
    stream.push(None, None)
    assert found.ready
    found.line_up()
    assert (found.came, found.due) == (61.0, 61.0)


def test_speed_is_limited_by_lane(manifest: Manifest) -> None:
    fast, slow = lane(manifest, 9, 0.0), lane(manifest, 9, 0.1)
    schedule = Schedule(budget=1.0, least=2, max_speed=4)
    assert schedule.choose([fast, slow], 1.0) == [fast, slow]
    schedule.answered([fast], 1.0, 1.01)
    assert schedule.choose([fast, slow], 1.0 + STEP / 4 - 0.01) == [slow]
    assert schedule.choose([fast, slow], 1.0 + STEP / 4) == [fast, slow]


@given(costs=st.lists(st.floats(0.0001, 0.2), min_size=5, max_size=60), least=st.integers(1, 8))
def test_a_tick_holds_what_fits(manifest: Manifest, costs: list[float], least: int) -> None:
    """However the cost of a block changes: after a tick that took too long the next one would not have."""
    lanes = [lane(manifest, 1, 0.0) for _ in range(40)]
    schedule = Schedule(budget=0.04, least=least)
    for cost in costs:
        chosen = schedule.choose(lanes, 1.0)
        assert len(chosen) == min(40, schedule.limit)
        schedule.answered(chosen, 1.0, 1.0 + len(chosen) * cost)
        assert schedule.limit == least or (schedule.limit - 1) * cost <= 0.04 + 1e-9
        assert schedule.limit >= least


def test_ticks_grow_while_they_are_short(manifest: Manifest) -> None:
    lanes = [lane(manifest, 1, 0.0) for _ in range(40)]
    schedule = Schedule(budget=0.04)
    for _ in range(100):
        chosen = schedule.choose(lanes, 1.0)
        schedule.answered(chosen, 1.0, 1.0 + len(chosen) * 0.002)
    assert 19 <= schedule.limit <= 21


def test_a_flush_makes_an_incomplete_block_ready(manifest: Manifest) -> None:
    stream = Stream(manifest, "live")
    found = Lane(stream)
    stream.write(np.zeros(1000, np.float32))
    found.arrived(1000, 1.0)
    assert not found.ready
    assert found.lacking == stream.plan.span(0)[1] - 1000
    stream.flush()
    found.ends(2.0)
    assert found.ready
    found.line_up()
    assert found.came == 2.0
    found.answered(any_block=False)
    assert not found.ready


def test_a_block_came_with_the_packet_that_completes_it(manifest: Manifest) -> None:
    """Not with the one behind it; and what is lacking is counted from the block after those that are there."""
    found = Lane(Stream(manifest, "live"))
    stream, step = found.stream, found.stream.plan.step * HOP
    for samples, came in ((stream.plan.span(0)[1], 1.0), (100, 2.0), (step, 3.0)):
        stream.write(np.zeros(samples, np.float32))
        found.arrived(stream.written, came)
    found.line_up()
    assert found.came == 1.0
    assert found.lacking == step - 100
