"""Windowed models with rings before them: the numbers of windows of 16 bits, whoever begins, goes on or comes back."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recipe
import torch
from numpy.typing import NDArray
from test_wav2vec import LARGE, PLAN, SIZE, networks, run, small, voices

from sedstream.encoders.heads import LinearHead
from sedstream.encoders.networks import Network, OverlappingNetwork
from sedstream.encoders.relay import Before
from sedstream.encoders.slots import FEW, IDLE
from sedstream.errors import BadInput
from sedstream.grid import HOP, Plan
from sedstream.manifest import find
from sedstream.ringed import Heard, RingedNetwork, rounded
from sedstream.zoo import Model, load

Array = NDArray[np.float32]
STEP = PLAN.step * HOP


def heard(rows: int, blocks: int) -> torch.Tensor:
    """Samples `[rows, n]` that 16 bits hold."""
    return rounded(voices(rows, PLAN.window * HOP + blocks * STEP)) / 32768


def window(samples: torch.Tensor, block: int) -> torch.Tensor:
    return samples[:, block * STEP :][:, : PLAN.window * HOP]


@torch.inference_mode()
@pytest.mark.parametrize(("cached", "rows"), [(False, 3), (True, 3), (False, FEW)])
def test_rings_change_no_number(cached: bool, rows: int) -> None:
    """Sessions that begin at different blocks and were silent, beside an idle row; to the bit."""
    plain, ringed = networks()[cached], RingedNetwork(networks()[cached])
    count = 8 if rows < FEW else 3
    sound = heard(rows + 1, count)
    old: list[object] = [None] * rows
    new: list[object] = [None] * rows
    for k in range(count):
        follows = [0 < k != n + 2 for n in range(rows)]
        expected, _, old = plain(window(sound, k), PLAN, [*map(Before, old, follows), IDLE])
        length = ringed.reads(PLAN, all(follows))
        assert length == (PLAN.step if all(follows) else PLAN.window) * HOP
        found, _, new = ringed(window(sound, k)[:, -length:], PLAN, [*map(Before, new, follows), IDLE])
        assert torch.equal(found[:rows], expected[:rows])
        assert new[rows] is None
        old, new = old[:rows], new[:rows]
    ((slots, rings),) = ringed._rings.values()
    assert len(rings.samples) == slots.count
    assert rings.capacity == (PLAN.window + PLAN.step) * HOP
    gc.collect()
    assert len(slots._free) == slots.count - 2 - rows
    new.clear()
    assert len(slots._free) == slots.count - 2


def test_rounded() -> None:
    row = torch.tensor([0, 1, -1, 2, -3, 0.5, 1.4 / 32768, -1.6 / 32768])
    assert rounded(row).tolist() == [0, 32767, -32768, 32767, -32768, 16384, 1, -2]
    every = torch.arange(-32768, 32768) / 32768
    assert torch.equal(rounded(every) / 32768, every)


@torch.inference_mode()
def test_a_block_may_be_answered_again() -> None:
    network = RingedNetwork(networks()[1])
    samples = heard(2, 3)
    begun = network(window(samples, 0), PLAN, [Before()] * 2)[2]
    before = [Before(memory, True) for memory in begun]
    expected, _, then = network(window(samples, 1)[:, -STEP:], PLAN, before)
    network(window(samples, 2)[:, -STEP:], PLAN, [Before(memory, True) for memory in then])
    # With all that the block has, as beside a session that begins; and with the step alone.
    assert torch.equal(network(window(samples, 1), PLAN, before)[0], expected)
    assert torch.equal(network(window(samples, 1)[:, -STEP:], PLAN, before)[0], expected)


@torch.inference_mode()
@pytest.mark.parametrize("wave", ["raw", "centred", "normalised"])
def test_the_wave_is_normalised_once(wave: str) -> None:
    """Quiet speech, for which twice would show; a whole recording too."""
    torch.manual_seed(8)
    head = LinearHead(labels=3, features=64)
    plain, ringed = (OverlappingNetwork(small(wave=wave), head).eval() for _ in range(2))
    other = RingedNetwork(ringed)
    assert (ringed.encoder.wave == "raw") == (wave != "centred")
    sound = rounded(heard(2, 1) / 64) / 32768
    expected = plain(window(sound, 0), PLAN, [Before()] * 2)[0]
    found = other(window(sound, 0), PLAN, [Before()] * 2)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    whole = Plan(0, 0, 0)
    assert other.reads(whole, False) == 0
    expected, found = (network(sound, whole, [Before()] * 2)[0] for network in (plain, other))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_sessions_on_rings(speech: Array) -> None:
    """Behind the loop: in any packets, alone or together; and nearly as without rings."""
    manifest = replace(find("wavlm-large-sed"), plans={"live": PLAN})
    torch.manual_seed(8)
    head = LinearHead(labels=4, features=64)

    def model(network: Network) -> Model:
        return Model(manifest, network, torch.device("cpu"))

    plain = OverlappingNetwork(small(wave="normalised"), head)
    ringed = model(RingedNetwork(OverlappingNetwork(small(wave="normalised"), head)))
    answers = run(ringed, speech[:64_000], [160]), run(ringed, speech[:64_000], [12_345, 4_000])
    assert len(answers[0][0]) > 2
    assert answers[0][0] == answers[1][0] == answers[1][1]
    blocks = np.stack([speech[n : n + PLAN.window * HOP] for n in (0, 20_000)])
    expected, found = (some(blocks, PLAN)[0] for some in (model(plain), ringed))
    np.testing.assert_allclose(found, expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["sedstream-base", "wavlm-large-sed"])
def test_rings_are_for_windowed_models_on_a_gpu(name: str) -> None:
    with pytest.raises(BadInput, match="Bad rings for a .* model on cpu, expected a windowed one on cuda"):
        load(name, rings=True)


@pytest.mark.gpu
@pytest.mark.parametrize("native", [False, None])
def test_rings_on_a_gpu(native: bool | None, tmp_path: Path, speech: Array) -> None:
    """The same sessions with and without, more of them than rings at first, in batches of both kinds."""
    checkpoint = recipe.save(tmp_path, "WavLM", {**SIZE, **LARGE, "conv_bias": False})
    model, plain = (load(checkpoint, "cuda", "float32") for _ in range(2))
    plan = Plan(24, 16, 8)
    ringed = Model(model.manifest, RingedNetwork(model.network, native), model.device)
    old = [Before()] * (2 * FEW)
    new = old
    for k in range(5):
        blocks = [speech[500 * n + k * plan.step * HOP :][: plan.window * HOP] for n in range(2 * FEW)]
        expected, _, theirs = plain(blocks, plan, before=old)
        found, _, ours = ringed(blocks, plan, before=new)
        np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
        follows = [(k + n) % 4 > 0 for n in range(2 * FEW)]
        old, new = (list(map(Before, memories, follows)) for memories in (theirs, ours))
    assert all(isinstance(memory, Heard) for memory, *_ in new)
