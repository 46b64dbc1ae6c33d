"""Pictures of recordings: measured as they are drawn, at 800 pixels, for every length and number of channels."""

import io
import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import soundfile
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from numpy.typing import NDArray

import sedstream
from sedstream.errors import BadInput
from sedstream.events import Arousal, Event, Final, Segment
from sedstream.exports import plot
from sedstream.offline import Diarization, Track, diarize
from sedstream.zoo import Model

LABELS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
OTHERS = ("calm", "bored", "angry", "anger", "_hidden", "an emotion that nobody has a shorter word for", "$a$")
RATE = 1000


def talk(frames: int, labels: tuple[str, ...], length: float, seed: int) -> list[Event]:
    """Segments of ``length`` seconds in the mean, all labels in turn, with pauses; arousal every half second."""
    random = np.random.default_rng(seed)
    speech = np.zeros(frames, bool)
    events: list[Event] = []
    start = 10
    for number in itertools.count():
        end = min(frames, start + 20 + int(random.exponential(50 * length)))
        if start >= frames:
            break
        label = labels[number % len(labels)]
        probs = tuple(float(label == name) for name in labels)
        events.append(Final(number, 0, Segment(start, end, label, 1.0, probs, 0.0, 0.5, 0.5, 0.5), 0))
        speech[start:end] = True
        start = end + int(random.integers(2) * random.exponential(50))
    for start in range(0, frames, 25):
        end = min(frames, start + 25)
        arousal, valence = random.random(2) if speech[start:end].any() else (None, None)
        events.append(Arousal(start, end, arousal, valence, 0))
    return events


def recording(
    seconds: float,
    *roles: str | None,
    labels: tuple[str, ...] = LABELS,
    length: float = 3,
    file: str = "calls/call.wav",
    silent: bool = False,
) -> Diarization:
    frames = round(seconds * 50)
    nothing: list[Event] = [Arousal(n, min(n + 25, frames), None, None, 0) for n in range(0, frames, 25)]
    events = [nothing if silent else talk(frames, labels, length, n) for n in range(len(roles))]
    return Diarization(file, seconds, labels, tuple(Track(n, roles[n], tuple(e)) for n, e in enumerate(events)))


def noise(seconds: float, channels: int, level: float = 0.2) -> NDArray[np.float32]:
    shape = (round(seconds * RATE), channels)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) * np.float32(level)


TWO = ("customer", "agent")
CASES: dict[str, Callable[[], Figure]] = {
    "5 s": lambda: plot.figure(recording(5, None, length=0.8), noise(5, 1), RATE),
    "5 s, 2 channels": lambda: plot.figure(recording(5, *TWO, length=0.8), noise(5, 2), RATE),
    "4 min": lambda: plot.figure(recording(240, None), noise(240, 1)[:, 0], RATE),
    "4 min, 2 channels": lambda: plot.figure(recording(240, *TWO), noise(240, 2, 0.01), RATE),
    "59.98 s": lambda: plot.figure(recording(59.98, None), noise(60, 1), RATE),
    "1 h": lambda: plot.figure(recording(3600, None)),
    "1 h, 2 channels": lambda: plot.figure(recording(3600, *TWO), noise(3600, 2), RATE),
    "10 h": lambda: plot.figure(recording(36000, None), noise(36000, 1), RATE),
    "10 h, 2 channels": lambda: plot.figure(recording(36000, *TWO)),
    "no speech": lambda: plot.figure(recording(20, None, silent=True), noise(20, 1, 0), RATE),
    "no speech, 2 channels": lambda: plot.figure(recording(36000, None, None, silent=True), noise(20, 2, 0.0002), RATE),
    "one frame": lambda: plot.figure(recording(0.02, None)),
    "no name": lambda: plot.figure(recording(20, None, file="")),
    "long names": lambda: plot.figure(recording(20, "a very long role " * 20, "$x$", file="n" * 196 + ".wav")),
    "any names": lambda: plot.figure(recording(20, "a\nb", "", file="calls/$\\frac$_{}^\udcff\n呼.wav")),
    "other emotions": lambda: plot.figure(recording(60, None, labels=OTHERS)),
    "many emotions": lambda: plot.figure(recording(600, None, labels=tuple(f"emotion {n}" for n in range(40)))),
}


