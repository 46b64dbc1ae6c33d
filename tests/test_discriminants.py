"""The head's experts in closed form, against scipy's Gaussians and on made-up corpora."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from test_training import ENCODER, HEAD, hum

from sedstream.encoders.cached import CachedEncoder
from sedstream.encoders.heads import CachedHead
from sedstream.grid import HOP
from sedstream.training import discriminants
from sedstream.training.batches import cut
from sedstream.training.brain import Learner
from sedstream.training.concatenations import Speakers
from sedstream.training.corpora import Utterance
from sedstream.training.discriminants import OWN, PRIOR, SHRINKAGE, Moments, begin, fit

LABELS = 5
ONE, TWO, THREE = "EmoDB", "TESS", "ASED"


def said(corpus: str, emotion: int, pitch: float, seed: int) -> Utterance:
    """Half a second of a hum; each corpus at a level of its own."""
    samples = (hum(pitch, 0.5, seed) * {ONE: 20_000, TWO: 2_000}.get(corpus, 9_000)).astype(np.int16)
    known = {"corpus": corpus, "speaker": f"{corpus}/1", "split": "train", "emotion": emotion}
    known |= {"arousal": 0.5, "valence": 0.5, "weight": 1.0}
    return Utterance(samples, np.ones(-(-len(samples) // HOP), np.bool_), **known)  # type: ignore[arg-type]


def learner(experts: int = 3) -> Learner:
    torch.manual_seed(0)
    head = CachedHead(labels=LABELS, **{**HEAD, "experts": experts})  # type: ignore[arg-type]
    return Learner(CachedEncoder(**ENCODER), head).eval()


def corpora(names: tuple[str, ...], emotions: int, each: int, first: int = 0) -> list[Utterance]:
    """Emotions are pitches, a little other in each corpus."""
    return [
        said(name, emotion, 90 * 1.5**emotion * (1 + 0.04 * number) * (1 + 0.01 * n), first + n)
        for number, name in enumerate(names)
        for emotion in range(emotions)
        for n in range(each)
    ]


def test_equals_gaussians() -> None:
    """Differences of logits are those of the logarithms of density, and of the prior of label 0, which is neutral."""
    random = np.random.default_rng(0)
    means = random.normal(size=(2, 3, 6))  # of two corpora, three emotions
    roots = random.normal(size=(2, 3, 6, 6))
    within = roots @ roots.swapaxes(-1, -2)
    made = [
        {c: Moments(torch.from_numpy(means[k, c]), torch.from_numpy(within[k, c])) for c in range(3)} for k in range(2)
    ]
    pool, gate, own = discriminants.discriminants(made, 3, 2)
    x = random.normal(size=(20, 6))

    def check(found: discriminants.Linear, centres: Any, spread: Any, prior: Any) -> None:
        sphere = SHRINKAGE * np.trace(spread) / 6 * np.eye(6)
        expected = np.stack([multivariate_normal(m, spread + sphere).logpdf(x) for m in centres], 1) + prior
        logits = x @ found.weight.double().numpy().T + found.bias.double().numpy()
        np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-4)

    def scatter(apart: Any) -> Any:
        return np.einsum("ckd,cke->de", apart, apart) / 6

    neutral = np.log([PRIOR, 1, 1])
    mean = within.mean((0, 1))
    check(pool, means.mean(0), mean + scatter(means - means.mean(0)), neutral)
    check(gate, means.mean(1), mean + scatter(means - means.mean(1, keepdims=True)), 0)
    for k in range(2):
        mine = discriminants.Linear(own.weight[3 * k : 3 * k + 3], own.bias[3 * k : 3 * k + 3])
        check(mine, means[k], (1 - OWN) * mean + OWN * within[k].mean(0), neutral)


@torch.no_grad()
def test_what_a_corpus_does_not_know() -> None:
    """An emotion that a corpus has not, one that none has, and a place for another corpus: all are as good as never."""
    model = learner()
    assert isinstance(model.head, CachedHead)
    assert model.head.experts is not None
    width = model.head.experts.pool.in_features
    made = [
        {c: Moments(torch.randn(width).double(), torch.eye(width).double()) for c in known}
        for known in ((0, 1, 2), (0, 1, 3))
    ]
    found = discriminants.discriminants(made, LABELS, 3)
    for layer, values in zip(
        (model.head.experts.pool, model.head.experts.gate, model.head.experts.own), found, strict=True
    ):
        layer.weight.copy_(values.weight)
        layer.bias.copy_(values.bias)
    x = torch.randn(50, width)
    own = model.head.experts.own(x).unflatten(1, (3, LABELS)).softmax(-1)
    assert own[:, 0, 3:].max() < 1e-6
    assert own[:, 1, [2, 4]].max() < 1e-6
    assert model.head.experts.gate(x).softmax(-1)[:, 2].max() < 1e-6
    assert model.head.experts.pool(x).softmax(-1)[:, 4].max() < 1e-6


def test_what_takes_part() -> None:
    """Corpora with several emotions, the largest ones, if there are two such; else nothing moves."""
    model = learner(2)
    assert isinstance(model.head, CachedHead)
    assert model.head.experts is not None
    model.head.experts.share.fill_(0.7)
    few = [*corpora((ONE,), 4, 1), *corpora((THREE,), 3, 1)]
    assert begin(model, few) == {}
    assert model.head.experts.share == torch.tensor(0.7), "one corpus says nothing about others"
    unknown = [said(TWO, -1, 100, 0), said("a name that training does not know", 0, 100, 0)]
    many = [*few, *corpora((TWO,), 4, 2), *corpora(("nEMO",), 4, 3), *unknown]
    chosen = begin(model, many)
    assert list(chosen) == ["nEMO", TWO]
    assert all(isinstance(voices, Speakers) for voices in chosen.values())
    assert model.head.experts.share == 0, "the recurrences learn as if nothing was beside them"
    assert begin(learner(0), many) == {}


@torch.no_grad()
def test_fits_what_it_never_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emotions of another corpus, by the frames alone; the recurrences know nothing yet."""
    monkeypatch.setattr(discriminants, "WINDOWS", 32)
    model = learner()
    assert isinstance(model.encoder, CachedEncoder)
    assert isinstance(model.head, CachedHead)
    assert model.head.experts is not None
    fit(model, begin(model, corpora((ONE, TWO), 4, 6)), 0)
    right = []
    rng = np.random.default_rng(0)
    voices = Speakers(corpora((THREE,), 4, 3, first=50))
    for _ in range(10):
        samples, targets = cut(voices, rng)
        logits = model.head.experts(model.head.normalised(model.encoder(torch.from_numpy(samples)[None], 16)))[0]
        known = (targets.emotion >= 0) & (targets.weight > 0)
        right.append(float((logits.argmax(-1).numpy() == targets.emotion)[known].mean()))
    assert np.mean(right) > 0.9


