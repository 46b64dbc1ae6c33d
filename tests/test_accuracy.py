"""The accuracy benchmark's own measures, decoders, lines and peers, on data whose answer is known."""

import csv
import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import soundfile
from scipy.optimize import lsq_linear

from benchmarks.accuracy import folders, main, names
from benchmarks.accuracy.affect import pairs
from benchmarks.accuracy.bench import errors
from benchmarks.accuracy.calibration import segments as confidences
from benchmarks.accuracy.calls import KINDS, LEAST, VOICES, calls
from benchmarks.accuracy.cases import LABELS, TWO, Case, concatenations, spans
from benchmarks.accuracy.decoders import argmax, flattest, median, methods, viterbi
from benchmarks.accuracy.features import states
from benchmarks.accuracy.heads import Head, Sheet, limited
from benchmarks.accuracy.hearing import Ear, Heard, tracks
from benchmarks.accuracy.measures import auc, ece, reliability, spearman, tempered, uar
from benchmarks.accuracy.peers import beside, bounded
from benchmarks.accuracy.quantised import read
from benchmarks.accuracy.robustness import level as gained
from benchmarks.accuracy.robustness import lines, lossy, noisy, seeded, telephone
from benchmarks.accuracy.tables import insert, table
from sedstream import diarize
from sedstream.decoding.settings import DecoderSettings
from sedstream.events import Segment
from sedstream.grid import HOP, RATE
from sedstream.scoring.labels import EMOTIONS
from sedstream.training.corpora import Utterance
from sedstream.zoo import Model

RNG = np.random.default_rng(0)


def utterance(label: str, frames: int = 50, speaker: str = "a", value: int = 1000) -> Utterance:
    samples = np.full(frames * HOP, value, np.int16)
    speech = np.ones(frames, np.bool_)
    return Utterance(samples, speech, "made", speaker, "valid", EMOTIONS.index(label), 0.5, 0.5, 1.0)


def case(*labels: str, frames: int = 50) -> Case:
    return Case("made", "a", "+".join(labels), 0, tuple(utterance(label, frames) for label in labels))


# Measures


def test_calibration_error_of_known_answers() -> None:
    sure = np.tile([0.8, 0.2], (1000, 1))
    assert ece(sure, np.repeat([0, 1], [800, 200])) == pytest.approx(0.0)
    assert ece(sure, np.repeat([0, 1], [500, 500])) == pytest.approx(0.3)
    both = np.concatenate([sure, np.tile([0.4, 0.6], (1000, 1))])  # off by 0.3 in one bin and by 0.4 in another
    assert ece(both, np.repeat([0, 1, 1], [500, 500, 1000])) == pytest.approx(0.35)


def test_bins_hold_their_edges_and_weights() -> None:
    found = reliability([0.5, 0.75, 1.0], [1, 0, 1], (0.0, 0.5, 1.0), [1, 1, 2])
    assert [(b.low, b.weight) for b in found] == [(0.5, 4.0)]
    assert found[0].confidence == pytest.approx((0.5 + 0.75 + 2) / 4)
    assert found[0].right == pytest.approx(3 / 4)


def test_the_temperature_is_undone_for_a_restriction_too() -> None:
    logits = RNG.normal(0, 3, (40, 7))

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    cold = softmax(logits / 1.7)
    assert tempered(cold.astype(np.float32), 1.7) == pytest.approx(softmax(logits), abs=1e-5)
    few = cold[:, :4] / cold[:, :4].sum(1, keepdims=True)
    assert tempered(few.astype(np.float32), 1.7) == pytest.approx(softmax(logits[:, :4]), abs=1e-5)


def test_order_and_recall_of_known_answers() -> None:
    assert auc([3, 4], [1, 2]) == 1.0
    assert auc([1, 2], [3, 4]) == 0.0
    assert auc([1, 3], [2, 2]) == 0.5
    assert auc([2], [2, 1]) == 0.75
    assert spearman([1, 2, 30], [0, 1, 2]) == pytest.approx(1.0)
    assert uar(["a", "a", "a", "b"], ["a", "a", "b", "b"]) == pytest.approx((2 / 3 + 1) / 2)


