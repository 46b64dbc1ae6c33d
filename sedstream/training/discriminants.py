"""The head's direct logits in closed form: linear discriminants of the features of single frames.

What is trained by gradients learns the voices, rooms and ways of acting of its corpora as well, and fails where these
are others. Fisher's discriminants know nothing but means and one covariance, and here no corpus counts more than
another: emotion c is where the mean over corpora of what they call c is, and all that frames of c differ by around it,
between corpora too, is noise that the covariance S takes out. With m_c the mean, and each emotion as likely as another,

    logit_c = m_c' S⁻¹ x - m_c' S⁻¹ m_c / 2

(Fisher, "The use of multiple measurements in taxonomic problems", 1936; S is drawn towards a sphere, as in Friedman,
"Regularized discriminant analysis", 1989).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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
SHARE = 0.3
"""Of these logits that is added: frames side by side are not so many witnesses. Chosen on the valid split, where 0.2 to
0.5 are about as good."""

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
    """Fill the direct matrix of a learner's head, which is a `CachedHead` that has one.

    The utterances are heard as they are: fitted to what the training makes of them, with noise and telephones, it was
    worse on the valid split, and no better through telephones and noise."""
    encoder, head = cast(CachedEncoder, learner.encoder), cast(CachedHead, learner.head)
    means: dict[int, list[Tensor]] = defaultdict(list)
    squares: dict[int, list[Tensor]] = defaultdict(list)
    for by_emotion in heard.values():
        for emotion, utterances in by_emotion.items():
            frames = torch.cat([head.normalised(encode(encoder, loud(u)))[0, ::EVERY] for u in utterances])
            means[emotion].append(frames.mean(0).double())
            squares[emotion].append((frames.T @ frames / len(frames)).double())
    weight, bias = discriminants(means, squares, head.emotion.out_features)
    direct = cast(nn.Linear, head.direct)
    direct.weight.copy_(SHARE * weight)
    direct.bias.copy_(SHARE * bias)


def discriminants(
    means: Mapping[int, Sequence[Tensor]], squares: Mapping[int, Sequence[Tensor]], labels: int
) -> tuple[Tensor, Tensor]:
    """For each emotion the means `[D]` and the mean squares `[D, D]` of its corpora -> matrix `[labels, D]` and
    constants `[labels]`, float32; zero for an emotion that no corpus has."""
    known = sorted(means)
    centre = torch.stack([torch.stack(list(means[c])).mean(0) for c in known])
    around = [torch.stack(list(squares[c])).mean(0) - torch.outer(m, m) for c, m in zip(known, centre, strict=True)]
    spread = torch.stack(around).mean(0)
    spread = spread + SHRINKAGE * spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
    found = torch.linalg.solve(spread, centre.T).T
    constants = -(found * centre).sum(1) / 2
    weight, bias = torch.zeros(labels, centre.shape[1]), torch.zeros(labels)
    # The same for all labels changes nothing, and small numbers lose less in 16 bits.
    weight[known] = (found - found.mean(0)).float()
    bias[known] = (constants - constants.mean()).float()
    return weight, bias


def loud(utterance: Utterance) -> NDArray[np.float32]:
    """Its samples `[n]`, full scale 1."""
    return utterance.samples.astype(np.float32) / np.float32(32768)


def encode(encoder: CachedEncoder, sound: NDArray[np.float32]) -> Tensor:
    """Features of the frames of samples `[n]`, as in the plan live: `[1, T, D]`."""
    samples = torch.from_numpy(sound)
    frames = -(-len(samples) // HOP)
    chunk, _ = LIVE
    behind = -(-frames // chunk) * chunk * HOP + BEHIND * HOP - len(samples)
    features: Tensor = encoder(F.pad(samples, (BEFORE * HOP, behind))[None], chunk)
    return features[:, :frames]
