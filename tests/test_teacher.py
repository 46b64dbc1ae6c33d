"""What a cached encoder follows."""

import torch

from sedstream.encoders.cached import BEFORE, BEHIND
from sedstream.encoders.whisper import WhisperEncoder
from sedstream.grid import HOP
from sedstream.training.teacher import Teacher, normalised

FRAMES = 60


def sounds(seed: int, rows: int = 8) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randn(rows, (BEFORE + FRAMES + BEHIND) * HOP) * 0.1


@torch.inference_mode()
def test_positions_are_taken_off_and_sounds_are_not() -> None:
    torch.manual_seed(0)
    whisper = WhisperEncoder(mels=80, width=32, heads=2, layers=1, outputs=[1], positions=100).eval()
    whisper.embed_positions.weight.normal_()  # as large as what is heard
    teacher = Teacher(whisper, [sounds(n) for n in range(8)])
    assert teacher.usual.shape == (FRAMES, 1, 32)
    torch.testing.assert_close(teacher.usual.mean(0), torch.zeros(1, 32), atol=1e-5, rtol=0)

    clean = sounds(9)
    theirs = whisper(clean)[:, BEFORE:-BEHIND]
    freed = normalised(theirs, 1) - teacher.usual
    # Which position a frame has explains most of what Whisper says of noise, and next to nothing of what is followed.
    told, left = (x.mean(0).var(0).sum() / x.flatten(0, 1).var(0).sum() for x in (normalised(theirs, 1), freed))
    assert told > 0.5
    assert left < 0.2
    # Who follows the sound is nearer than who says the same of all; Whisper itself is not at distance 0.
    unmoved = theirs.mean((0, 1), keepdim=True).expand_as(theirs)
    assert 0 < teacher.distance(freed.flatten(2), clean) < teacher.distance(unmoved, clean)
    assert teacher.distance(theirs, clean) > teacher.distance(freed.flatten(2), clean)
