"""audEERING's checkpoint `wav2vec2-large-robust-12-ft-emotion-msp-dim`: arousal, dominance and valence of a window.

Source: Wagner et al., "Dawn of the transformer era in speech emotion recognition: closing the valence gap", 2023. The
checkpoint's terms are CC BY-NC-SA 4.0: not for commercial use. It knows no emotion classes, so it is no
`sedstream.Model`.
"""

from pathlib import Path

from torch import Tensor, nn

from ..errors import BadModel
from . import checkpoints
from .heads import AffectHead
from .wav2vec import Wav2VecEncoder


class WindowAffect(nn.Module):
    """Encoder and head: samples in, arousal, dominance and valence out."""

    def __init__(self, encoder: Wav2VecEncoder, head: AffectHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, samples: Tensor) -> Tensor:
        """Samples float32 `[B, W]` at 16 kHz -> arousal, dominance and valence `[B, 3]`, about 0 to 1."""
        answer: Tensor = self.head(self.encoder(samples))
        return answer


def load(folder: Path) -> WindowAffect:
    """The model of a folder as the hub has it, ready to run.

    Raises:
        BadModel: its tensors are missing, cannot be read, or are of another model.
    """
    path = next((folder / name for name in checkpoints.FILES if (folder / name).is_file()), None)
    if path is None:
        raise BadModel(f"Bad checkpoint '{folder}', expected a folder with {' or '.join(checkpoints.FILES)}")
    tensors = checkpoints.read(path)
    converted = checkpoints.convert(tensors)
    arguments = checkpoints.describe(converted, folder / "config.json")
    layers = arguments["layers"]
    encoder = Wav2VecEncoder(**arguments, outputs=[layers], wave="normalised", epsilon=checkpoints.EPSILON)
    head = AffectHead(features=encoder.features)
    own = {
        name.removeprefix("classifier."): tensor for name, tensor in tensors.items() if name.startswith("classifier.")
    }
    try:
        encoder.load_state_dict(converted)
        head.load_state_dict(own)
    except RuntimeError as error:
        raise BadModel(f"Bad checkpoint '{path}', expected audEERING's: {' '.join(str(error).split())}") from error
    return WindowAffect(encoder, head).eval()
