"""A picture of a recording: for each channel waveform, emotions, arousal and valence over one time axis.

Where segments are too narrow to be seen, each emotion's share of time stands for them, so ten hours are as legible as
ten seconds. matplotlib, no dependency of sedstream, is loaded when it is needed, without pyplot, without a display.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput, Unavailable
from ..events import Arousal
from ..grid import seconds
from .naming import one_line, speakers
from .writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..offline import Diarization, Track

Array: TypeAlias = NDArray[np.float32]
Series: TypeAlias = NDArray[np.float64]
Style: TypeAlias = dict[str, Any]  # what matplotlib is told of an emotion: its name as label, and its colours

SUFFIXES = (".png", ".svg", ".pdf")
WIDTH, DPI = 800, 100
LEFT, RIGHT, EDGE, GAP = 84, 30, 12, 16
TITLE, NAME, WAVE, SPANS, SHARES, CURVES, CLOCK = 26, 22, 84, 30, 74, 84, 44
PLOT = WIDTH - LEFT - RIGHT
"""Pixels at ``DPI``: margins; heights of the title, a channel's name, its panels, the time axis; width of panels."""

COLOURS = {
    "neu": ("#BBBBBB", ""),
    "hap": ("#F0E442", "..."),
    "sad": ("#0072B2", "\\\\\\"),
    "ang": ("#D55E00", "xxx"),
    "fea": ("#CC79A7", "///"),
    "dis": ("#009E73", "---"),
    "sur": ("#56B4E9", "|||"),
}
"""Okabe and Ito's colours, which the colour-blind tell apart, and a hatch for who sees grey; by an emotion's first
three letters, so that angry, anger and ang look the same in the pictures of all models."""
SPARE = [(c, h) for h in ("", "++", "oo", "**") for c in ("#E69F00", "#DDCC77", "#882255", "#44AA99", "#332288")]
"""Of other emotions, in their order: Okabe and Ito's orange, then Tol's muted colours."""
DARK = {"#0072B2", "#882255", "#332288"}  # letters and hatches on it are white
INK = "#444444"
CURVE_LOOKS: tuple[Style, ...] = (
    {"label": "arousal", "color": "#000000", "linewidth": 1.6},
    {"label": "valence", "color": "#AA3377", "linewidth": 0.9},
)

STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 18000, 36000)
"""Seconds between ticks, or that one step of shares holds: what people count in."""


def figure(diarization: Diarization, samples: Array | None = None, rate: float | None = None) -> Figure:
    """The picture, 800 pixels wide; show it in a notebook, or hand it to ``save``.

    ``samples`` ``[n]`` or ``[n, channels]`` in -1…1 at ``rate`` Hz, from the start of the recording, add the waveform:
    a column for each channel of ``diarization``, or any number of columns, of which the mean is drawn, for one channel.
    Raises ``BadInput`` when they do not fit, ``Unavailable`` without matplotlib. Its settings are global: make figures
    on one thread at a time.
    """
    require()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    waves = None if samples is None else _waves(np.asarray(samples), rate, len(diarization.tracks))
    with _look():
        drawn = Figure(figsize=(WIDTH / DPI, WIDTH / DPI), dpi=DPI)
        FigureCanvasAgg(drawn)
        _draw(drawn, diarization, waves)
        drawn.draw_without_rendering()  # ticks are made when they are first drawn: here, where the style is ours
    drawn._repr_png_ = partial(encoded, drawn, ".png")  # type: ignore[attr-defined]  # notebooks without pyplot ask for it
    return drawn


