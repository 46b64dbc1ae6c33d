"""What a cached encoder follows."""

import torch

from sedstream.encoders.cached import BEFORE, BEHIND
from sedstream.encoders.whisper import WhisperEncoder
from sedstream.grid import HOP
from sedstream.training.teacher import SHORT, Teacher, normalised, parts

FRAMES = 120
WHOLE = torch.zeros(8, FRAMES, dtype=torch.int16)


def sounds(seed: int, rows: int = 8) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(rows, (BEFORE + FRAMES + BEHIND) * HOP) * 0.1


@torch.inference_mode()
def teach(*, places: float) -> Teacher:
    """Of a Whisper whose positions are as large as told: at 1 as large as what is heard."""
    torch.manual_seed(0)
    whisper = WhisperEncoder(mels=80, width=32, heads=2, layers=1, outputs=[1], positions=200).eval()
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