@pytest.fixture(scope="module", params=CASES)
def drawn(request: pytest.FixtureRequest) -> Figure:
    figure = CASES[request.param]()
    figure.canvas.draw()
    return figure


def texts(figure: Figure) -> list[Text]:
    """All that can be seen."""
    found = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def test_no_text_overlaps_another_or_the_edge(drawn: Figure) -> None:
    page = drawn.bbox
    assert page.width == 800
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(drawn)]
    assert len(boxes) >= 6
    for name, box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1, name
        assert page.y0 <= box.y0 < box.y1 <= page.y1, name
    for (name, one), (other, two) in itertools.combinations(boxes, 2):
        apart = one.x1 <= two.x0 or two.x1 <= one.x0 or one.y1 <= two.y0 or two.y1 <= one.y0
        assert apart, f"{name!r} {one} overlaps {other!r} {two}"


def test_text_is_large_enough_and_not_upon_the_panels(drawn: Figure) -> None:
    for text in texts(drawn):
        assert float(text.get_fontsize()) * drawn.dpi / 72 >= 11  # pixels
    inside = [text for axes in drawn.axes for text in axes.texts]
    outside = [text for text in texts(drawn) if text not in inside]
    for text in outside:
        box = text.get_window_extent()
        for axes in drawn.axes:
            panel = axes.get_window_extent().padded(-1)
            assert not panel.overlaps(box), text.get_text()


def test_axes_carry_units(drawn: Figure) -> None:
    *upper, last = drawn.axes
    assert not any(axes.get_xlabel() for axes in upper)
    assert re.match(r"time \((s|m:ss|h:mm:ss)\)", last.get_xlabel())
    labels = {axes.get_ylabel() or axes.get_yticklabels()[0].get_text() for axes in drawn.axes}
    assert labels <= {"amplitude\n(−1…1)", "emotion", "emotion\n(% of time)", "arousal,\nvalence (0…1)"}
    assert len({axes.get_xlim() for axes in drawn.axes}) == 1


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_legend_holds_what_occurs() -> None:
    call = recording(240, *TWO)
    assert legend(plot.figure(call)) == [*LABELS, "arousal", "valence"]
    some = tuple(e for e in call.tracks[0].events if not isinstance(e, Final) or e.segment.label in ("sad", "angry"))
    only = Diarization("a.wav", 240, LABELS, (Track(0, None, some), Track(1, None, ())))
    assert legend(plot.figure(only)) == ["sad", "angry", "arousal", "valence"]
    assert legend(plot.figure(recording(20, None, silent=True))) == ["arousal", "valence"]
    assert legend(plot.figure(recording(3600, None))) == [*LABELS, "arousal", "valence"]


def spans(axes: Axes) -> set[tuple[str, float, float]]:
    found = set()
    for collection in axes.collections:
        if isinstance(collection, PolyCollection):
            for path in collection.get_paths():
                times = np.asarray(path.vertices)[:, 0]
                found.add((str(collection.get_label()), round(float(times.min()), 4), round(float(times.max()), 4)))
    return found


def test_each_span_lasts_as_long_as_its_segment() -> None:
    call = recording(240, *TWO)
    figure = plot.figure(call)
    assert len(figure.axes) == 4  # without samples no waveform
    for track, axes in zip(call.tracks, figure.axes[::2], strict=True):
        assert spans(axes) == {(s.label, s.start / 50, s.end / 50) for s in track.segments}
        for text in axes.texts:  # each name stands within a segment of that emotion
            box = text.get_window_extent()
            (start, _), (end, _) = axes.transData.inverted().transform([(box.x0, 0), (box.x1, 0)])
            assert any(s.label == text.get_text() and s.start / 50 < start < end < s.end / 50 for s in track.segments)
    assert any(axes.texts for axes in figure.axes)


