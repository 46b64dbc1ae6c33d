"""Memories in slots: the numbers of memories that are tensors, to the bit; taken, given back, grown, read twice."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_cached import PLAN, make
from test_wav2vec import networks, run

from sedstream.encoders.graphs import WARM, Graphs
from sedstream.encoders.networks import Answer, CachedNetwork
from sedstream.encoders.relay import Before
from sedstream.encoders.slots import FEW, IDLE, NOTHING, SPARE, Slots
from sedstream.grid import HOP, Plan
from sedstream.zoo import Model, load

Array = NDArray[np.float32]
CPU = torch.device("cpu")


def free(slots: Slots) -> int:
    gc.collect()
    return len(slots._free)


def test_a_slot_is_free_when_nobody_holds_it() -> None:
    slots = Slots([torch.tensor(7.0), torch.arange(3)], CPU)
    assert slots.fields[0][NOTHING] == 7
    assert slots.fields[1][NOTHING].tolist() == [0, 1, 2]
    held = slots.take(3)
    assert len({slot.number for slot in held} - {NOTHING, SPARE}) == 3
    assert free(slots) == FEW - 2 - 3
    del held[1]
    assert free(slots) == FEW - 2 - 2
    again = slots.take(FEW - 2 - 2)
    assert len({slot.number for slot in held + again} - {NOTHING, SPARE}) == FEW - 2
    assert slots.count == FEW


def test_more_slots_than_there_are() -> None:
    told: list[int] = []
    slots = Slots([torch.tensor([5, 6])], CPU, told.append)
    held = slots.take(FEW - 2)
    (before,) = slots.fields
    for slot in held:
        before[slot.number] = slot.number
    more = slots.take(1)
    assert (told, slots.count) == ([2 * FEW], 2 * FEW)
    more += slots.take(5 * FEW)
    assert slots.count == len(slots.fields[0]) == told[-1] >= 6 * FEW
    assert len({slot.number for slot in held + more} - {NOTHING, SPARE}) == 6 * FEW - 1
    assert slots.fields[0][NOTHING].tolist() == [5, 6]
    assert all(slots.fields[0][slot.number].tolist() == [slot.number] * 2 for slot in held)


def test_what_rows_read_and_write() -> None:
    slots = Slots([torch.zeros(())], CPU)
    (one,) = slots.take(1)
    now, table = slots.step([Before(one, True), Before(), Before(one, turns=True), IDLE])
    assert now[3] is None
    fresh = [slot.number for slot in now[:3] if slot is not None]
    assert len({one.number, NOTHING, SPARE, *fresh}) == 6
    assert table.tolist() == [[one.number, NOTHING, one.number, NOTHING], [*fresh, SPARE], [1, 0, 0, 1], [0, 0, 1, 0]]


def blocks(rows: int, count: int) -> Iterator[tuple[torch.Tensor, list[bool]]]:
    """Blocks of sessions that are silent at times, with two idle rows, and who has had the block before answered."""
    generator = torch.Generator().manual_seed(3)
    samples = 0.1 * torch.randn(rows + 2, (PLAN.window + count * PLAN.step) * HOP, generator=generator)
    for k in range(count):
        yield samples[:, k * PLAN.step * HOP :][:, : PLAN.window * HOP], [k > 0 < (k + n) % 5 for n in range(rows)]


class Again(Graphs):
    """As when a step is captured: it is made several times."""

    def __call__(self, *given: Any) -> Any:
        return [self._function(*given) for _ in range(WARM + 1)][-1]


@torch.inference_mode()
@pytest.mark.parametrize(("rows", "count", "graphs"), [(3, 8, Graphs), (3, 8, Again), (FEW, 3, Graphs)])
def test_slots_change_no_number(rows: int, count: int, graphs: type[Graphs]) -> None:
    """Sessions that begin, go on, were silent and turn, beside idle rows; in the last case more of them than slots."""
    network = make()
    network._step = graphs(network._step_slots)
    old: list[object] = [None] * rows
    new: list[object] = [None] * rows
    for k, (samples, follows) in enumerate(blocks(rows, count)):
        turns = [(k + 2 * n) % 3 == 0 for n in range(rows)]
        logits, affect, old = network.by_rows(samples, PLAN, [*map(Before, old, follows, turns), IDLE, IDLE])
        found, moods, new = network.by_slots(samples, PLAN, [*map(Before, new, follows, turns), IDLE, IDLE])
        assert torch.equal(found, logits)
        assert torch.equal(moods, affect)
        assert new[rows:] == [None, None]
        old, new = old[:rows], new[:rows]
    (slots,) = network._slots.values()
    assert slots.count - 2 - free(slots) == rows
    new.clear()
    assert free(slots) == slots.count - 2
    assert slots.count > FEW or rows < FEW


@torch.inference_mode()
def test_convolutions_in_slots() -> None:
    _, network = networks()
    old: list[object] = [None] * 2
    new: list[object] = [None] * 2
    for k, (samples, follows) in enumerate(blocks(2, 6)):
        follows = [k > 0, 0 < k != 3]
        features, old = network.by_rows(samples, PLAN, [*map(Before, old, follows), IDLE, IDLE])
        found, new = network.by_slots(samples, PLAN, [*map(Before, new, follows), IDLE, IDLE])
        assert found.shape == (4, PLAN.window - 1, 16)
        assert torch.equal(found, features)
        old, new = old[:2], new[:2]


@torch.inference_mode()
def test_a_block_may_be_answered_again() -> None:
    """Also after one that failed, and after the next: what a session remembers does not change under it."""
    network = make()
    (first, _), (second, _), (third, _) = blocks(2, 3)
    begun = network.by_slots(first, PLAN, [Before()] * 4)[2]
    before = [Before(memory, True) for memory in begun]
    expected, _, then = network.by_slots(second, PLAN, before)
    (slots,) = network._slots.values()
    left = free(slots)
    with pytest.raises(RuntimeError):
        network.by_slots(second[:, : 10 * HOP], PLAN, before)
    assert free(slots) == left
    network.by_slots(third, PLAN, [Before(memory, True) for memory in then])
    again, _, other = network.by_slots(second, PLAN, before)
    assert torch.equal(again, expected)
    for field, one, two in ((field, a, b) for field in slots.fields for a, b in zip(then, other, strict=True)):
        assert torch.equal(field[one.number], field[two.number])
    # As if nothing had been answered: what a session gets that was silent meanwhile.
    late = network.by_slots(third, PLAN, [Before(memory) for memory in begun])[0]
    rows = network.by_rows(first, PLAN, [Before()] * 4)[2]
    assert torch.equal(late, network.by_rows(third, PLAN, [Before(memory) for memory in rows])[0])


@torch.inference_mode()
@pytest.mark.parametrize(("follows", "frames"), [(False, [35, 35, 35]), (True, [19, 35, 17])])
def test_only_the_end_of_a_block_is_read(follows: bool, frames: list[int]) -> None:
    for network, wanted in zip((make(), *networks()), frames, strict=True):
        (first, _), (second, _) = blocks(1, 2)
        before = [Before(memory, follows) for memory in network(first, PLAN, [Before()] * 3)[2]]
        length = network.reads(PLAN, follows)
        assert length == wanted * HOP
        expected = network(second, PLAN, before)[0]
        assert torch.equal(network(second[:, -length:], PLAN, before)[0], expected)
        spoilt = torch.cat([torch.full_like(second[:, :-length], torch.nan), second[:, -length:]], 1)
        assert torch.equal(network(spoilt, PLAN, before)[0], expected)


class InSlots(CachedNetwork):
    """As on a GPU."""

    def forward(self, samples: torch.Tensor, plan: Plan, before: Sequence[tuple[Any, bool]]) -> Answer:
        return self.by_slots(samples, plan, before)


def test_sessions_of_the_default_model_in_slots(model: Model, speech: Array) -> None:
    network = model.network
    assert isinstance(network, CachedNetwork)
    slotted = InSlots(network.encoder, network.head)
    packets = [16_000, 12_345, 4_000]
    expected = run(model, speech[:80_000], packets)
    assert run(Model(model.manifest, slotted, CPU), speech[:80_000], packets) == expected
    assert len(expected[0]) > 2
    (slots,) = slotted._slots.values()
    assert free(slots) == slots.count - 2, "the sessions are over"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_sessions_on_a_gpu(precision: str, speech: Array) -> None:
    """Against the CPU, block by block: sessions that begin, go on and were silent, more of them than slots at first, in
    several batches, so that steps of every kind are captured and replayed."""
    here, there = load(precision="float32"), load(device="cuda", precision=precision)
    there._most = 64
    plan = here.manifest.plan("live")
    rows = 3 * FEW
    old = [Before()] * rows
    new = old
    exact = precision == "float32"
    for k in range(6):
        blocks = [speech[700 * n + k * plan.step * HOP :][: plan.window * HOP] for n in range(rows)]
        expected, affect, theirs = here(blocks, plan, before=old)
        found, moods, ours = there(blocks, plan, before=new)
        np.testing.assert_allclose(found, expected, atol=5e-2 if exact else 0.5, rtol=0)
        np.testing.assert_allclose(moods, affect, atol=1e-2 if exact else 0.1, rtol=0)
        assert (found.argmax(-1) == expected.argmax(-1)).mean() > (0.99 if exact else 0.95)
        assert np.array_equal(there(blocks, plan, before=new)[0], found), "a block may be answered again"
        if k == 2:
            Model(here.manifest, there.network, there.device)  # which forgets the tables that captures have read
        follows = [(k + n) % 7 > 0 for n in range(rows)]
        old, new = (list(map(Before, memories, follows)) for memories in (theirs, ours))
    (slots,) = there.network._slots.values()  # type: ignore[attr-defined, union-attr]
    del ours
    new.clear()
    assert free(slots) == slots.count - 2


@pytest.mark.gpu
def test_a_session_among_others_on_a_gpu(speech: Array) -> None:
    """Exact in batches of one size, with every neighbour and in every row."""
    there = load(device="cuda")
    plan = there.manifest.plan("live")
    before = [Before()] * 64
    turned = before
    for k in range(4):
        blocks = [speech[900 * n + k * plan.step * HOP :][: plan.window * HOP] for n in range(64)]
        found, _, memories = there(blocks, plan, before=before)
        other, _, backwards = there(blocks[::-1], plan, before=turned)
        assert np.array_equal(other[::-1], found)
        before, turned = ([Before(memory, True) for memory in some] for some in (memories, backwards))


@pytest.mark.gpu
def test_a_full_gpu_answers_sessions_in_smaller_batches(speech: Array) -> None:
    there = load(device="cuda", precision="float32")
    plan = there.manifest.plan("batch")
    blocks = [speech[300 * n :][: plan.window * HOP] for n in range(8)]
    before = [Before(memory, True) for memory in there(blocks, plan)[2]]
    expected = there(blocks, plan, before=before)[0]
    many = blocks * 32
    _, total = torch.cuda.mem_get_info()
    # Room for the memories, not for all of a batch.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
    try:
        found = there(many, plan, before=before * 32)[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_allclose(found, np.tile(expected, (32, 1, 1)), atol=1e-2, rtol=0)
