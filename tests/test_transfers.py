"""What travels to a device and back; what does when several batches are under way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sedstream.encoders.transfers import Transfers


def test_rows_and_zeros_behind_them() -> None:
    transfers = Transfers(torch.device("cpu"))
    rows = np.random.default_rng(0).normal(0, 0.3, (3, 50)).astype(np.float32)
    sent = transfers.send(list(rows), 5)
    assert np.array_equal(sent[:3].numpy(), rows)
    assert not sent[3:].any()
    (answer,) = transfers.fetch(sent.double())
    transfers.wait()
    assert (answer.dtype, answer.shape) == (torch.float32, (5, 50))


@pytest.mark.gpu
@torch.inference_mode()
def test_many_batches_under_way() -> None:
    """Nothing is overwritten before it is read, however far ahead the host is."""
    transfers = Transfers(torch.device("cuda"))
    rows = np.random.default_rng(0).normal(0, 1, (24, 400_000)).astype(np.float32)
    weight = torch.eye(2000, device="cuda")
    answers = []
    for row in rows:
        x = transfers.send([row], 2)
        y = x.view(-1, 2000)
        for _ in range(200):  # the device is slower than the host
            y = y @ weight
        answers += transfers.fetch(y.view(2, -1)[0])
        del x, y
    transfers.wait()
    for answer, row in zip(answers, rows, strict=True):
        np.testing.assert_allclose(answer.numpy(), row, atol=2e-2, rtol=0)  # TF32, if it is on
