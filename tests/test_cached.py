"""The cached encoder: chunk by chunk as at once, levels, silence, and what a session remembers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sedstream.encoders.cached import BEFORE, BEHIND, CachedEncoder
from sedstream.encoders.heads import CachedHead
from sedstream.encoders.networks import CachedNetwork
from sedstream.encoders.relay import Before
from sedstream.encoders.whisper import SILENCE, WhisperEncoder
from sedstream.errors import BadModel
from sedstream.grid import HOP, Plan
from sedstream.training.brain import Learner
from sedstream.training.start import LEFT, STEP, without_positions

SIZE = {"mels": 80, "width": 64, "heads": 4, "layers": 3, "outputs": [2, 3]}
PLAN = Plan(3, 16, 16)


def voice(frames: int, seed: int = 0) -> torch.Tensor:
    """Something like a voice: harmonics with a moving pitch, and a little noise. Float32 `[1, frames * 320]`."""
    rng = np.random.default_rng(seed)
    time = np.arange(frames * HOP) / 16000
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(5 * time)) / 16000
    sound = sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.1 + rng.normal(size=len(time)) * 0.003
    return torch.from_numpy((sound * (0.6 + 0.4 * np.sin(9 * time))).astype(np.float32))[None]


def make(**change: object) -> CachedNetwork:
    torch.manual_seed(0)
    encoder = CachedEncoder(**{**SIZE, "left": 40, "reach": 20, **change})  # type: ignore[arg-type]
    torch.nn.init.normal_(encoder.position, std=0.1)
    torch.nn.init.normal_(encoder.distance)
    head = CachedHead(labels=5, features=encoder.features, outputs=2, width=24, hidden=16, experts=3)
    assert head.experts is not None
    head.experts.share.fill_(0.5)
    return CachedNetwork(encoder, head).eval()


def session(network: CachedNetwork, samples: torch.Tensor, plan: Plan, skip: tuple[int, ...] = ()) -> torch.Tensor:
    """Logits `[blocks * step, C]` of a session over samples `[1, n]`, block by block; NaN where a block is skipped."""
    blocks = -(-samples.shape[1] // (plan.step * HOP))
    padded = torch.nn.functional.pad(samples, (plan.left * HOP, plan.window * HOP))
    memory, follows, found = None, False, []
    for k in range(blocks):
        if k in skip:
            follows = False
            found.append(torch.full((plan.step, 5), torch.nan))
            continue
        block = padded[:, k * plan.step * HOP :][:, : plan.window * HOP]
        logits, _, (memory,) = network(block, plan, [Before(memory, follows)])
        follows = True
        found.append(logits[0])
    return torch.cat(found)


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [8, 16, 48])
def test_chunk_by_chunk_equals_at_once(chunk: int) -> None:
    encoder = make().encoder
    samples = torch.cat([voice(96 + BEFORE + BEHIND), 0.01 * voice(96 + BEFORE + BEHIND, 1)])
    whole = encoder(samples, chunk)
    state = [torch.stack([field, field]) for field in encoder.nothing(samples)]
    found = []
    for start in range(0, 96, chunk):
        part = samples[:, start * HOP : (start + chunk + BEFORE + BEHIND) * HOP]
        features, *state = encoder.advance(part, *state)
        found.append(features)
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("plan", [Plan(3, 8, 8), PLAN, Plan(7, 32, 28), Plan(9, 16, 10)])
def test_a_session_is_what_was_trained(plan: Plan) -> None:
    """Blocks with a memory give the numbers that `Learner` gives at once for all of the recording."""
    network = make()
    samples = voice(160)
    right = plan.right - BEHIND
    # The encoder's first chunk is the one before the first look-ahead ends.
    before = plan.step - right
    padded = torch.nn.functional.pad(samples, ((before + BEFORE) * HOP, 3 * plan.step * HOP))
    frames = -(-(before + 160 + right) // plan.step) * plan.step
    learner = Learner(network.encoder, network.head).eval()
    logits, _, features = learner(padded[:, : (BEFORE + frames + BEHIND) * HOP], plan.step, right)
    assert features.shape == (1, frames, network.encoder.features)
    found = session(network, samples, plan)[:160]
    # A session's recurrence begins with its first frame; what the learner's heard before it fades.
    torch.testing.assert_close(found[60:], logits[0, before + 60 : before + 160], atol=1e-3, rtol=0)


@torch.inference_mode()
def test_rows_do_not_meet() -> None:
    network = make()
    one, two = voice(64), voice(64, 3) * 0.1
    alone = [session(network, samples, PLAN) for samples in (one, two)]
    padded = [torch.nn.functional.pad(s, (PLAN.left * HOP, PLAN.window * HOP)) for s in (one, two)]
    before = [Before()] * 2
    for k in range(4):
        block = torch.cat([p[:, k * 16 * HOP :][:, : PLAN.window * HOP] for p in padded])
        logits, affect, memories = network(block, PLAN, before)
        before = [Before(memory, True) for memory in memories]
        assert affect.shape == (2, 16, 2)
        for row in range(2):
            torch.testing.assert_close(logits[row], alone[row][16 * k : 16 * k + 16], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_blocks_left_out_are_as_if_never_said() -> None:
    """After silence that nobody asked for, a session goes on with what it knew: the silence takes no place."""
    network = make()
    samples = voice(16 * 9)
    with_gap = session(network, samples, PLAN, skip=(4, 5))
    assert with_gap.isnan().any(1).sum() == 32
    whole = session(network, samples, PLAN)
    torch.testing.assert_close(with_gap[: 16 * 4], whole[: 16 * 4])
    assert with_gap[16 * 6 :].isfinite().all()
    # The look-ahead of the block that comes back is its own, not that of the block before the gap.
    later = samples.clone()
    later[:, 16 * 5 * HOP : 16 * 6 * HOP - 200] = 0
    changed = session(network, later, PLAN, skip=(4, 5))
    torch.testing.assert_close(changed[: 16 * 3], with_gap[: 16 * 3])
    assert not torch.allclose(changed[16 * 6 :], with_gap[16 * 6 :], atol=1e-3)


@torch.inference_mode()
def test_a_long_session_is_as_a_short_one() -> None:
    """No position runs out: after an hour the same minute has the same answer."""
    network = make()
    minute = voice(16 * 40)
    short = session(network, torch.cat([voice(16 * 8, 5), minute], 1), PLAN)[16 * 8 :]
    hour = torch.cat([voice(16 * 8, 5).repeat(1, 400), minute], 1)
    long = session(network, hour, PLAN)[-16 * 40 :]
    torch.testing.assert_close(long[16 * 12 :], short[16 * 12 :], atol=1e-3, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("decibels", [-20.0, 20.0])
def test_level_changes_nothing(decibels: float) -> None:
    network = make()
    samples = 0.1 * voice(16 * 6)
    louder = session(network, samples * 10 ** (decibels / 20), PLAN)
    torch.testing.assert_close(louder, session(network, samples, PLAN), atol=1e-3, rtol=0)


@torch.inference_mode()
def test_what_was_loud_fades() -> None:
    encoder = make(fade=10.0).encoder
    state = [field[None] for field in encoder.nothing(voice(1))]
    _, *state = encoder.advance(voice(16 + BEFORE + BEHIND), *state)
    loudest = state[0].clone()
    assert (loudest > SILENCE).all()
    _, *state = encoder.advance(torch.zeros(1, (50 + BEFORE + BEHIND) * HOP), *state)
    torch.testing.assert_close(state[0], loudest - 1)  # a second at 10 dB
    for _ in range(20):
        _, *state = encoder.advance(torch.zeros(1, (50 + BEFORE + BEHIND) * HOP), *state)
    assert state[0].tolist() == [[SILENCE] * 2]
    assert state[1].tolist() == [[40] * 2]


@torch.inference_mode()
def test_without_positions() -> None:
    """Positions by which near frames look at each other become a table whose scores fall with the distance."""
    torch.manual_seed(0)
    whisper = WhisperEncoder(**SIZE, positions=300).eval()
    angle = torch.arange(300)[:, None] / 30 ** (torch.arange(32) / 31)
    whisper.embed_positions.weight.copy_(torch.cat([angle.sin(), angle.cos()], 1))
    for name in ("q_proj", "k_proj"):
        getattr(whisper.layers[0].self_attn, name).weight.copy_(2 * torch.eye(64))
    encoder = CachedEncoder(**SIZE, reach=40)
    without_positions(encoder, whisper, torch.cat([voice(200), voice(200, 1)]))
    first = encoder.distance[0].mean(0)
    assert 38 <= first.argmax() <= 42  # a frame looks at itself and its neighbours first
    assert first[38:43].min() > first[[0, 10, 70, 80]].max()
    assert torch.equal(encoder.conv1.weight, whisper.conv1.weight)
    assert torch.equal(encoder.position, whisper.embed_positions.weight[LEFT + STEP // 2])


@torch.inference_mode()
def test_a_table_of_old_weights_is_forgotten() -> None:
    network = make()
    before = session(network, voice(32), PLAN)
    network.train()
    network.encoder.distance.mul_(0.5)
    network.eval()
    after = session(network, voice(32), PLAN)
    assert not torch.allclose(after, before, atol=1e-3)
    fresh = make()
    fresh.encoder.distance.mul_(0.5)
    torch.testing.assert_close(after, session(fresh, voice(32), PLAN), atol=0, rtol=0)


@pytest.mark.parametrize(
    "change", [{"heads": 5}, {"heads": 0}, {"outputs": []}, {"outputs": [4]}, {"left": 0}, {"reach": 0}]
)
def test_bad_encoder(change: dict[str, object]) -> None:
    with pytest.raises(BadModel, match="expected"):
        CachedEncoder(**{**SIZE, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("outputs", [0, 3])
def test_bad_head(outputs: int) -> None:
    with pytest.raises(BadModel, match="expected a divisor of features 128"):
        CachedHead(labels=7, features=128, outputs=outputs, width=32, hidden=24)


@pytest.mark.parametrize(("plan", "says"), [(Plan(2, 16, 16), "left 2, expected 3"), (Plan(99, 16, 18), "right 18")])
def test_bad_plan(plan: Plan, says: str) -> None:
    with pytest.raises(BadModel, match=says):
        make().check("live", plan)


def test_weights_of_a_model_folder_travel(tmp_path: Path) -> None:
    network = make()
    torch.save(network.state_dict(), tmp_path / "weights")
    again = make()
    again.load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
    torch.testing.assert_close(session(again, voice(32), PLAN), session(network, voice(32), PLAN))