@pytest.mark.parametrize("start", range(6000, 6040, 3))
def test_the_shortest_segment_is_seen(start: int) -> None:
    """0.2 s in 20 min are a third of a pixel, wherever it falls."""
    events: list[Event] = []
    for number, (first, last, label) in enumerate(
        [(0, 5000, "sad"), (start, start + 10, "angry"), (7000, 9000, "sad")]
    ):
        events.append(Final(number, 0, Segment(first, last, label, 1.0, (), 0.0, 0.5, 0.5, 0.5), 0))
    figure = plot.figure(Diarization("a.wav", 1200, LABELS, (Track(0, None, tuple(events)),)))
    figure.legends[0].remove()
    pixels = imread(io.BytesIO(figure._repr_png_()))[:, :, :3]  # type: ignore[attr-defined]
    vermilion = np.array([0xD5, 0x5E, 0x00]) / 255
    assert (np.abs(pixels - vermilion).max(axis=2) < 0.2).sum() >= 25


def test_shares_add_up_to_the_speech() -> None:
    call = recording(3600, None)
    figure = plot.figure(call)
    assert figure.axes[-1].get_xlabel() == "time (h:mm:ss) · shares and means over 0:00:30"
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch)]
    for label, patch in zip(LABELS, patches, strict=True):
        assert patch.get_label() == label
        roof, edges, floor = patch.get_data()
        assert np.all(np.diff(edges) == 30)
        frames = np.zeros(180_000)
        for segment in call.segments:
            if segment.label == label:
                frames[segment.start : segment.end] = 1
        assert floor is not None
        np.testing.assert_allclose(roof - floor, 100 * frames.reshape(-1, 1500).mean(axis=1), atol=1e-6)


def test_curves_are_the_points_and_break_in_silence() -> None:
    points = [(0.2, 0.6), (0.4, 0.5), None, (0.9, 0.1)]
    events = [Arousal(25 * n, 25 * n + 25, point and point[0], point and point[1], 0) for n, point in enumerate(points)]
    axes = plot.figure(Diarization("a.wav", 2, LABELS, (Track(0, None, tuple(events)),))).axes[-1]
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.lines}
    level = [[0, 0.2], [0.5, 0.2], [0.5, 0.2], [0.5, 0.4], [1, 0.4], [1, np.nan], [1.5, 0.9], [2, 0.9], [2, np.nan]]
    np.testing.assert_array_equal(lines["arousal"], level)
    np.testing.assert_array_equal(lines["valence"][:, 1], [0.6, 0.6, 0.6, 0.5, 0.5, np.nan, 0.1, 0.1, np.nan])


def test_the_waveform_shows_each_extreme() -> None:
    """One click of 1 ms in ten hours is seen at its place, in its own channel."""
    samples = np.zeros((36_000_000, 2), np.float32)
    samples[18_000_000] = (0.5, 0)
    samples[9_000_000] = (0, -0.8)
    figure = plot.figure(recording(36000, *TWO, silent=True), samples, RATE)
    first, second = (figure.axes[n].collections[0].get_paths()[0].vertices for n in (0, 3))
    assert first is not None
    assert second is not None
    first, second = np.asarray(first), np.asarray(second)
    assert first[np.argmax(first[:, 1])] == pytest.approx([18000, 0.5], abs=26)
    assert first[:, 1].max() == 0.5
    assert (first[:, 1].min(), second[:, 1].max()) == (0, 0)
    assert second[:, 1].min() == pytest.approx(-0.8)
    assert second[np.argmin(second[:, 1]), 0] == pytest.approx(9000, abs=26)
    assert figure.axes[0].get_ylim() == figure.axes[3].get_ylim()