def test_pairs_of_normal_and_strong() -> None:
    def row(intensity: str, take: int, arousal: float) -> tuple[dict[str, str], float]:
        path = f"audio/RAVDESS/Actor_01/03-01-05-0{1 + (intensity == 'strong')}-01-0{take}-01.opus"
        told = {"speaker": "1", "sentence": "01", "label_original": "angry", "intensity": intensity, "path": path}
        return told, arousal

    right = [row("normal", 1, 0.4), row("strong", 1, 0.6)]
    wrong = [row("normal", 2, 0.5), row("strong", 2, 0.3)]
    assert pairs([*right, *wrong, row("normal", 3, 0.1)]) == (2, 1)


# Decoders


@pytest.mark.parametrize("weight", [0.05, 0.4, 3.0])
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_total_variation_is_the_optimum(size: int, weight: float) -> None:
    """Against the dual, solved as a bounded least-squares problem: x = y - D'u with u in -weight…weight."""
    y = np.random.default_rng(size).normal(size=size)
    expected = y
    if size > 1:
        differences = np.diff(np.eye(size), axis=0)
        dual = lsq_linear(differences.T, y, (-weight, weight), tol=1e-14, method="bvls", max_iter=1000).x
        expected = y - differences.T @ dual
    assert flattest(y, weight) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("switch", [0.0, 0.7, 5.0])
def test_viterbi_is_the_best_of_all_paths(switch: float) -> None:
    logs = np.log(np.random.default_rng(3).dirichlet(np.ones(3), 7))

    def score(path: tuple[int, ...]) -> float:
        return sum(logs[t, c] for t, c in enumerate(path)) - switch * sum(a != b for a, b in itertools.pairwise(path))

    best = max(itertools.product(range(3), repeat=7), key=score)
    assert tuple(viterbi(logs, switch)) == best


def test_every_decoder_takes_away_a_flicker_and_keeps_silence_neutral() -> None:
    truth = np.repeat([0, 3, 0], 60)
    probs = np.full((180, 4), 0.1, np.float32)
    probs[np.arange(180), truth] = 0.7
    probs[72:75] = [0.1, 0.7, 0.1, 0.1]  # three frames of another emotion
    speech = np.ones(180, np.bool_)
    speech[95:100] = False
    probs[~speech] = np.nan
    expected = np.where(speech, truth, 0)
    assert (argmax(probs, speech) != expected).sum() == 3
    for name, tried in methods(DecoderSettings()).items():
        least = min((method(probs, speech) != expected).sum() for method in tried.values())
        assert least == (3 if name == "argmax" else 0), name
        assert len(tried) <= 12
    assert (median(probs, speech, 1) == argmax(probs, speech)).all()


# What is scored


def test_concatenations_follow_the_patterns() -> None:
    labels = ("neutral", "happy", "angry", "fearful")
    voices = [utterance(label, 20 + n, f"voice {speaker}") for speaker in range(2) for n, label in enumerate(labels)]
    found = concatenations(voices, 3, 0)
    assert len(found) == 2 * 5 * 2 * 3  # voices, patterns, emotions, repeats
    assert {c.pattern for c in found if len(c.parts) == 3} == {"neutral+emotion+neutral"}
    for c in found:
        assert {u.speaker for u in c.parts} == {c.speaker}
        if c.pattern == TWO:
            assert 0 not in c.classes
            assert len(set(c.classes)) == 2
    assert len({c.track([]).file for c in found}) == len(found)
    many = [utterance(label, 20, f"voice {speaker}") for speaker in range(16) for label in labels]
    assert len(concatenations(many, 4, 0)) == 16 * 5 * 2  # as many files as four voices have