def require(path: str | Path | None = None) -> None:
    """Raises ``Unavailable`` without matplotlib, ``BadInput`` for a ``path`` with another suffix than ``SUFFIXES``."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise Unavailable("Bad matplotlib 'missing', expected it for plots: pip install 'sedstream[plot]'") from error
    if path is not None and Path(path).suffix.lower() not in SUFFIXES:
        raise BadInput(f"Bad suffix {Path(path).suffix!r}, expected one of {', '.join(SUFFIXES)}")


def save(figure: Figure, path: str | Path) -> None:
    """Write ``figure`` as png, svg or pdf by the suffix of ``path``, whole or not at all; the same bytes each time.

    Raises ``BadInput`` for another suffix or a path that cannot be written.
    """
    require(path)
    write_whole(Path(path), encoded(figure, Path(path).suffix.lower()))


def _waves(samples: NDArray[Any], rate: float | None, tracks: int) -> tuple[Series, Array, Array]:
    """Times ``[n]`` in seconds, lows and highs ``[n, tracks]`` of two spans a pixel, so that it can be enlarged."""
    if rate is None or not rate > 0:
        raise BadInput(f"Bad rate {rate}, expected the sample rate of the samples in Hz")
    if samples.ndim not in (1, 2) or not samples.size or (tracks > 1 and samples.shape[1:] != (tracks,)):
        raise BadInput(f"Bad samples of shape {samples.shape}, expected [n, {tracks}]" + " or [n]" * (tracks == 1))
    samples = samples.reshape(len(samples), -1)
    edges = np.linspace(0, len(samples), min(2 * PLOT, len(samples)) + 1).astype(np.int64)
    low, high = np.empty((2, len(edges) - 1, tracks), np.float32)
    for n, (start, end) in enumerate(itertools.pairwise(edges)):  # ten hours never stand in memory a second time
        part = samples[start:end]
        columns = [part.mean(axis=1)] if tracks == 1 and part.shape[1] > 1 else np.ascontiguousarray(part.T)
        low[n], high[n] = [c.min() for c in columns], [c.max() for c in columns]  # much faster than along axis 0
    low, high = (np.nan_to_num(extreme, posinf=1, neginf=-1) for extreme in (low, high))
    return (edges[:-1] + edges[1:]) / 2 / rate, low, high


def _styles(labels: Sequence[str]) -> dict[str, Style]:
    """Of each label; the first of two that begin alike gets their colour."""
    spare, free = itertools.cycle(SPARE), dict(COLOURS)
    styles: dict[str, Style] = {}
    for label in labels:
        colour, hatch = free.pop(label[:3].lower()) if label[:3].lower() in free else next(spare)
        name = one_line(label)
        name = name if len(name) <= 24 else name[:23] + "…"
        lines = "#FFFFFF90" if colour in DARK else "#00000050"
        styles[label] = {"label": name, "facecolor": colour, "hatch": hatch, "edgecolor": lines, "linewidth": 0}
    return styles


def _points(track: Track) -> tuple[Series, Series, Series]:
    """Starts and ends ``[n]`` in seconds of the spans with speech, and their arousal and valence ``[n, 2]``."""
    points = [
        (seconds(event.start), seconds(event.end), event.arousal, event.valence)
        for event in track.events
        if isinstance(event, Arousal) and event.arousal is not None and event.valence is not None
    ]
    table = np.array(points, np.float64).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2:]


def _means(starts: Series, ends: Series, values: Series, step: float) -> tuple[Series, Series, Series]:
    """The same for longer spans: means of those whose middle is in each ``step`` seconds."""
    bins, place = np.unique((starts + ends) / 2 // step, return_inverse=True)
    sums = np.stack([np.bincount(place, weights=column) for column in values.T], axis=1)
    return bins * step, (bins + 1) * step, sums / np.bincount(place)[:, None]


@contextmanager
def _look() -> Iterator[None]:
    """matplotlib's default style with small changes, whatever the user's own is: it could be white on white."""
    import matplotlib.style
    from matplotlib.font_manager import get_font_names

    chinese_japanese_korean = sorted(name for name in get_font_names() if "CJK" in name)  # which its own font lacks
    ours = {
        "font.family": ["DejaVu Sans", *chinese_japanese_korean[:1]],
        "font.size": 8,
        "hatch.linewidth": 0.6,
        "svg.hashsalt": "sedstream",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
    }
    with matplotlib.style.context(["default", ours]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # its box in the picture says so
        yield


def encoded(figure: Figure, suffix: str) -> bytes:
    """``figure`` as a file of one of ``SUFFIXES``."""
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    data = io.BytesIO()
    with _look():
        figure.savefig(data, format=suffix[1:], dpi=figure.dpi, metadata=dates.get(suffix))
    return data.getvalue()


def _draw(figure: Figure, diarization: Diarization, waves: tuple[Series, Array, Array] | None) -> None:
    duration = max(diarization.duration, seconds(1))
    step = _step(duration, PLOT / 4)
    lengths = [segment.end - segment.start for segment in diarization.segments]
    narrow = bool(lengths) and seconds(1) * float(np.median(lengths)) * PLOT / duration < 3
    curves = [_points(track) for track in diarization.tracks]
    dense = max(len(starts) for starts, _, _ in curves) > PLOT
    if dense:
        curves = [_means(*points, step) for points in curves]
    occurring = {segment.label for segment in diarization.segments}
    styles = {label: style for label, style in _styles(diarization.labels).items() if label in occurring}
    # From the top down: title, legend, then each channel's name and panels, then the clock.
    title = one_line(Path(diarization.file).name)
    names = speakers(diarization.tracks)
    panels = [WAVE] * (waves is not None) + [SHARES if narrow else SPANS, CURVES]
    top = EDGE + TITLE * bool(title)
    y = top + _legend(figure, styles.values())
    height = y + NAME * sum(name is not None for name in names.values()) + CLOCK
    height += len(names) * (sum(panels) + GAP * len(panels))
    figure.set_size_inches(WIDTH / DPI, height / DPI)
    figure.legends[0].set_bbox_to_anchor((EDGE / WIDTH, 1 - top / height))
    _write(figure, title, EDGE, 1 - EDGE / height, 10)
    rows: list[Axes] = []
    for number, (track, points) in enumerate(zip(diarization.tracks, curves, strict=True)):
        if (name := names[track.channel]) is not None:
            y += NAME
            _write(figure, name, LEFT, 1 - (y - GAP / 2) / height, 9)
        for panel in panels:
            y += GAP + panel
            rows.append(figure.add_axes((LEFT / WIDTH, 1 - y / height, PLOT / WIDTH, panel / height)))
        if waves is not None:
            _draw_wave(rows[-3], waves[0], waves[1][:, number], waves[2][:, number], float(np.abs(waves[1:]).max()))
        (_draw_shares if narrow else _draw_spans)(rows[-2], track, styles, duration, step)
        if not track.segments:
            rows[-2].text(0.5, 0.5, "no speech", ha="center", va="center", color=INK, transform=rows[-2].transAxes)
        _draw_curves(rows[-1], *points)
    means = [what for what, drawn in (("shares", narrow), ("means", dense)) if drawn]
    _draw_time(rows, duration, f" · {' and '.join(means)} over {{}}" if means else "", step)


def _draw_wave(axes: Axes, times: Series, low: Array, high: Array, peak: float) -> None:
    """``peak``: of all channels, so that they compare; ticks with few digits, which fit beside the axis."""
    tick = next((tick for tick in (1, 0.5, 0.2, 0.1, 0.05, 0.02) if tick <= peak), 0.01)
    peak = 1.05 * max(peak, tick)
    axes.fill_between(times, low, high, color=INK, linewidth=0.4)
    axes.set(ylim=(-peak, peak), yticks=[-tick, 0, tick], yticklabels=[f"−{tick:g}", "0", f"{tick:g}"])
    axes.set_ylabel("amplitude\n(−1…1)")


def _draw_spans(axes: Axes, track: Track, styles: Mapping[str, Style], duration: float, _: float) -> None:
    """Each segment from its start to its end, with its name where it fits."""
    for label, style in styles.items():
        spans = [(seconds(s.start), seconds(s.end - s.start)) for s in track.segments if s.label == label]
        axes.broken_barh(spans, (0, 1), **style)
        thin = [start + length / 2 for start, length in spans if length < 1.5 * duration / PLOT]
        axes.vlines(thin, 0, 1, color=style["facecolor"], linewidth=72 / DPI)  # or it could fall between two pixels
        width = (_width(style["label"], 8) + 8) * duration / PLOT
        box = {"facecolor": style["facecolor"], "edgecolor": "none", "pad": 1.5}  # no hatch behind letters
        ink = "white" if style["facecolor"] in DARK else "black"
        look: Style = {"ha": "center", "va": "center", "color": ink, "bbox": box, "parse_math": False}
        for start, length in spans:
            if length >= width:
                axes.text(start + length / 2, 0.48, style["label"], **look)
    axes.set(ylim=(0, 1), yticks=[0.5], yticklabels=["emotion"])
    axes.tick_params(axis="y", length=0)


def _draw_shares(axes: Axes, track: Track, styles: Mapping[str, Style], duration: float, step: float) -> None:
    """How much of each step is of which emotion, one on the other; the white above is silence."""
    edges = np.append(np.arange(0, duration - step * 1e-6, step), duration)
    floor: Series = np.zeros(len(edges) - 1)
    for label, style in styles.items():
        spans = np.array([(seconds(s.start), seconds(s.end)) for s in track.segments if s.label == label])
        if len(spans):
            # How much of it there was before each moment is a line through the corners of its segments.
            lengths = np.stack([np.zeros(len(spans)), spans[:, 1] - spans[:, 0]], axis=1)
            before = np.interp(edges, spans.ravel(), np.cumsum(lengths))
            roof: Series = floor + 100 * np.diff(before) / np.diff(edges)
            axes.stairs(roof, edges, baseline=floor, fill=True, **style)
            floor = roof
    axes.set(ylim=(0, 100), yticks=[0, 50, 100], ylabel="emotion\n(% of time)")


def _draw_curves(axes: Axes, starts: Series, ends: Series, values: Series) -> None:
    """Level in each span and broken between spans apart."""
    joined = np.append(starts[1:] - ends[:-1] < 1e-6, False)[: len(starts), None]
    corners = np.stack([values, values, np.where(joined, values, np.nan)], axis=1).reshape(-1, 2)
    for column, look in reversed([*enumerate(CURVE_LOOKS)]):  # arousal on top
        axes.plot(np.stack([starts, ends, ends], axis=1).ravel(), corners[:, column], **look)
    axes.set(ylim=(0, 1), yticks=[0, 0.5, 1], ylabel="arousal,\nvalence (0…1)")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_time(rows: Sequence[Axes], duration: float, note: str, step: float) -> None:
    unit, clock = _clock(duration)
    ticks = np.arange(0, duration * (1 + 1e-9), _step(duration, 9))
    for axes in rows:
        axes.set(xlim=(0, duration), xticks=ticks)
        axes.tick_params(axis="x", labelbottom=axes is rows[-1])
        axes.yaxis.set_label_coords(-(LEFT - 36) / PLOT, 0.5)
    rows[-1].set_xticklabels([clock(tick) for tick in ticks])
    rows[-1].set_xlabel(f"time ({unit}){note.format(clock(step))}")


def _legend(figure: Figure, styles: Iterable[Style]) -> float:
    """Put it on the page in as few rows as fit; its height."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [*(Patch(**style) for style in styles), *(Line2D([], [], **look) for look in CURVE_LOOKS)]
    tight = {"borderpad": 0, "borderaxespad": 0, "handlelength": 1.6, "handletextpad": 0.5, "columnspacing": 1.1}
    for columns in range(len(entries), 0, -1):
        legend = figure.legend(handles=entries, loc="upper left", ncols=columns, fontsize=9, frameon=False, **tight)
        for text in legend.get_texts():
            text.set_parse_math(False)
        extent = legend.get_window_extent()
        if extent.width <= WIDTH - 2 * EDGE:
            break
        legend.remove()
    return math.ceil(extent.height)