@torch.no_grad()
def test_what_was_heard_is_not_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same experts, whatever was heard before and beside; by the encoder that heard it."""
    monkeypatch.setattr(discriminants, "WINDOWS", 8)
    many = [*corpora((ONE,), 4, 3), *corpora((TWO,), 4, 4), *corpora((THREE,), 4, 5)]
    known: discriminants.Known = {}
    one, other, alone = learner(2), learner(2), learner(2)
    fit(one, begin(one, [u for u in many if u.corpus != ONE]), 0, known)
    assert set(known) == {TWO, THREE}
    before = dict(known)
    heard = begin(other, [u for u in many if u.corpus != THREE])
    between = fit(other, heard, 0, known)
    assert set(known) == {ONE, TWO, THREE}
    assert all(known[corpus] is moments for corpus, moments in before.items())
    assert torch.equal(fit(alone, heard, 0), between)
    for found, expected in zip(other.head.parameters(), alone.head.parameters(), strict=True):
        assert torch.equal(found, expected)


@torch.no_grad()
def test_what_is_heard_of_a_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other windows by another seed; nothing of what is not to be trained."""
    monkeypatch.setattr(discriminants, "WINDOWS", 8)
    untrained = [replace(u, emotion=4, weight=0.0) for u in corpora((ONE,), 4, 1)]
    heard = begin(learner(2), [*corpora((ONE, TWO), 4, 3), *untrained])
    found: list[discriminants.Known] = [{}, {}, {}]
    for known, seed in zip(found, (0, 0, 1), strict=True):
        fit(learner(2), heard, seed, known)
    assert list(found[0][ONE]) == [0, 1, 2, 3]
    means = [torch.stack([moments.mean for moments in known[ONE].values()]) for known in found]
    assert torch.equal(means[0], means[1])
    assert not torch.allclose(means[0], means[2])
