"""The experts beside the head, against the formula in float64."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp

from sedstream.encoders.experts import Experts


def made(share: float) -> Experts:
    torch.manual_seed(0)
    experts = Experts(labels=3, features=8, corpora=4)
    experts.share.fill_(share)
    return experts


def test_the_formula() -> None:
    experts = made(0.6)
    x = torch.randn(5, 7, 8)
    w = {name: tensor.double().numpy() for name, tensor in experts.state_dict().items()}
    frames = x.double().numpy()
    pool, gate, own = (frames @ w[f"{n}.weight"].T + w[f"{n}.bias"] for n in ("pool", "gate", "own"))
    known = log_softmax(own.reshape(5, 7, 4, 3), -1) + log_softmax(gate, -1)[..., None]
    expected = 0.6 * (pool + logsumexp(known, -2)) / 2
    np.testing.assert_allclose(experts(x).numpy(), expected, atol=1e-6)


def test_they_say_nothing_until_they_are_fitted() -> None:
    experts = Experts(labels=3, features=8, corpora=4)
    assert not experts(torch.randn(2, 8)).any()
    assert not experts.intensity(torch.randn(2, 8)).any()
    assert not any(p.requires_grad for p in experts.parameters())


def test_who_is_sure_to_hear_its_corpus_is_believed() -> None:
    """With a gate that is certain, the mixture is what that corpus says."""
    experts = made(1.0)
    torch.nn.init.zeros_(experts.pool.weight)
    torch.nn.init.zeros_(experts.pool.bias)
    experts.gate.bias[2] = 1e3
    x = torch.randn(6, 8)
    own = experts.own(x).unflatten(-1, (4, 3))[:, 2].log_softmax(-1)
    torch.testing.assert_close(experts(x), own / 2)