def _write(figure: Figure, text: str, x: float, y: float, size: float) -> None:
    """A line, its top left at ``x`` pixels and the fraction ``y``, cut in the middle to fit: both ends tell."""
    shown, kept = text, len(text)
    while (width := _width(shown, size, "bold")) > (room := WIDTH - EDGE - x):
        kept = min(kept - 1, int(kept * room / width))
        shown = text[: kept - kept // 2] + "…" + text[len(text) - kept // 2 :]
    figure.text(x / WIDTH, y, shown, size=size, weight="bold", va="top", parse_math=False)


def _width(text: str, size: float, weight: str = "normal") -> float:
    """Of a line of text at ``size`` points, in pixels."""
    from matplotlib.figure import Figure

    probe = Figure(dpi=DPI).text(0, 0, text, size=size, weight=weight, parse_math=False)
    return float(probe.get_window_extent().width)


def _step(duration: float, parts: float) -> float:
    """The least of what people count in of which ``duration`` holds at most ``parts``, in seconds."""
    return next((step for step in STEPS if step * parts >= duration), STEPS[-1] * -(-duration // (STEPS[-1] * parts)))


def _clock(duration: float) -> tuple[str, Callable[[float], str]]:
    """The unit of a time axis of so many seconds, and how its times are written."""
    if duration < 60:
        return "s", lambda time: f"{time:g}"
    if duration < 3600:
        return "m:ss", lambda time: f"{int(time // 60)}:{int(time % 60):02d}"
    return "h:mm:ss", lambda time: f"{int(time // 3600)}:{int(time // 60 % 60):02d}:{int(time % 60):02d}"
