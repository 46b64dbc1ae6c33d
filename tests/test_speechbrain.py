"""SpeechBrain's emotion diarization: its checkpoints, its numbers on a window, its answer for a whole file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import recipe
import soundfile
import torch
from numpy.typing import NDArray
from speechbrain.utils.checkpoints import Checkpointer
from test_wav2vec import BASE, FAMILIES, LARGE, SIZE, library, voices

import sedstream
from sedstream import catalogue
from sedstream.capacity import measure, warm
from sedstream.encoders import affect, speechbrain
from sedstream.encoders.heads import AffectHead
from sedstream.errors import BadInput, BadModel
from sedstream.events import End, Final, SpeechEnd, SpeechStart, to_wire
from sedstream.exports.summary import rows
from sedstream.grid import HOP, Plan
from sedstream.loop import tick
from sedstream.serving.choices import choose_plan
from sedstream.short import ShortStream
from sedstream.stream import Stream
from sedstream.whole import WholeStream
from sedstream.zoo import load

WHOLE = Plan(0, 0, 0)
WORDS = {"n": "neutral", "s": "sad", "h": "happy", "a": "angry"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe.save(tmp_path_factory.mktemp("wavlm"), "WavLM", {**SIZE, **LARGE, "conv_bias": False})


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kind", [BASE, LARGE], ids=["base", "large"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_equals_speechbrain(family: str, kind: dict[str, object], normalise: bool, tmp_path: Path) -> None:
    """The log-probabilities of a window are SpeechBrain's of that window as a recording."""
    checkpoint = recipe.save(tmp_path, family, {**SIZE, **kind}, normalise)
    theirs = recipe.reference(checkpoint)
    model = load(checkpoint)
    assert model.manifest.labels == ("neutral", "sad", "happy", "angry")
    plan = Plan(10, 16, 14)
    samples = voices(2, plan.window * HOP)
    expected = theirs.hparams.log_softmax(theirs.mods.output_mlp(theirs.encode_batch(samples, torch.ones(2))))
    scores, affect, _ = model(samples.numpy(), plan)
    np.testing.assert_allclose(scores, expected[:, 10:26].numpy(), atol=1e-4, rtol=0)
    assert np.isnan(affect).all()
    whole, _, _ = model(samples.numpy(), WHOLE)
    np.testing.assert_allclose(whole, expected.numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("cut", [0, 79, 80, 81, 319])
def test_a_whole_file(cut: int, checkpoint: Path, speech: NDArray[np.float32], tmp_path: Path) -> None:
    """`--plan whole` is SpeechBrain's answer for a file: every frame's label, every boundary."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, speech[: 300 * HOP + cut], 16_000, subtype="FLOAT")
    expected = recipe.reference(checkpoint).diarize_batch(
        torch.from_numpy(speech[None, : 300 * HOP + cut]), torch.ones(1), ["it"]
    )["it"]
    assert len({row["emotion"] for row in expected}) > 1
    assert len(expected) > 5
    answer = sedstream.diarize(path, model=checkpoint, plan="whole")
    assert [row["emotion"] for row in answer.rows()] == [WORDS[row["emotion"]] for row in expected]
    for side in ("start", "end"):
        ours, theirs = [row[side] for row in answer.rows()], [row[side] for row in expected]
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)
    frames = answer.frames
    assert frames.speech.sum() == (300 * HOP + cut - 80) // HOP
    labels = [label for row in expected for label in [row["emotion"]] * round((row["end"] - row["start"]) / 0.02)]
    assert [answer.labels[n] for n in frames.probs[frames.speech].argmax(1)] == [WORDS[label] for label in labels]
    together = dict(sedstream.diarize_many([path, path], model=checkpoint, plan="whole"))
    assert together == {path: answer}


def test_a_whole_stream(checkpoint: Path, speech: NDArray[np.float32]) -> None:
    """How the samples come changes nothing, a flush ends a span, and frames without an answer are silence."""
    model = load(checkpoint)
    answers = []
    for packet in (160, 7_001, 48_000):
        stream = WholeStream(model.manifest, "whole")
        for start in range(0, 48_000, packet):
            stream.write(speech[start : min(start + packet, 48_000)])
            assert not tick(model, [stream])
        stream.close()
        while tick(model, [stream]):
            pass
        assert stream.done
        answers.append(stream.events())
    assert answers[0] == answers[1] == answers[2]
    kinds = [type(event) for event in answers[0]]
    assert kinds[:2] == [SpeechStart, SpeechEnd]
    assert kinds[-1] is End
    segments = [event.segment for event in answers[0] if isinstance(event, Final)]
    assert [segment.start for segment in segments] == [0, *(segment.end for segment in segments[:-1])]
    assert segments[-1].end == 149
    assert segments[0].arousal_mean is segments[0].valence_mean is None
    stream = WholeStream(model.manifest, "whole")
    stream.write(speech[:20_000])
    stream.flush()
    stream.write(speech[20_000:48_000])
    stream.close()
    while tick(model, [stream]):
        pass
    pieces = [event.segment for event in stream.events() if isinstance(event, Final)]
    first = sedstream.diarize(speech[: 62 * HOP], rate=16_000, model=model, plan="whole")
    second = sedstream.diarize(speech[62 * HOP : 48_000], rate=16_000, model=model, plan="whole")
    assert pieces[: len(first.segments)] == list(first.segments)
    assert [(s.start - 62, s.label) for s in pieces[len(first.segments) :]] == [
        (s.start, s.label) for s in second.segments
    ]


def test_too_short_for_a_frame(checkpoint: Path) -> None:
    """SpeechBrain fails then; here the recording is all silence."""
    for samples in (1, 399):
        short = np.zeros(samples, np.float32)
        assert not sedstream.diarize(short, rate=16_000, model=checkpoint, plan="whole").segments
    assert len(sedstream.diarize(voices(1, 400)[0].numpy(), rate=16_000, model=checkpoint, plan="whole").segments) == 1


@pytest.fixture
def spoilt(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "spoilt"))


def test_settings_run_nothing(spoilt: Path) -> None:
    """SpeechBrain would call what the tags name; here they are text."""
    trap = spoilt / "sprung"
    text = (spoilt / "hyperparams.yaml").read_text()
    for line in (
        f"trap: !apply:pathlib.Path.touch [!new:pathlib.Path [{trap}]]",
        f"trap: !!python/object/apply:os.mkdir [{trap}]",
        f"__trap: !apply:os.mkdir [{trap}]",
    ):
        (spoilt / "hyperparams.yaml").write_text(f"{line}\n{text}")
        if "!!python" in line:
            with pytest.raises(BadModel, match="expected readable YAML"):
                speechbrain.load(spoilt)
        else:
            assert speechbrain.load(spoilt).labels[0] == "neutral"
        assert not trap.exists()
    (spoilt / "hyperparams.yaml").write_text(text.replace("stride: 1", "stride: !apply:int [1]"))
    with pytest.raises(BadModel, match="Bad hyperparameter stride"):
        speechbrain.load(spoilt)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("window_length: 1", "window_length: 3", "Bad hyperparameter window_length 3, expected 1"),
        ("norm_type: sentence", "norm_type: global", "Bad input_norm"),
        ("std_norm: False", "std_norm: True", "Bad input_norm"),
        ("    output_norm: True", "    output_norm: True\n    output_all_hiddens: True", "Bad output_all_hiddens"),
        ("wav2vec2: !new", "wav2vec3: !new", "Bad hyperparameter 'wav2vec2', expected a module"),
        ("stride: 1", "stride: [1", "expected readable YAML"),
        ("stride: 1", "stride: 2020-13-45", "expected readable YAML"),
        ("stride: 1", "stride: !!timestamp x", "expected readable YAML"),
        ("stride: 1", "stride: !ref <stride>", "Bad hyperparameter stride '<stride>', expected 1"),
    ],
)
def test_settings_that_are_not_computed(old: str, new: str, says: str, spoilt: Path) -> None:
    path = spoilt / "hyperparams.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BadModel, match=says):
        speechbrain.load(spoilt)


@pytest.mark.parametrize("name", speechbrain.FILES)
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04\x95pickle", b"\xff\xfe["])
def test_broken_files(name: str, content: bytes | None, spoilt: Path) -> None:
    path = spoilt / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(BadModel, match="expected"):
        load(spoilt)


def test_the_folder_of_a_training(checkpoint: Path, tmp_path: Path) -> None:
    """As SpeechBrain's recipe leaves it, saved by SpeechBrain: of its epochs the one that the recipe tests counts."""
    theirs = recipe.reference(checkpoint)
    parts = {"wav2vec2": theirs.mods.wav2vec2, "model": torch.nn.ModuleList([theirs.mods.output_mlp])}
    save = tmp_path / "save"
    saver = Checkpointer(save, parts)
    matrix = theirs.mods.output_mlp.w.weight
    expected = {}
    with torch.no_grad():
        for name, meta in [
            ("worse", {"error_rate": 0.4}),
            ("old", {"error_rate": 0.2, "unixtime": 5}),
            ("best", {"error_rate": 0.2}),
            ("last", {"error_rate": 0.3}),
            ("within", {"end-of-epoch": False}),
        ]:
            matrix.mul_(1.5)
            expected[name] = matrix.clone()
            saver.save_checkpoint(meta=meta, name=name)
    for name in ("hyperparams.yaml", "label_encoder.txt"):
        shutil.copyfile(checkpoint / name, (tmp_path if name == "hyperparams.yaml" else save) / name)
    fetched = save / "wav2vec2_checkpoint" / "models--microsoft--wavlm-large" / "snapshots" / "c1423e"
    fetched.mkdir(parents=True)
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copyfile(checkpoint / name, fetched / name)
    found = speechbrain.load(tmp_path)
    assert found.encoder == speechbrain.load(checkpoint).encoder
    best = saver.find_checkpoint(min_key="error_rate")
    assert best is not None
    assert best.path.name == "CKPT+best"
    for number, rate in enumerate((".nan", "1" + 400 * "0")):
        broken = shutil.copytree(save / "CKPT+worse", save / f"CKPT+{number}")
        (broken / "CKPT.yaml").write_text(f"error_rate: {rate}\nunixtime: 1\n")
    assert torch.equal(found.tensors["head.emotion.weight"], expected["best"])
    assert load(tmp_path).manifest.labels == ("neutral", "sad", "happy", "angry")
    assert catalogue.card(str(tmp_path)).startswith(f"{tmp_path.name} -  windowed speechbrain, unknown, ")
    for epoch in save.glob("CKPT*"):
        shutil.rmtree(epoch)
    with pytest.raises(BadModel, match="save', expected an epoch CKPT"):
        load(tmp_path)


def test_labels(spoilt: Path) -> None:
    """Those of the manifest, in its order, whatever order the checkpoint has."""
    first = speechbrain.load(spoilt)
    again = speechbrain.load(spoilt, ("angry", "happy", "neutral", "sad"))
    key = "head.emotion.weight"
    assert torch.equal(again.tensors[key], first.tensors[key][[3, 2, 0, 1]])
    with pytest.raises(BadModel, match="Bad labels of .*, expected calm, angry, found neutral, sad, happy, angry"):
        speechbrain.load(spoilt, ("calm", "angry"))
    path = spoilt / "label_encoder.txt"
    for text in (
        "'a' => 0\n",
        "'a' => 0\n'b' => 2\n",
        "'a' => 0\n'b' => x\n",
        "'a' => 0\n'a' => 1\n",
        "3 => 0\n4 => 1\n",
        "'n' => 0\n'neutral' => 1\n'a' => 2\n",
    ):
        path.write_text(text)
        with pytest.raises(BadModel, match="Bad label encoder"):
            speechbrain.label_encoder(path)


def test_a_whole_plan_is_not_live(checkpoint: Path) -> None:
    model = load(checkpoint)
    with pytest.raises(BadInput, match="Bad plan 'whole', expected one for live audio"):
        Stream(model.manifest, "whole")
    with pytest.raises(BadInput, match="expected a plan for live audio"):
        choose_plan(model.manifest, "whole")
    assert choose_plan(model.manifest, 100.0) == "batch"
    assert choose_plan(model.manifest, float("1e999")) == "batch", "however patient: it is live audio"
    with pytest.raises(BadInput, match="expected one for live audio"):
        next(measure(model, "whole"))
    lines = list(catalogue.lines(model.manifest))
    assert "whole at the end" in lines[2]
    warm(model)


def test_a_live_session(checkpoint: Path, speech: NDArray[np.float32]) -> None:
    """Windows, VAD and decoder around a SpeechBrain checkpoint: silence has no emotion, arousal is null on the wire."""
    answer = sedstream.diarize(speech[:80_000], rate=16_000, model=checkpoint, plan="live")
    assert answer.segments
    assert not answer.frames.speech.all()
    row = next(answer.rows())
    assert row["arousal"] == {"mean": None, "peak": None}
    told = [to_wire(event, answer.labels) for event in answer.tracks[0].events]
    assert all(message["arousal"] is None for message in told if message["type"] == "arousal")
    assert next(rows(answer))["arousal_mean"] is None
    for name in ("answer.csv", "answer.jsonl", "answer.rttm", "answer.TextGrid", "answer.parquet", "answer.vtt"):
        answer.save(checkpoint.parent / name)
    line = (checkpoint.parent / "answer.csv").read_text().splitlines()[1]
    assert f",{row['emotion']},,,," in line


@torch.inference_mode()
def test_arousal_dominance_valence(tmp_path: Path) -> None:
    """audEERING's architecture: transformers' encoder, the mean of its last hidden state, two matrices."""
    import transformers

    reference = library("Wav2Vec2", LARGE)
    head = AffectHead(features=128)
    tensors = {f"wav2vec2.{name}": tensor for name, tensor in reference.state_dict().items()}
    tensors |= {f"classifier.{name}": tensor for name, tensor in head.state_dict().items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    reference.config.save_pretrained(tmp_path)
    samples = voices(1, 20_000) * 0.01
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    given = extractor(samples[0].numpy(), sampling_rate=16_000, return_tensors="pt").input_values
    pooled = reference(given).last_hidden_state.mean(1)
    expected = torch.tanh(pooled @ head.dense.weight.T + head.dense.bias) @ head.out_proj.weight.T + head.out_proj.bias
    found = affect.load(tmp_path)(samples)
    assert found.shape == (1, 3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadModel, match="expected a folder with model.safetensors or pytorch_model.bin"):
        affect.load(tmp_path / "nowhere")
    del tensors["classifier.dense.weight"]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadModel, match="expected audEERING's"):
        affect.load(tmp_path)


@pytest.mark.parametrize("frames", [1, 100, 144, 479, 480])
def test_a_short_recording(frames: int, checkpoint: Path, speech: NDArray[np.float32], tmp_path: Path) -> None:
    """Nothing but the recording is read, up to the next length, however it comes; with others in a folder too."""
    model = load(checkpoint)
    samples = speech[: frames * HOP - 7]
    length = -(-frames // 48) * 48
    padded = np.zeros((length + 1) * HOP, np.float32)
    padded[: len(samples)] = samples
    expected = np.exp(model([padded], Plan(0, length, 1))[0][0])
    found = sedstream.diarize(samples, rate=16_000, model=model)
    frames_found = found.frames
    assert len(frames_found.probs) == frames
    spoken = frames_found.speech
    assert spoken.any() == (frames > 1)
    np.testing.assert_array_equal(frames_found.probs[spoken], expected[:frames][spoken])
    path, longer = tmp_path / "short.wav", tmp_path / "longer.wav"
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    soundfile.write(longer, speech[: 700 * HOP], 16_000, subtype="FLOAT")
    together = dict(sedstream.diarize_many([path, longer, path], model=model))
    assert together[path].segments == found.segments
    assert together[longer].segments == sedstream.diarize(longer, model=model).segments


def test_short_spans(checkpoint: Path, speech: NDArray[np.float32]) -> None:
    """How samples come changes nothing, and what follows a flush is a recording of its own, short or not."""
    model = load(checkpoint)
    answers = []
    for packet in (320, 7_001, 400_000):
        stream = ShortStream(model.manifest, "batch")
        for first, end in ((0, 600 * HOP), (600 * HOP, 700 * HOP), (700 * HOP, 780 * HOP)):
            for start in range(first, end, packet):
                stream.write(speech[start : min(start + packet, end)])
                while tick(model, [stream]):
                    pass
            if end < 780 * HOP:
                stream.flush()
        stream.close()
        while tick(model, [stream]):
            pass
        answers.append([event.segment for event in stream.events() if isinstance(event, Final)])
    assert answers[0] == answers[1] == answers[2]
    last = sedstream.diarize(speech[700 * HOP : 780 * HOP], rate=16_000, model=model).segments
    assert [(s.start - 700, s.end - 700, s.label) for s in answers[0] if s.start >= 700] == [
        (s.start, s.end, s.label) for s in last
    ]
    assert {s.start >= 600 for s in answers[0]} == {True, False}


def test_rows_in_the_order_of_the_labels(tmp_path: Path) -> None:
    """The numbers that a matrix adds go with its rows."""
    checkpoint = recipe.save(tmp_path, "WavLM", {**SIZE, **BASE})
    matrix = torch.load(checkpoint / "model.ckpt", weights_only=True)
    (name,) = matrix
    torch.save(matrix | {name.replace("weight", "bias"): torch.arange(4.0)}, checkpoint / "model.ckpt")
    own = speechbrain.load(checkpoint)
    other = speechbrain.load(checkpoint, own.labels[::-1])
    assert own.head["bias"]
    assert other.labels == own.labels[::-1]
    for part in ("weight", "bias"):
        found, expected = (made.tensors[f"head.emotion.{part}"] for made in (other, own))
        assert torch.equal(found, expected.flip(0))
