"""The head's experts in closed form: linear discriminants of the features of single frames.

What is trained by gradients learns the voices, rooms and ways of acting of its corpora as well, and fails where these
are others. Fisher's discriminants know nothing but means and covariances, and here no corpus counts more than another.
With m_ck the mean of frames that corpus k calls c, S_ck their covariance, S the mean of all S_ck and S_k of those of k,

    gaussian(m, S)(x) = m' S⁻¹ x - m' S⁻¹ m / 2
    pool_c = gaussian(mean of m_ck over k, S + scatter of the m_ck around that) + prior_c
    gate_k = gaussian(mean of m_ck over c, S + scatter of the m_ck around that)
    own_ck = gaussian(m_ck, S / 4 + 3 S_k / 4) + prior_c

(Fisher, "The use of multiple measurements in taxonomic problems", 1936; each covariance is drawn towards that of all
corpora and towards a sphere: Friedman, "Regularized discriminant analysis", 1989).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..encoders.cached import CachedEncoder
from ..encoders.experts import Experts
from ..encoders.heads import CachedHead
from .batches import cut
from .brain import LIVE, Learner
from .concatenations import NEUTRAL, SHARES, Speakers
from .corpora import Utterance

WINDOWS = 800
"""Of a corpus that are heard: recordings of several utterances, for frames know what was said before them. Clean ones:
discriminants of noise and telephones too were worse on the valid split, and no better through these."""
TOGETHER = 8
"""Windows that are heard at once."""
LEAST = 4
"""Emotions of a corpus that takes part: of fewer one cannot tell what is the emotion's and what the corpus's."""
EVERY = 4
"""Of so many frames one: neighbours are alike."""
SHRINKAGE = 0.03
"""Of the sphere, relative to the mean variance."""
OWN = 0.75
"""Of its own covariance in what a corpus uses."""
PRIOR = 2.4
"""Times as likely as any emotion neutral is: in concatenations nearly half of the frames are neutral."""
SHARE = 0.8
"""Of these logits that is added: frames side by side are not so many witnesses. Chosen on the valid split."""
NEVER = -30.0
"""Logit of what a corpus does not know."""

Heard = Mapping[str, Speakers]
"""The voices of each corpus."""


class Moments(NamedTuple):
    """Of the frames of a corpus and an emotion: the mean `[D]` and the covariance `[D, D]`, float64."""

    mean: Tensor
    covariance: Tensor


Known = dict[str, Mapping[int, Moments]]
"""The moments of corpora by emotion."""


class Linear(NamedTuple):
    """A matrix `[outputs, D]` and constants `[outputs]`, float32."""

    weight: Tensor
    bias: Tensor


def begin(learner: Learner, utterances: Sequence[Utterance]) -> Heard:
    """What to fit the experts to in the end; until then they are silent, so that the rest learns as if it was alone.

    Nothing, and the experts stay as they are, if there are none, or if the utterances are not of two corpora at least.
    """
    found: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.emotion >= 0 and utterance.corpus in SHARES:
            found[utterance.corpus].append(utterance)
    several = {corpus: said for corpus, said in found.items() if len({u.emotion for u in said}) >= LEAST}
    experts = getattr(learner.head, "experts", None)
    if experts is None or len(several) < 2:
        return {}
    nn.init.zeros_(experts.share)
    for parameter in experts.intensity.parameters():
        nn.init.zeros_(parameter)
    most_said = sorted(several, key=lambda corpus: (-len(several[corpus]), corpus))[: experts.gate.out_features]
    return {corpus: Speakers(several[corpus]) for corpus in most_said}


@torch.no_grad()
def fit(learner: Learner, heard: Heard, seed: int, known: Known | None = None) -> Tensor:
    """Fill the experts of a learner's head, which is a `CachedHead` with some, from random windows of the voices; how
    corpora differ, as `between` has it.

    ``known``: of corpora that a learner with the same encoder heard before; those that are not in it are put there."""
    head = cast(CachedHead, learner.head)
    experts = cast(Experts, head.experts)
    known = {} if known is None else known
    for corpus, voices in heard.items():
        if corpus not in known:
            known[corpus] = _moments(learner, voices, np.random.default_rng([seed, *corpus.encode()]))
    moments = [known[corpus] for corpus in heard]
    pool, gate, own = discriminants(moments, head.emotion.out_features, experts.gate.out_features)
    for layer, found in ((experts.pool, pool), (experts.gate, gate), (experts.own, own)):
        layer.weight.copy_(found.weight)
        layer.bias.copy_(found.bias)
    experts.share.fill_(SHARE)
    return between(moments)


def discriminants(corpora: Sequence[Mapping[int, Moments]], labels: int, most: int) -> tuple[Linear, Linear, Linear]:
    """The moments of corpora by emotion -> pool `[labels]`, gate `[most]` and own `[most, labels]`, flat.

    Corpora up to `most` that there are not, and emotions that a corpus does not know, get `NEVER`."""
    all_of = [moments for by_emotion in corpora for moments in by_emotion.values()]
    within = torch.stack([m.covariance for m in all_of]).mean(0)
    prior = torch.zeros(labels)
    prior[NEUTRAL] = math.log(PRIOR)

    by_label = _by_label(corpora)
    by_corpus = [torch.stack([moments.mean for moments in of.values()]) for of in corpora]
    pool = _gaussians([means.mean(0) for means in by_label.values()], within + between(corpora))
    gate = _gaussians([means.mean(0) for means in by_corpus], within + _scatter(by_corpus))
    weight = torch.zeros(most, labels, len(within))
    bias = torch.zeros(most, labels)
    for number, (by_emotion, means) in enumerate(zip(corpora, by_corpus, strict=True)):
        covariance = torch.stack([moments.covariance for moments in by_emotion.values()]).mean(0)
        found = _gaussians(list(means), torch.lerp(within, covariance, OWN))
        weight[number], bias[number] = _placed(found, list(by_emotion), labels)
    own = Linear(weight.flatten(0, 1), (bias + prior).flatten())
    pool = _placed(pool, list(by_label), labels)
    return Linear(pool.weight, pool.bias + prior), _placed(gate, range(len(corpora)), most), own


def _gaussians(means: Sequence[Tensor], covariance: Tensor) -> Linear:
    """Log densities of Gaussians with means `[D]` and one covariance `[D, D]`, but for what they have in common."""
    centre = torch.stack(list(means))
    sphere = SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
    weight = torch.linalg.solve(covariance + sphere, centre.T).T
    bias = -(weight * centre).sum(1) / 2
    # The same for all changes nothing, and small numbers lose less in 16 bits.
    return Linear((weight - weight.mean(0)).float(), (bias - bias.mean()).float())


def _scatter(groups: Sequence[Tensor]) -> Tensor:
    """Covariance `[D, D]` of the rows of groups `[n, D]` around the mean of their group, over all rows."""
    apart = torch.cat([group - group.mean(0) for group in groups])
    return apart.T @ apart / len(apart)


def _placed(found: Linear, places: Sequence[int], size: int) -> Linear:
    """The outputs at their places of `size`, `NEVER` at the others."""
    weight, bias = torch.zeros(size, found.weight.shape[1]), torch.full((size,), NEVER)
    weight[list(places)], bias[list(places)] = found
    return Linear(weight, bias)


def between(corpora: Sequence[Mapping[int, Moments]]) -> Tensor:
    """Covariance `[D, D]` of what corpora call by the same name, around its mean over the corpora."""
    return _scatter(list(_by_label(corpora).values()))


def _by_label(corpora: Sequence[Mapping[int, Moments]]) -> dict[int, Tensor]:
    """Of each emotion that is known, the means `[n, D]` of the n corpora that know it."""
    known = sorted({c for of in corpora for c in of})
    return {c: torch.stack([of[c].mean for of in corpora if c in of]) for c in known}


def _moments(learner: Learner, voices: Speakers, rng: np.random.Generator) -> dict[int, Moments]:
    """Of the emotions of one corpus, each frame heard as in the plan live."""
    encoder, head = cast(CachedEncoder, learner.encoder), cast(CachedHead, learner.head)
    chunk, _ = LIVE
    sums: dict[int, _Sums] = defaultdict(lambda: _Sums(encoder.features))
    for _ in range(WINDOWS // TOGETHER):
        windows = [cut(voices, rng) for _ in range(TOGETHER)]
        with torch.autocast("cpu", torch.bfloat16):  # the numbers of the training
            found = encoder(torch.from_numpy(np.stack([samples for samples, _ in windows])), chunk)
        features = head.normalised(found.float())
        for row, (_, targets) in zip(features, windows, strict=True):
            known = np.flatnonzero((targets.emotion >= 0) & (targets.weight > 0))[::EVERY]
            for emotion in np.unique(targets.emotion[known]).tolist():
                sums[emotion].add(row[known[targets.emotion[known] == emotion]])
    return {emotion: found.moments() for emotion, found in sorted(sums.items())}


class _Sums:
    """Of frames `[n, D]`, as they come."""

    def __init__(self, features: int) -> None:
        self._count = 0
        self._first = torch.zeros(features, dtype=torch.float64)
        self._second = torch.zeros(features, features, dtype=torch.float64)

    def add(self, frames: Tensor) -> None:
        self._count += len(frames)
        self._first += frames.sum(0)
        self._second += frames.T @ frames

    def moments(self) -> Moments:
        mean = self._first / self._count
        return Moments(mean, self._second / self._count - torch.outer(mean, mean))