def test_two_columns_for_one_channel_are_mixed() -> None:
    samples = np.tile(np.array([[0.5, -0.3]], np.float32), (5000, 1))
    vertices = np.asarray(plot.figure(recording(5, None), samples, RATE).axes[0].collections[0].get_paths()[0].vertices)
    assert vertices[:, 1] == pytest.approx(0.1)


def luminance(colour: str) -> float:
    red, green, blue = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_colours_and_hatches_tell_emotions_apart_and_letters_can_be_read() -> None:
    styles = plot._styles((*LABELS, *(label for label in OTHERS if label != "angry")))
    looks = [(style["facecolor"], style["hatch"]) for style in styles.values()]
    assert len(set(looks)) == len(looks)
    known = [styles[label] for label in LABELS]
    assert len({style["facecolor"] for style in known}) == len({style["hatch"] for style in known}) == len(LABELS)
    assert plot._styles(("ang", "neu"))["ang"]["facecolor"] == styles["angry"]["facecolor"]
    for style in styles.values():
        letters = 1.0 if style["facecolor"] in plot.DARK else 0.0
        low, high = sorted([luminance(style["facecolor"]), letters])
        assert (high + 0.05) / (low + 0.05) >= 4.5, style  # WCAG 2, AA


@pytest.mark.parametrize(
    ("duration", "last"),
    [(5, "5"), (59.5, "50"), (60, "1:00"), (245, "4:00"), (3600, "1:00:00"), (360000, "100:00:00")],
)
def test_times_are_written_by_length(duration: float, last: str) -> None:
    labels = [
        label.get_text() for label in plot.figure(recording(duration, None, silent=True)).axes[-1].get_xticklabels()
    ]
    assert labels[-1] == last
    assert 4 <= len(labels) <= 11


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".PNG", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_a_file_is_written_the_same_each_time(tmp_path: Path, suffix: str, start: bytes) -> None:
    call = recording(20, *TWO)
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    plot.save(plot.figure(call, noise(20, 2), RATE), one)
    plot.save(plot.figure(call, noise(20, 2), RATE), two)
    assert one.read_bytes().startswith(start)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, two]


def test_a_png_is_800_pixels_wide_and_not_blank(tmp_path: Path) -> None:
    figure = plot.figure(recording(20, None), noise(20, 1), RATE)
    plot.save(figure, tmp_path / "call.png")
    pixels = imread(tmp_path / "call.png")[:, :, :3]
    assert pixels.shape == (round(figure.get_figheight() * 100), 800, 3)
    assert 0.02 < (pixels < 0.9).any(axis=2).mean() < 0.8
    assert imread(io.BytesIO(figure._repr_png_())).shape[1] == 800  # type: ignore[attr-defined]  # in notebooks


@pytest.mark.parametrize("name", ["call", "call.bmp"])
def test_another_suffix_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"^Bad suffix '.*', expected one of \.png, \.svg, \.pdf"):
        plot.save(plot.figure(recording(5, None)), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["nowhere", "a file"])
