"""The GRU of the head: torch's numbers, whichever way they are computed."""

import pytest
import torch
from torch import Tensor, nn

from sedstream.encoders.gru import GRU


def alike(width: int, hidden: int) -> tuple[GRU, nn.GRU]:
    """The same weights in both."""
    torch.manual_seed(hidden)
    own, theirs = GRU(width, hidden), nn.GRU(width, hidden, batch_first=True)
    theirs.load_state_dict(own.state_dict())
    return own, theirs


def close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("width", "hidden"), [(192, 128), (7, 12), (5, 4), (6, 5)])
@pytest.mark.parametrize(("rows", "frames"), [(1, 400), (2, 31), (1, 1), (3, 31)])
def test_gives_the_numbers_of_torch(width: int, hidden: int, rows: int, frames: int) -> None:
    own, theirs = alike(width, hidden)
    x, state = 3 * torch.randn(rows, frames, width), torch.randn(1, rows, hidden).tanh()
    before = state.clone()
    with torch.inference_mode():
        close(own(x, state), theirs(x, state))
        close(own(x), theirs(x))
    assert torch.equal(state, before)


def test_a_row_does_not_depend_on_the_others() -> None:
    own, _ = alike(16, 32)
    x = torch.randn(2, 40, 16)
    with torch.inference_mode():
        all_rows, last = own(x)
        for n in range(2):
            alone = own(x[n : n + 1])
            assert torch.equal(all_rows[n], alone[0][0])
            assert torch.equal(last[0, n], alone[1][0, 0])


def test_goes_on_where_it_was() -> None:
    own, _ = alike(16, 32)
    x = torch.randn(2, 50, 16)
    with torch.no_grad():
        whole, last = own(x)
        first, state = own(x[:, :17])
        rest, end = own(x[:, 17:], state)
    assert torch.equal(whole, torch.cat([first, rest], 1))
    assert torch.equal(last, end)


def test_no_number_is_too_large() -> None:
    own, theirs = alike(4, 8)
    x = torch.tensor([1e4, -1e4, 1e30, -1e30])[None, None].expand(1, 6, 4)
    with torch.inference_mode():
        close(own(x), theirs(x))


def test_learns_as_torch_does() -> None:
    own, theirs = alike(8, 16)
    x = torch.randn(2, 9, 8)
    for gru in (own, theirs):
        gru(x)[0].square().sum().backward()
    for a, b in zip(own.parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_in_the_numbers_of_a_training() -> None:
    own, theirs = alike(8, 16)
    x = torch.randn(2, 9, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(own(x)[0], theirs(x)[0])
