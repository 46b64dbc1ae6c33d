"""The head's direct logits in closed form: linear discriminants of the features of single frames.

What is trained by gradients learns the voices, rooms and ways of acting of its corpora as well, and fails where these
are others. Fisher's discriminants know nothing but means and one covariance, and here no corpus counts more than
another: emotion c is where the mean over corpora of what they call c is, and all that frames of c differ by around it,
between corpora too, is noise that the covariance S takes out. With m_c the mean and p_c how often c is expected,

    logit_c = m_c' S⁻¹ x - m_c' S⁻¹ m_c / 2 + log p_c

(Fisher, "The use of multiple measurements in taxonomic problems", 1936; S is drawn towards a sphere, as in Friedman,
"Regularized discriminant analysis", 1989).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.cached import BEFORE, BEHIND, CachedEncoder
from ..encoders.heads import CachedHead
from ..grid import HOP
from .brain import LIVE, Learner
from .corpora import Utterance

MOST = 150
"""Utterances of a corpus and an emotion: with a third of the speech there is the error is the same."""
LEAST = 4
"""Emotions of a corpus that takes part: of fewer one cannot tell what is the emotion's and what the corpus's."""
EVERY = 5
"""Of so many frames one: neighbours are alike."""
SHRINKAGE = 0.03
"""Of the sphere, relative to the mean variance."""
NEUTRAL = 0.4
"""How often the first label is expected; the others share the rest."""

Heard = Mapping[str, Mapping[int, Sequence[Utterance]]]
"""Utterances by corpus and emotion."""


def begin(learner: Learner, utterances: Sequence[Utterance], seed: int) -> Heard:
    """What to fit the direct matrix to in the end; until then it is zero, so that the rest learns as if it was alone.

    Nothing, and the matrix stays as it is, if there is none, or if the utterances are not of two corpora at least."""
    found: dict[str, dict[int, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for number in np.random.default_rng(seed).permutation(len(utterances)):
        utterance = utterances[number]
        if utterance.emotion >= 0 and len(same := found[utterance.corpus][utterance.emotion]) < MOST:
            same.append(utterance)
    several = {corpus: by_emotion for corpus, by_emotion in found.items() if len(by_emotion) >= LEAST}
    direct = getattr(learner.head, "direct", None)
    if direct is None or len(several) < 2:
        return {}
    nn.init.zeros_(direct.weight)
    nn.init.zeros_(direct.bias)
    return several


@torch.no_grad()
def fit(learner: Learner, heard: Heard) -> None:
    """Fill the direct matrix of a learner's head, which is a `CachedHead` that has one."""
    encoder, head = cast(CachedEncoder, learner.encoder), cast(CachedHead, learner.head)
    means: dict[int, list[Tensor]] = defaultdict(list)
    squares: dict[int, list[Tensor]] = defaultdict(list)
    for by_emotion in heard.values():
        for emotion, utterances in by_emotion.items():
            frames = torch.cat([head.normalised(encode(encoder, utterance))[0, ::EVERY] for utterance in utterances])
            means[emotion].append(frames.mean(0).double())
            squares[emotion].append((frames.T @ frames / len(frames)).double())
    labels = head.emotion.out_features
    prior = torch.full((labels,), (1 - NEUTRAL) / max(1, labels - 1), dtype=torch.float64)
    prior[0] = NEUTRAL
    weight, bias = discriminants(means, squares, prior)
    direct = cast(nn.Linear, head.direct)
    direct.weight.copy_(weight)
    direct.bias.copy_(bias)


def discriminants(
    means: Mapping[int, Sequence[Tensor]], squares: Mapping[int, Sequence[Tensor]], prior: Tensor
) -> tuple[Tensor, Tensor]:
    """For each emotion of `prior` `[C]` the means `[D]` and the mean squares `[D, D]` of its corpora -> matrix `[C, D]`
    and constants `[C]`, float32; zero for an emotion that no corpus has."""
    known = sorted(means)
    centre = torch.stack([torch.stack(list(means[c])).mean(0) for c in known])
    share = prior[known] / prior[known].sum()
    around = [torch.stack(list(squares[c])).mean(0) - torch.outer(m, m) for c, m in zip(known, centre, strict=True)]
    spread = torch.einsum("c,cde->de", share, torch.stack(around))
    spread = spread + SHRINKAGE * spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
    found = torch.linalg.solve(spread, centre.T).T
    weight = torch.zeros(len(prior), centre.shape[1])
    bias = torch.zeros(len(prior))
    weight[known] = found.float()
    bias[known] = (share.log() - (found * centre).sum(1) / 2).float()
    # The same for all labels changes nothing, and small numbers lose less in 16 bits.
    weight[known] -= weight[known].mean(0)
    bias[known] -= bias[known].mean()
    return weight, bias


def encode(encoder: CachedEncoder, utterance: Utterance) -> Tensor:
    """Features of the frames of an utterance, as in the plan live: `[1, T, D]`."""
    samples = torch.from_numpy(utterance.samples.astype(np.float32) / 32768)
    frames = -(-len(samples) // HOP)
    chunk, _ = LIVE
    behind = -(-frames // chunk) * chunk * HOP + BEHIND * HOP - len(samples)
    features: Tensor = encoder(F.pad(samples, (BEFORE * HOP, behind))[None], chunk)
    return features[:, :frames]
