"""Emotion logits of single frames, straight from their features: those of the corpora together, and of each by itself.

Corpora call different sounds by the same name, and one boundary for all fits none of them. So each has its own, and
they answer by how much the frame sounds like them (Jacobs et al., "Adaptive mixtures of local experts", 1991):

    logit_c = share · (pool_c(x) + log Σ_k gate_k(x) own_k(c | x)) / 2

where pool is linear, gate and own are softmaxes of linear functions. The mixture knows the corpora, the pool what they
have in common: together they are better than either, on voices of these corpora and on those of others.

Another linear function says how strongly the emotion is spoken, whichever it is, and is added to the logit of arousal.
"""

import torch
from torch import Tensor, nn


class Experts(nn.Module):
    """It is fitted, not trained (see `training.discriminants` and `training.intensity`), and says nothing until then.

    Args:
        labels: number of emotions C.
        features: width D of what it reads.
        corpora: number of corpora K.
    """

    def __init__(self, *, labels: int, features: int, corpora: int) -> None:
        super().__init__()
        self.pool = nn.Linear(features, labels)
        self.gate = nn.Linear(features, corpora)
        self.own = nn.Linear(features, corpora * labels)
        self.share = nn.Parameter(torch.zeros(()))
        self.intensity = nn.Linear(features, 1)
        for parameter in self.intensity.parameters():
            nn.init.zeros_(parameter)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised features `[..., D]` -> logits `[..., C]`."""
        gate = self.gate(x).log_softmax(-1)
        own = self.own(x).unflatten(-1, (self.gate.out_features, -1)).log_softmax(-1)
        mixture = (gate[..., None] + own).logsumexp(-2)
        logits: Tensor = self.share * (self.pool(x) + mixture) / 2
        return logits