def test_calls_have_their_shares() -> None:
    """Of voices with enough to say; turns of one voice, of the asked length, the same in each run."""
    said = [utterance(label, 100, f"v{n}") for n in range(8) for label in LABELS for _ in range(3)]
    few = [utterance(label, 100, "few") for label in LABELS[:3] for _ in range(LEAST // 3 - 1)]
    flat = [utterance(label, 100, "flat") for label in LABELS[:2] for _ in range(LEAST)]
    for kind, (shares, seconds) in KINDS.items():
        found = calls(said + few + flat, shares, seconds, kind)
        assert [c.speaker for c in found] == [f"v{n}" for n in range(VOICES)]
        counts = np.zeros(len(LABELS))
        for call in found:
            assert {part.speaker for part in call.parts} == {call.speaker}
            assert seconds * RATE <= call.ends[-1] < (seconds + 6) * RATE
            counts += np.bincount(call.classes, minlength=len(LABELS))
        assert counts / counts.sum() == pytest.approx(np.array(shares), abs=0.1)
        again = calls(said + few + flat, shares, seconds, kind)
        assert [c.classes for c in again] == [c.classes for c in found]
    assert not calls([u for u in said if EMOTIONS[u.emotion] != "sad"], *KINDS["sad only"], "sad only")


def test_a_case_and_its_truth() -> None:
    made = case("neutral", "angry", "neutral")
    assert made.truth.tolist() == [0] * 50 + [3] * 50 + [0] * 50
    right, late = errors([made.track(spans(made.truth))]), errors([made.track(spans(np.roll(made.truth, 10)))])
    assert right.rate == 0
    assert (late.false_alarm, late.missed, late.total) == (200_000_000, 200_000_000, 3_000_000_000)


def test_told_boundaries_cost_nothing() -> None:
    made = case("neutral", "sad")
    probs = np.full((100, 4), 0.2, np.float32)
    probs[:, 0] += 0.1
    probs[60:, 2] += 0.5  # sad on the mean of the second half, not from its start
    heard = Heard(probs, np.zeros((100, 2), np.float32), np.ones(100, np.bool_), ())
    assert errors([made.track(bounded(made, heard))]).rate == 0
    assert errors([made.track(spans(argmax(probs, heard.speech)))]).rate == pytest.approx(0.1)


def test_confidence_of_segments_beside_what_is_right() -> None:
    made = case("neutral", "sad")
    segment = Segment(40, 100, "sad", 0.9, (0.1, 0.0, 0.9, 0.0), 0.3, 0.5, 0.5, 0.5)
    heard = Heard(np.zeros((100, 4), np.float32), np.zeros((100, 2), np.float32), np.ones(100, np.bool_), (segment,))
    assert confidences([made], [heard]) == [(0.9, pytest.approx(50 / 60), 60)]


@pytest.mark.parametrize("plan", ["live", "batch"])
def test_an_ear_hears_what_diarize_hears(model: Model, clip: Path, plan: str) -> None:
    """Many recordings side by side, each as if it were alone."""
    samples, _ = soundfile.read(clip, dtype="int16")
    parts = [samples[: RATE * 4], samples[RATE * 4 : RATE * 10 + 77]]
    cases = [
        Case("made", "a", "x", n, (Utterance(part, np.ones(9, np.bool_), "made", "a", "valid", 0, 0, 0, 1),))
        for n, part in enumerate(parts)
    ]
    ear = Ear(model)
    for made, heard in zip(cases, ear.cases(cases, plan), strict=True):
        alone = diarize(made.samples(), rate=RATE, model=model, plan=plan, labels=LABELS)
        assert heard.segments == alone.segments
        assert (heard.speech == alone.frames.speech).all()
        assert (heard.probs[heard.speech] == alone.frames.probs[heard.speech]).all()
        assert heard.arousal == pytest.approx(np.nanmean(alone.frames.arousal))
    assert ear.cases(cases[:1], plan)[0] is ear.cases(cases, plan)[0]
    louder = ear.cases(cases, plan, "zeros", lambda made: made.samples() * 0)
    assert not any(heard.speech.any() for heard in louder)


def test_features_are_per_frame(model: Model, clip: Path) -> None:
    samples, _ = soundfile.read(clip, dtype="float32")
    found = states(model, samples[: RATE * 3 + 5])
    assert len(found) == 151
    assert np.isfinite(found).all()
    assert found.std(0).min() > 0


# Lines


def test_noise_comes_at_its_ratio() -> None:
    speech = RNG.normal(0, 0.1, 16_000).astype(np.float32)
    noise = RNG.integers(-9000, 9000, 5000).astype(np.int16)
    added = noisy(speech, noise, 10, np.random.default_rng(1)) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(10, abs=0.01)


def test_levels_and_losses() -> None:
    speech = np.sin(np.arange(16_000) / 20).astype(np.float32) * 0.7
    assert np.abs(gained(speech, 0)).max() == pytest.approx(0.1, abs=1e-4)
    assert np.abs(gained(speech, 20)).max() == pytest.approx(1.0, abs=1e-4)
    assert np.abs(gained(speech, -20)).max() == pytest.approx(0.01, abs=1e-4)
    assert not gained(np.zeros(8, np.float32), 20).any()
    lost = lossy(np.ones(HOP * 1000, np.float32), 0.1, np.random.default_rng(0)).reshape(-1, HOP)
    assert set(lost.mean(1)) == {0.0, 1.0}
    assert 0.07 < 1 - lost.mean() < 0.13


def test_a_telephone_keeps_low_tones_in_place_and_no_high_ones() -> None:
    time = np.arange(RATE) / RATE
    low = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    high = (0.3 * np.sin(2 * np.pi * 6000 * time)).astype(np.float32)
    heard = telephone(low)
    assert len(heard) == len(low)
    assert np.corrcoef(heard[800:-800], low[800:-800])[0, 1] > 0.99
    assert 0 < np.abs(heard - low)[800:-800].max() < 0.05  # G.711 is coarse, and that is heard
    assert np.abs(telephone(high)[800:-800]).max() < 0.02


def test_lines_are_the_same_in_every_run() -> None:
    made = case("neutral", "sad")
    noises = [RNG.integers(-9000, 9000, 5000).astype(np.int16) for _ in range(5)]
    for name, line in lines(noises).items():
        assert (line(made) == line(made)).all(), name
        assert (line(made) != made.samples()).any(), name
    assert seeded(made).random() != seeded(case("neutral", "happy", "sad")).random()
    assert "noise, 10 dB" not in lines([])


# Peers


def test_a_head_learns_what_is_there_and_stops() -> None:
    rng = np.random.default_rng(0)

    def sheet(count: int) -> Sheet:
        classes = rng.integers(0, 4, count)
        found = rng.normal(size=(count, 4, 512)).astype(np.float16)
        found[np.arange(count), 1, classes] += 9  # the second of the states tells the class
        return Sheet(found, classes)

    train, valid, test = sheet(3000), sheet(300), sheet(300)
    knows, ignorant = Head((0, 1), 512, "cpu"), Head((3,), 512, "cpu")
    assert knows.fit([train], [valid], 0) < 0.5 < ignorant.fit([train], [valid], 0)
    assert (knows.classes(test.states) == test.classes).mean() > 0.9
    assert (ignorant.classes(test.states) == test.classes).mean() < 0.4


def test_weights_of_8_bits(tmp_path: Path) -> None:
    """A product and a convolution as transformers.js quantises them, back to floats; what is float stays."""
    helper, tensor = onnx.helper, onnx.numpy_helper.from_array
    weight = np.arange(12, dtype=np.int8).reshape(4, 3)
    stored = [tensor(np.float32([0.5, 1.5]), "layers.0.fc1.bias")]
    for name, array in (("onnx::MatMul_7", weight), ("conv1.weight", weight[:, :, None])):
        stored += [tensor(array, f"{name}_quantized"), tensor(np.int8(2), f"{name}_zero_point")]
        stored.append(tensor(np.float32(0.25), f"{name}_scale"))
    nodes = [
        helper.make_node("MatMulInteger", ["a", "onnx::MatMul_7_quantized"], ["b"], "/layers.0/fc1/MatMul_quant"),
        helper.make_node("ConvInteger", ["a", "conv1.weight_quantized"], ["c"], "/conv1/Conv_quant"),
        helper.make_node("MatMulInteger", ["a", "b"], ["d"], "/layers.0/self_attn/MatMul_quant"),
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [], [], stored)), tmp_path / "model.onnx")
    found = read(tmp_path / "model.onnx")
    assert set(found) == {"layers.0.fc1.bias", "layers.0.fc1.weight", "conv1.weight"}
    wanted = 0.25 * (weight - 2.0)
    np.testing.assert_array_equal(found["layers.0.fc1.weight"], wanted.T)
    np.testing.assert_array_equal(found["conv1.weight"], wanted[:, :, None])


