"""What a cached encoder follows."""

import pytest
import torch

from sedstream.encoders.cached import BEFORE, BEHIND, CachedEncoder
from sedstream.encoders.whisper import WhisperEncoder
from sedstream.errors import BadModel
from sedstream.grid import HOP
from sedstream.training.batches import Batch
from sedstream.training.teacher import SHORT, Teacher, normalised, parts

FRAMES = 120
WHOLE = torch.zeros(8, FRAMES, dtype=torch.int16)


def sounds(seed: int, rows: int = 8) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(rows, (BEFORE + FRAMES + BEHIND) * HOP) * 0.1


@torch.inference_mode()
def teach(*, places: float, width: int = 32) -> Teacher:
    """Of a Whisper whose positions are as large as told: at 1 as large as what is heard."""
    torch.manual_seed(0)
    whisper = WhisperEncoder(mels=80, width=width, heads=2, layers=1, outputs=[1], positions=200).eval()
    whisper.embed_positions.weight.normal_(0, places)
    return Teacher(whisper, [sounds(n) for n in range(16)])


@torch.inference_mode()
def test_positions_are_taken_off_and_sounds_are_not() -> None:
    teacher = teach(places=1)
    assert teacher.usual.shape == (BEFORE + FRAMES + BEHIND, 1, 32)
    torch.testing.assert_close(teacher.usual.mean(0), torch.zeros(1, 32), atol=1e-5, rtol=0)

    clean = sounds(19)
    theirs = teacher.whisper(clean[:, BEFORE * HOP : -BEHIND * HOP])
    freed = normalised(theirs, 1) - teacher.usual[:FRAMES]
    # Which position a frame has explains most of what Whisper says of noise, and next to nothing of what is followed.
    told, left = (x.mean(0).var(0).sum() / x.flatten(0, 1).var(0).sum() for x in (normalised(theirs, 1), freed))
    assert told > 0.5
    assert left < 0.2
    # Who follows the sound is nearer than who says the same of all; Whisper itself is not at distance 0.
    unmoved = theirs.mean((0, 1), keepdim=True).expand_as(theirs)
    assert 0 < teacher.distance(freed.flatten(2), clean, WHOLE) < teacher.distance(unmoved, clean, WHOLE)
    assert teacher.distance(theirs, clean, WHOLE) > teacher.distance(freed.flatten(2), clean, WHOLE)


@torch.inference_mode()
def test_utterances_are_heard_alone() -> None:
    """Where a window has two, what is followed of one does not know the other."""
    teacher = teach(places=0)
    clean, other = sounds(19), sounds(20)
    cut = (BEFORE + 50) * HOP
    other[:, cut:] = clean[:, cut:]  # the same second utterance after another first one
    piece = WHOLE.clone()
    piece[:, 50:] = 1
    second = piece.clone()
    second[:, :50] = -1  # of none
    freed = normalised(teacher.whisper(clean[:, cut : -BEHIND * HOP]), 1) - teacher.usual[: FRAMES - 50]
    found = torch.cat([torch.zeros(8, 50, 32), freed.flatten(2)], 1)
    assert teacher.distance(found, clean, second) == teacher.distance(found, other, second)
    assert teacher.distance(found, clean, piece) != teacher.distance(found, other, piece)
    assert teacher.distance(found, clean, second) < 0.5 * teacher.distance(found, clean, WHOLE)


def test_parts_of_utterances() -> None:
    """Whole and cut ones, without silence and without scraps."""
    rows = [[0] * 40 + [1] * 35 + [-1] * 45, [3] * (SHORT - 1) + [-1] * 60 + [4] * SHORT + [-1]]
    assert list(parts(torch.tensor(rows, dtype=torch.int16))) == [(0, 0, 40), (0, 40, 75), (1, 89, 119)]


def test_nothing_to_follow() -> None:
    features = torch.randn(8, FRAMES, 32, requires_grad=True)
    distance = teach(places=1).distance(features, sounds(1), WHOLE - 1)
    distance.backward()
    assert distance == 0
    assert features.grad is not None
    assert not features.grad.any()


@torch.no_grad()
def test_what_a_wider_one_says_is_guessed() -> None:
    """No other layer guesses better, and it guesses what it has not seen."""
    teacher = teach(places=0, width=48)
    torch.manual_seed(1)
    encoder = CachedEncoder(mels=80, width=32, heads=2, layers=1, outputs=[1], left=40, reach=20).eval()

    def batch(seed: int) -> Batch:
        samples = sounds(seed)[:, : (BEFORE + 112 + BEHIND) * HOP]  # whole chunks
        return Batch(samples, samples, *[torch.zeros(0)] * 3, WHOLE[:, :112])

    batches = [batch(n) for n in range(20, 28)]
    guess = teacher.guess(encoder, batches, 16)
    assert guess.weight.shape == (48, 32)

    def distance(batch: Batch) -> float:
        return float(teacher.distance(encoder(batch.heard, 16), batch.clean, batch.piece, guess))

    told = sum(map(distance, batches))
    unseen = distance(batch(30))
    for parameter in guess.parameters():
        best = parameter.clone()
        step = 0.01 * torch.randn_like(parameter)  # the same for all of a row would be none: features have mean 0
        for change in (step, -step):
            parameter += change
            assert sum(map(distance, batches)) > told
            parameter.copy_(best)
    guess.weight.zero_()  # the same is said of all
    assert unseen < 0.9 * distance(batch(30))
    with pytest.raises(BadModel, match="Bad speech to follow"):
        teacher.guess(encoder, [batches[0]._replace(piece=WHOLE - 1)], 16)
