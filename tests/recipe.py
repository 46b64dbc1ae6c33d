"""Checkpoints as SpeechBrain's emotion diarization recipe saves them, tiny and random, and its own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.inference.diarization import Speech_Emotion_Diarization
from speechbrain.integrations.huggingface.hubert import HuBERT
from speechbrain.integrations.huggingface.wav2vec2 import Wav2Vec2
from speechbrain.integrations.huggingface.wavlm import WavLM
from speechbrain.nnet.linear import Linear

WRAPPERS = {"Wav2Vec2": Wav2Vec2, "Hubert": HuBERT, "WavLM": WavLM}
HYPERPARAMETERS = """
# Model: {name} for Emotion Diarization
wav2vec2_hub: {hub}
window_length: 1 # win_len = 0.02 * 1 = 0.02s
stride: 1
encoder_dim: {width}
out_n_neurons: 4

input_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

wav2vec2: !new:{module}
    source: !ref <wav2vec2_hub>
    output_norm: True
    freeze: False
    save_path: {hub}

avg_pool: !new:speechbrain.nnet.pooling.Pooling1d
    pool_type: "avg"
    kernel_size: !ref <window_length>
    stride: !ref <stride>
    ceil_mode: True

output_mlp: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <encoder_dim>
    n_neurons: !ref <out_n_neurons>
    bias: False

model: !new:torch.nn.ModuleList
    - [!ref <output_mlp>]

log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

modules:
    input_norm: !ref <input_norm>
    wav2vec: !ref <wav2vec2>
    wav2vec2: !ref <wav2vec2>
    output_mlp: !ref <output_mlp>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        wav2vec2: !ref <wav2vec2>
        model: !ref <model>
        label_encoder: !ref <label_encoder>
    paths:
        label_encoder: {checkpoint}/label_encoder.txt
"""


def save(folder: Path, family: str, settings: dict[str, Any], normalise: bool = True, spread: float = 0.1) -> Path:
    """A checkpoint in ``folder/checkpoint``, of transformers' ``family`` with the ``settings`` of its configuration."""
    hub, checkpoint = folder / "hub", folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    torch.manual_seed(3)
    getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**settings)).save_pretrained(hub)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise).save_pretrained(hub)
    wrapper = WRAPPERS[family](str(hub), str(hub), output_norm=True)
    width = settings["hidden_size"]
    matrix = torch.nn.ModuleList([Linear(input_size=width, n_neurons=4, bias=False)])
    with torch.no_grad():
        for parameter in [*wrapper.parameters(), *matrix.parameters()]:
            parameter += spread * torch.randn_like(parameter)
    torch.save(wrapper.state_dict(), checkpoint / "wav2vec2.ckpt")
    torch.save(matrix.state_dict(), checkpoint / "model.ckpt")
    labels = CategoricalEncoder()
    labels.update_from_iterable("nsha")
    labels.save(checkpoint / "label_encoder.txt")
    kind = WRAPPERS[family]
    module = f"{kind.__module__}.{kind.__name__}"
    text = HYPERPARAMETERS.format(name=family, hub=hub, width=width, module=module, checkpoint=checkpoint)
    (checkpoint / "hyperparams.yaml").write_text(text)
    # What a checkpoint of another size than the published ones needs said beside its tensors.
    for name in ("config.json", "preprocessor_config.json"):
        (checkpoint / name).write_bytes((hub / name).read_bytes())
    return checkpoint


def reference(checkpoint: Path) -> Speech_Emotion_Diarization:
    """SpeechBrain's own model of a checkpoint."""
    found = Speech_Emotion_Diarization.from_hparams(source=str(checkpoint), savedir=str(checkpoint.parent / "copy"))
    return found.eval()