def test_every_corpus_has_the_same_share_of_the_time() -> None:
    cases = {"few": [case("neutral", "sad")] * 3, "many": [case("neutral", "sad")] * 100}
    found = limited(cases, 40 / 3600, 0)  # 20 s each, of 2 s a case
    assert len(found["few"]) == 3
    assert 10 <= len(found["many"]) <= 11


def test_a_miss_reads_as_one() -> None:
    assert (beside(0.3, 0.4), beside(0.5, 0.4)) == ("25 % below", "25 % above")


def test_acoustics_of_loud_and_soft(clip: Path) -> None:
    pytest.importorskip("sklearn")
    from benchmarks.accuracy.acoustics import Acoustics, Windows, classes, machine

    samples, _ = soundfile.read(clip, dtype="float32")
    samples = samples[: RATE * 6]
    acoustics = Acoustics()
    loud, soft = (acoustics.windows(samples * gain) for gain in (1.0, 0.01))
    assert loud.shape == (6, 88)
    sheet = Windows(np.concatenate([loud, soft]), np.repeat([3, 0], 6))
    model = machine([sheet], [sheet])
    assert classes(model, loud, 300).tolist() == [3] * 300
    assert classes(model, soft, 290).tolist() == [0] * 290
    assert acoustics.windows(samples[:1000]).shape == (1, 88)


