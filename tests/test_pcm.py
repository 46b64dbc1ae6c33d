import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from sedstream.audio import pcm
from sedstream.errors import BadInput


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_g711_is_libsndfiles(encoding: str, subtype: str) -> None:
    every_byte = bytes(range(256))
    reference = soundfile.read(
        io.BytesIO(every_byte), format="RAW", subtype=subtype, samplerate=8000, channels=1, dtype="float32"
    )[0]
    assert np.array_equal(pcm.decode(every_byte, encoding)[:, 0], reference)
    # Encoding takes the nearest level: what is a level already comes back (mu-law has two zeros).
    again = pcm.decode(pcm.encode(reference, encoding), encoding)[:, 0]
    assert np.array_equal(again, reference)


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_g711_error_is_within_half_a_step(encoding: str) -> None:
    x = np.linspace(-0.98, 0.98, 20_001, dtype=np.float32)
    y = pcm.decode(pcm.encode(x, encoding), encoding)[:, 0]
    # The step is 1/16 of the power of two above the value, and at least 16/32768 (A-law) in the lowest segment.
    assert np.all(np.abs(y - x) <= np.maximum(np.abs(x), 1 / 128) / 16 / 2 * 1.1 + 1 / 32768)


@given(st.lists(st.integers(-32768, 32767), max_size=50))
def test_s16le_round_trip(values: list[int]) -> None:
    data = np.array(values, "<i2").tobytes()
    assert pcm.encode(pcm.decode(data, "s16le"), "s16le") == data


def test_channels_are_interleaved() -> None:
    data = np.array([1, 2, 3, 4], "<f4").tobytes()
    assert pcm.decode(data, "f32le", 2).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("data", "encoding", "channels", "says"),
    [
        (b"\0" * 3, "s16le", 1, "3 bytes, expected a multiple of 2"),
        (b"\0" * 6, "s16le", 2, "6 bytes, expected a multiple of 4"),
        (b"\0" * 7, "f32le", 1, "7 bytes"),
        (b"", "opus", 1, "Bad encoding 'opus', expected one of s16le"),
        (np.array([np.nan], "<f4").tobytes(), "f32le", 1, "expected finite"),
        (np.array([np.inf], "<f4").tobytes(), "f32le", 1, "expected finite"),
    ],
)
def test_bad_packets(data: bytes, encoding: str, channels: int, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        pcm.decode(data, encoding, channels)


def test_a_programs_samples_as_floats() -> None:
    """Floats as they are, not even copied when they are f32; 16 bits over their full scale; nothing is guessed."""
    floats = np.array([[0.5, -2.0]], np.float32)
    assert pcm.as_floats(floats) is floats
    for other in (floats.astype(np.float64), floats.astype(np.float16), floats.tolist()):
        assert pcm.as_floats(other).dtype == np.float32
        assert np.array_equal(pcm.as_floats(other), floats)
    whole = np.array([-32768, 0, 16384], np.int16)
    for order in ("<i2", ">i2"):
        assert pcm.as_floats(whole.astype(order)).dtype == np.float32
        assert pcm.as_floats(whole.astype(order)).tolist() == [-1.0, 0.0, 0.5]
    for kind in ("int32", "uint16", "uint8", "bool", "complex64"):
        with pytest.raises(BadInput, match=f"Bad samples of type '{kind}', expected floats in -1…1 or int16"):
            pcm.as_floats(whole.astype(kind))
    for thing in ([0, 1], "text", None, b"\0\0"):
        with pytest.raises(BadInput, match="Bad samples of type"):
            pcm.as_floats(thing)


@pytest.mark.parametrize("encoding", ["s16le", "mulaw", "alaw"])
def test_what_is_too_loud_is_clipped(encoding: str) -> None:
    """It does not come out with the other sign."""
    loud = pcm.decode(pcm.encode(np.array([1.0, 1.5, 3.0, -1.0, -1.5, -3.0], np.float32), encoding), encoding)[:, 0]
    assert (loud[:3] == loud[0]).all()
    assert (loud[3:] == loud[3]).all()
    assert loud[0] > 0.9
    assert loud[3] < -0.9