def test_a_path_that_cannot_be_written_is_an_error(folder: str, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(BadInput, match=f"^Bad output .*{folder}/call.png', expected a file that can be written: N"):
        plot.save(plot.figure(recording(5, None)), tmp_path / folder / "call.png")


@pytest.mark.parametrize(
    ("shape", "rate", "message"),
    [
        ((5000,), None, "^Bad rate None, expected the sample rate"),
        ((5000,), 0, "^Bad rate 0, expected the sample rate"),
        ((5000,), RATE, r"^Bad samples of shape \(5000,\), expected \[n, 2\]$"),
        ((5000, 3), RATE, r"^Bad samples of shape \(5000, 3\), expected \[n, 2\]$"),
        ((0, 2), RATE, r"^Bad samples of shape \(0, 2\), expected \[n, 2\]$"),
    ],
)
def test_samples_that_do_not_fit_are_an_error(shape: tuple[int, ...], rate: int | None, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        plot.figure(recording(5, *TWO), np.zeros(shape, np.float32), rate)


def test_damaged_samples_are_drawn() -> None:
    samples = noise(5, 1)
    samples[100:2000], samples[3000], samples[4000] = np.nan, np.inf, -np.inf
    plot.figure(recording(5, None), samples, RATE).canvas.draw()


def test_the_users_own_style_stays_and_does_not_matter(tmp_path: Path) -> None:
    call = recording(20, None)
    plot.save(plot.figure(call), tmp_path / "plain.png")
    with matplotlib.style.context("dark_background"), matplotlib.rc_context({"font.size": 30}):
        before = dict(matplotlib.rcParams)
        plot.save(plot.figure(call), tmp_path / "dark.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "dark.png").read_bytes()


def test_a_real_recording(model: Model, clip: Path) -> None:
    call = diarize(clip, model=model, frames=False)
    samples, rate = soundfile.read(clip, dtype="float32")
    figure = plot.figure(call, samples, rate)
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert figure.texts[0].get_text() == clip.name
    assert spans(figure.axes[1]) == {(s.label, s.start / 50, s.end / 50) for s in call.segments}
    assert legend(figure)[-2:] == ["arousal", "valence"]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


MAKE = """
from sedstream.exports import plot
from sedstream.offline import Diarization, Track
call = Diarization("a.wav", 5.0, ("angry",), (Track(0, None, ()),))
"""


def test_without_matplotlib_there_is_one_clear_error() -> None:
    block = "import sys\nsys.modules['matplotlib'] = None\n"
    tried = "try:\n    plot.figure(call)\nexcept Exception as error:\n    print(type(error).__name__, error)"
    expected = "Unavailable Bad matplotlib 'missing', expected it for plots: pip install 'sedstream[plot]'\n"
    assert run(block + MAKE + tried) == expected


def test_matplotlib_is_loaded_late_and_without_pyplot() -> None:
    shown = "print([name for name in ('matplotlib', 'matplotlib.pyplot') if name in sys.modules])\n"
    assert run(f"import sys{MAKE}{shown}plot.figure(call)\n{shown}") == "[]\n['matplotlib']\n"


def test_less_than_a_hundredth_of_a_second(tmp_path: Path, model: Model) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.full(60, 0.5), 8000)
    assert sedstream.diarize(path, model=model).plot().axes


def waveform(figure: Figure) -> NDArray[np.float64]:
    return np.asarray(figure.axes[0].collections[0].get_paths()[0].vertices)


@pytest.mark.parametrize("rate", [11_025, 22_050, 44_100])
def test_a_waveform_that_is_read_again_stands_where_it_is_heard(
    rate: int, tmp_path: Path, model: Model, clip: Path
) -> None:
    """Also where 10 ms are no whole number of samples; and it is that of the mix, if the mix was heard."""
    spoken, _ = soundfile.read(clip, dtype="float32", frames=16_000 * 8)
    samples = np.repeat(spoken, 6)[: 60 * rate // 2 * 2, None] * np.array([[0.1, -0.1]], np.float32)
    samples[-rate // 50] = 0.9  # in both
    soundfile.write(path := tmp_path / "call.wav", samples, rate, subtype="FLOAT")
    call = sedstream.diarize(path, model=model, plan="live", frames=False)
    again, given = waveform(call.plot()), waveform(call.plot(samples, rate))
    place = (len(samples) - rate // 50) / rate
    assert again[np.argmax(again[:, 1])] == pytest.approx([place, 0.9], abs=0.02)
    quiet = again[:, 0] < place - 1
    assert np.abs(again[quiet, 1]).max() == np.abs(given[given[:, 0] < place - 1, 1]).max() == 0
