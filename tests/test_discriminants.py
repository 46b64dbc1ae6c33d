"""The head's direct logits: a closed form, against scipy's Gaussians and on made-up corpora."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from test_training import ENCODER, HEAD, hum

from sedstream.encoders.cached import CachedEncoder
from sedstream.encoders.heads import CachedHead
from sedstream.grid import HOP
from sedstream.training import discriminants
from sedstream.training.brain import Learner
from sedstream.training.corpora import Utterance
from sedstream.training.discriminants import MOST, SHRINKAGE, begin, encode, fit, loud

LABELS = 5


def said(corpus: str, emotion: int, pitch: float, seed: int) -> Utterance:
    """Half a second of a hum; each corpus at a level of its own."""
    samples = (hum(pitch, 0.5, seed) * {"one": 20_000, "two": 2_000}.get(corpus, 9_000)).astype(np.int16)
    known = {"corpus": corpus, "speaker": f"{corpus}/1", "split": "train", "emotion": emotion}
    known |= {"arousal": 0.5, "valence": 0.5, "weight": 1.0}
    return Utterance(samples, np.ones(-(-len(samples) // HOP), np.bool_), **known)  # type: ignore[arg-type]


def learner(direct: bool = True) -> Learner:
    torch.manual_seed(0)
    head = CachedHead(labels=LABELS, **{**HEAD, "direct": direct})  # type: ignore[arg-type]
    return Learner(CachedEncoder(**ENCODER), head).eval()


def corpora(names: tuple[str, ...], emotions: int, each: int, first: int = 0) -> list[Utterance]:
    """Emotions are pitches, a little other in each corpus."""
    return [
        said(name, emotion, 90 * 1.5**emotion * (1 + 0.04 * number) * (1 + 0.01 * n), first + n)
        for number, name in enumerate(names)
        for emotion in range(emotions)
        for n in range(each)
    ]


def test_equals_gaussians_of_one_covariance() -> None:
    """Differences of logits are those of the logarithms of density."""
    random = np.random.default_rng(0)
    means = random.normal(size=(3, 2, 6))  # of three emotions in two corpora
    root = random.normal(size=(6, 6))
    within = root @ root.T
    squares = within + np.einsum("ckd,cke->ckde", means, means)
    weight, bias = discriminants.discriminants(
        {c: list(torch.from_numpy(means[c])) for c in range(3)},
        {c: list(torch.from_numpy(squares[c])) for c in range(3)},
        3,
    )
    centre = means.mean(1)
    apart = means - centre[:, None]
    spread = within + np.einsum("ckd,cke->de", apart, apart) / 6  # between corpora: noise too
    spread += SHRINKAGE * np.trace(spread) / 6 * np.eye(6)
    x = random.normal(size=(20, 6))
    densities = np.stack([multivariate_normal(centre[c], spread).logpdf(x) for c in range(3)], 1)
    logits = x @ weight.double().numpy().T + bias.double().numpy()
    np.testing.assert_allclose(logits[:, 1:] - logits[:, :1], densities[:, 1:] - densities[:, :1], atol=1e-4)


def test_an_emotion_that_no_corpus_has() -> None:
    one = {c: [torch.randn(4).double()] for c in (0, 2)}
    square = {c: [torch.outer(m, m) + torch.eye(4).double()] for c, (m,) in one.items()}
    weight, bias = discriminants.discriminants(one, square, 3)
    assert not weight[1].any()
    assert bias[1] == 0
    assert weight[[0, 2]].any(1).all()


def test_what_takes_part() -> None:
    """At most so many of each emotion, of corpora with several emotions, if there are two such; else nothing moves."""
    model = learner()
    assert isinstance(model.head, CachedHead)
    assert model.head.direct is not None
    torch.nn.init.ones_(model.head.direct.weight)
    few = [*corpora(("one",), 4, 1), *corpora(("plain",), 2, 1)]
    assert begin(model, few, 0) == {}
    assert model.head.direct.weight.all(), "one corpus says nothing about others"
    unknown = said("two", -1, 100, 0)
    many = [*few, *corpora(("two",), 4, 1), *[said("one", 0, 100, 0)] * (MOST + 5), unknown]
    chosen = begin(model, many, 0)
    assert {name: {emotion: len(u) for emotion, u in part.items()} for name, part in chosen.items()} == {
        "one": {0: MOST, 1: 1, 2: 1, 3: 1},
        "two": {0: 1, 1: 1, 2: 1, 3: 1},
    }
    assert not model.head.direct.weight.any(), "the recurrences learn as if nothing was beside them"
    assert begin(learner(direct=False), many, 0) == {}


@torch.no_grad()
def test_fits_what_it_never_heard() -> None:
    """Emotions of another corpus, by the frames alone; the recurrences know nothing yet."""
    model = learner()
    assert isinstance(model.encoder, CachedEncoder)
    assert isinstance(model.head, CachedHead)
    assert model.head.direct is not None
    fit(model, begin(model, corpora(("one", "two"), 4, 6), 0))
    right = []
    for utterance in corpora(("three",), 4, 3, first=50):
        logits = model.head.direct(model.head.normalised(encode(model.encoder, loud(utterance))))
        right.append(float((logits.argmax(-1) == utterance.emotion).float().mean()))
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("samples", [1, 319, 5_120, 5_121])
def test_all_frames_of_an_utterance(samples: int) -> None:
    utterance = said("one", 0, 100, 0)
    with torch.no_grad():
        assert encode(learner().encoder, loud(utterance)[:samples]).shape == (1, -(-samples // HOP), 64)  # type: ignore[arg-type]
