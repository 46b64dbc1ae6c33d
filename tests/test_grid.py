import pytest
from hypothesis import given
from hypothesis import strategies as st

from sedstream.errors import BadInput
from sedstream.grid import HOP, Plan, frames_of, seconds


@given(st.integers(0, 10**12))
def test_frames_cover_the_samples_and_no_more(samples: int) -> None:
    frames = frames_of(samples)
    assert frames * HOP >= samples > (frames - 1) * HOP or frames == samples == 0


def test_seconds_are_those_of_the_decimal_grid() -> None:
    # 41.28 s is frame 2064; 2064 * 0.02 in floating point is 41.28, 2063 * 0.02 is 41.260000000000005
    assert [seconds(n) for n in (0, 1, 2063, 2064)] == [0.0, 0.02, 41.26, 41.28]


@given(st.integers(0, 500), st.integers(1, 60), st.integers(1, 500), st.integers(0, 1000))
def test_blocks_answer_each_frame_once(left: int, steps: int, right: int, block: int) -> None:
    plan = Plan(left, 8 * steps, right)
    start, end = plan.span(block)
    assert end - start == plan.window * HOP
    assert start + left * HOP == block * plan.step * HOP
    assert plan.span(block + 1)[0] - start == plan.step * HOP


@given(st.integers(0, 500), st.integers(1, 60), st.data())
def test_a_short_recording_is_one_block(left: int, steps: int, data: st.DataObject) -> None:
    plan = Plan(left, 8 * steps, 50)
    short = plan.short(data.draw(st.integers(1, plan.step)))
    lengths = [plan.short(n).step for n in range(1, plan.step + 1)]
    assert (short.left, short.right) == (0, 1)
    assert all(n <= length <= plan.step for n, length in enumerate(lengths, 1))
    assert len(set(lengths)) <= 10
    assert max(length - n for n, length in enumerate(lengths, 1)) < max(8, plan.step / 10 + 8)


@given(st.integers(1, 60), st.integers(1, 400), st.integers(0, 400), st.data())
def test_a_short_recording_of_a_cached_encoder_keeps_its_look_ahead(
    steps: int, right: int, more: int, data: st.DataObject
) -> None:
    """And a chunk before, in which the look-ahead begins: see `CachedNetwork.check`."""
    right = min(right, 8 * steps)
    plan = Plan(8 * steps - right + 3 + more, 8 * steps, right)
    frames = data.draw(st.integers(1, plan.step))
    short = plan.short(frames, cached=True)
    assert (short.right, short.left - short.step) == (right, plan.left - plan.step)
    assert max(frames, right) <= short.step <= plan.step
    assert short.step < max(frames, right) + max(8, plan.step / 10 + 8)


@pytest.mark.parametrize("numbers", [(0, 0, 1), (0, 12, 1), (-1, 8, 1), (0, 8, 0), (10_000, 8, 1), (0, 8, 10**20)])
def test_a_plan_off_the_grid_is_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(BadInput, match="Bad plan"):
        Plan(*numbers)