# Tables and the command


def test_a_block_of_a_card_is_replaced_and_nothing_else() -> None:
    card = "# Model\n\nText.\n"
    once = insert(card, "peers", "first")
    assert once.startswith(card)
    moved = once.replace("first", "first") + "\n## After\n"
    twice = insert(moved, "peers", "second \\1")
    assert "first" not in twice
    assert "second \\1" in twice
    assert twice.endswith("## After\n")
    assert insert(twice, "peers", "second \\1") == twice
    assert table(("a", "b"), [("x", "1")]) == "| a | b |\n|---|---:|\n| x | 1 |"


def test_what_is_asked_for_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert names("eder, Peers") == ("eder", "peers")
    assert folders("A=/x,B=y") == {"A": Path("/x"), "B": Path("y")}
    for arguments in (["--only", "nothing"], ["--left-out", "RAVDESS"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert "expected NAME=FOLDER" in capsys.readouterr().err


def test_the_command_on_a_folder(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read speech under made-up labels: neutral is right for half of it."""
    samples, _ = soundfile.read(clip, dtype="int16")
    rows = []
    for n, (split, label) in enumerate(itertools.product(("valid", "test"), ("neutral", "angry"))):
        name = f"{n}.wav"
        soundfile.write(tmp_path / name, samples[n * RATE * 3 :][: RATE * 3], RATE)
        rows.append([name, "Made", f"voice {split}", label, label, "", "1", split])
    with (tmp_path / "index.csv").open("w", newline="") as file:
        head = ["path", "corpus", "speaker", "emotion", "label_original", "intensity", "sentence", "split"]
        csv.writer(file).writerows([head, *rows])
    only = "eder,latency,ablation,robustness,affect,calibration"
    main(["--data", str(tmp_path), "--store", str(tmp_path / "store"), "--only", only, "--repeats", "1"])
    out = capsys.readouterr().out
    assert out.count("valid split") == 6
    made = next(line for line in out.splitlines() if line.startswith("| Made |"))
    cells = [cell.strip() for cell in made.split("|")[2:-1]]
    assert cells[0] == "4"  # files: one of each pattern
    assert 40 < float(cells[7]) < 70  # neutral everywhere
    assert sum(float(cell) for cell in cells[2:5]) == pytest.approx(float(cells[1]), abs=0.2)
    assert "| live | 0.64 |" in out
    assert "| G.711, 8 kHz |" in out
    assert "Made: high against low arousal, AUC | 1 / 1 |" in out
    assert (tracks([], [])) == []
