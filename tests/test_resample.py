import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sedstream.audio.resample import Resampler
from sedstream.errors import BadInput

RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000]


def whole(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    resampler = Resampler(rate)
    return np.concatenate([resampler.push(samples), resampler.flush()])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([*RATES, 9999, 12345]), st.lists(st.integers(0, 700), max_size=12), st.integers(0, 2**32 - 1))
def test_packets_change_no_bit(rate: int, packets: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).normal(size=sum(packets)).astype(np.float32)
    resampler = Resampler(rate)
    parts, first = [], 0
    for packet in packets:
        parts.append(resampler.push(samples[first : first + packet]))
        first += packet
    parts.append(resampler.flush())
    cut = np.concatenate(parts)
    assert len(cut) == -(-len(samples) * 16000 // rate)
    assert np.array_equal(cut, whole(samples, rate))


@pytest.mark.parametrize("rate", [*RATES, 12_345])
def test_tones_pass_in_place_and_images_do_not(rate: int) -> None:
    seconds = np.arange(rate) / rate
    out_seconds = np.arange(16000) / 16000
    inside = slice(400, -400)
    for tone in (0.0, 100.0, 1000.0, 0.4 * min(rate, 16000)):
        out = whole(np.cos(2 * np.pi * tone * seconds).astype(np.float32), rate)
        assert np.abs(out - np.cos(2 * np.pi * tone * out_seconds))[inside].max() < 2e-3
    if rate > 16000:  # what 16 kHz cannot hold is gone, not folded back
        out = whole(np.cos(2 * np.pi * 9500 * seconds).astype(np.float32), rate)
        assert np.abs(out[inside]).max() < 1e-3


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000])
def test_a_constant_has_no_edges(rate: int) -> None:
    np.testing.assert_allclose(whole(np.full(rate, 0.3, np.float32), rate), 0.3, atol=1e-6)


def test_state_is_bounded() -> None:
    resampler = Resampler(44100)
    for _ in range(200):
        resampler.push(np.zeros(4410, np.float32))
    assert len(resampler._history) < 500


@pytest.mark.parametrize("rate", [0, -1, 1000, 7999, 400_000])
def test_bad_rate(rate: int) -> None:
    with pytest.raises(BadInput, match=f"Bad sample rate {rate} Hz, expected 8000 to 192000"):
        Resampler(rate)
