"""Predictions for audio clips of any length, and the plot of the attention to them."""

import math
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import zoo
from zoo.cli.main import main
from zoo.inference import long_audio
from zoo.interpret.plot_audio import mel_bin, plot_audio_attention, plot_spectrograms
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor

SAMPLING_RATE = 8000


@pytest.fixture(scope="module")
def classifier():
    model = zoo.create_model("ast_tiny", seed=0, width=16, depth=2, heads=2, max_length=40, mel_bins=32, num_classes=3)
    model.preprocess = SpectrogramFeatureExtractor(
        sampling_rate=SAMPLING_RATE, frames=40, num_mel_bins=32, mean=-8, std=4
    )
    model.labels = ["a", "b", "c"]
    return model.eval()


@pytest.fixture(scope="module")
def writer():
    model = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=5, seed=0, width=32, depth=2, heads=2, dropout=0.0,
                             conv_channels=(16, 16), conv_kernels=(10, 8), conv_strides=(5, 4), position_kernel=8,
                             position_groups=2)  # fmt: skip
    model.preprocess = WaveformFeatureExtractor(
        sampling_rate=SAMPLING_RATE, normalize=False, vocabulary=Vocabulary.of(["abc"])
    )
    return model.eval()


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * SAMPLING_RATE), generator=torch.Generator().manual_seed(seed))


def saved(path: Path, wave: torch.Tensor, sampling_rate: int = SAMPLING_RATE) -> Path:
    soundfile.write(path, wave.numpy(), sampling_rate, subtype="FLOAT")
    return path


def probabilities(model, *waves: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(**model.preprocess([(wave, SAMPLING_RATE) for wave in waves])).softmax(-1)


def test_a_long_clip_is_the_mean_of_its_windows(classifier, tmp_path: Path) -> None:
    wave, limit = noise(2.3), classifier.preprocess.max_samples
    starts = [*range(0, len(wave) - limit, limit), len(wave) - limit]
    expected = probabilities(classifier, *(wave[s : s + limit] for s in starts)).mean(0)
    for clip in ((wave, SAMPLING_RATE), str(saved(tmp_path / "long.wav", wave)), (tmp_path / "long.wav").read_bytes()):
        assert dict(zoo.predict(classifier, clip)) == pytest.approx(dict(zip("abc", expected.tolist())), abs=1e-5)


def test_probabilities_are_averaged_not_scores(classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.tensor([[4.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 9.0]])
    monkeypatch.setattr(long_audio, "run", lambda model, batch: scores[: len(batch["input_values"])])
    clip = noise(3 * classifier.preprocess.max_samples / SAMPLING_RATE)
    expected = scores.softmax(-1).mean(0).tolist()
    assert dict(zoo.predict(classifier, (clip, SAMPLING_RATE))) == pytest.approx(dict(zip("abc", expected)))


def test_short_clips_are_predicted_as_they_are(classifier) -> None:
    waves = [noise(0.2, 1), noise(0.3, 2)]
    predictions = zoo.predict(classifier, [(wave, SAMPLING_RATE) for wave in waves], top_k=1)
    expected = probabilities(classifier, *waves).max(-1)
    assert [one[0][0] for one in predictions] == ["abc"[i] for i in expected.indices]
    assert [one[0][1] for one in predictions] == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert zoo.predict(classifier, []) == []


def test_windows_of_speech_are_joined(writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With context as wide as the model sees, pieces have the frames of the whole; attention is masked to be local."""
    wave = noise(3.1)
    model = zoo.create_model("wav2vec2_tiny", **writer.config.replace(depth=1, attention={"kind": "local", "window": 5})
                             .to_dict(), seed=0).eval()  # fmt: skip
    model.preprocess = writer.preprocess
    with torch.no_grad():
        whole = model(**model.preprocess([(wave, SAMPLING_RATE)]))[0]
    monkeypatch.setattr(long_audio, "SECONDS", 0.8)
    monkeypatch.setattr(long_audio, "CONTEXT", 0.3)
    pieces = long_audio.frame_scores(model, (wave, SAMPLING_RATE))
    assert pieces.shape == whole.shape and torch.allclose(pieces, whole, atol=1e-4)
    assert torch.allclose(long_audio.frame_scores(model, saved(tmp_path / "l.wav", wave)), pieces, atol=1e-4)


@pytest.mark.parametrize("seconds", [0.5, 0.7999, 0.8, 0.8001, 0.81, 1.3, 1.301, 2.0])
def test_no_frame_is_lost_or_counted_twice(writer, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_audio, "SECONDS", 0.8)
    monkeypatch.setattr(long_audio, "CONTEXT", 0.3)
    wave = noise(seconds)
    assert len(long_audio.frame_scores(writer, (wave, SAMPLING_RATE))) == writer.frames(len(wave))


def test_equal_texts_of_different_symbols_are_one_text(writer, monkeypatch: pytest.MonkeyPatch) -> None:
    a, space = (writer.preprocess.vocabulary.tokens.index(symbol) for symbol in "a|")
    found = [([a], math.log(0.3)), ([a, a], math.log(0.25)), ([a, space], math.log(0.2))]
    monkeypatch.setattr(long_audio, "beam", lambda *args, **options: [found])
    texts = zoo.predict(writer, (noise(0.4), SAMPLING_RATE))
    assert [text for text, _ in texts] == ["a", "aa"] and [p for _, p in texts] == pytest.approx([0.5, 0.25])


def test_texts_with_probabilities(writer) -> None:
    prediction = zoo.predict(writer, (noise(0.4), SAMPLING_RATE), top_k=3)
    assert len(prediction) == 3 and all(set(text) <= set("abc ") for text, _ in prediction)
    probabilities_ = [p for _, p in prediction]
    assert probabilities_ == sorted(probabilities_, reverse=True) and sum(probabilities_) <= 1 + 1e-9
    writer.preprocess, kept = WaveformFeatureExtractor(sampling_rate=SAMPLING_RATE), writer.preprocess
    with pytest.raises(ValueError, match="the model has no vocabulary to decode texts with"):
        zoo.predict(writer, (noise(0.4), SAMPLING_RATE))
    writer.preprocess = kept


def test_from_the_command_line(classifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo.save(classifier, tmp_path / "model")
    short, fast = saved(tmp_path / "short.wav", noise(0.2)), saved(tmp_path / "fast.wav", noise(0.5), 16000)
    assert main(["predict", str(tmp_path / "model"), str(short), "--top-k", "1"]) == 0
    assert "short.wav" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "model"), str(fast)]) == 2
    assert "a sampling rate of 16000 Hz, expected 8000 Hz" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "model"), str(fast), "--resample"]) == 0
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "none.wav")]) == 2
    assert "there is no audio file" in capsys.readouterr().err


def test_a_long_file_prints_a_line_a_minute(
    classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = count()
    monkeypatch.setattr("zoo.utils.progress.time.monotonic", lambda: 60.0 * next(minutes))
    zoo.predict(classifier, str(saved(tmp_path / "short.wav", noise(1.0))))
    assert capsys.readouterr().err == ""
    zoo.predict(classifier, str(saved(tmp_path / "long.wav", noise(40.0))))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1 and lines[0].startswith("long.wav, seconds: ") and " of 40, " in lines[0]
    assert lines[-1].startswith("long.wav, seconds: 40 of 40, ")


# --- the plot ---------------------------------------------------------------------------------------------------------


def test_plot_of_clips(classifier, tmp_path: Path) -> None:
    waves = [(noise(0.2, i), SAMPLING_RATE) for i in range(2)]
    figure = plot_audio_attention(classifier, waves, tmp_path / "a.png", labels=[0, 1])
    assert (tmp_path / "a.png").stat().st_size > 10_000
    assert len(figure.axes) == 2 * 2 * 3 + 1  # two rows of six, and the bar of colors
    values = classifier.preprocess(waves)["input_values"]
    assert len(plot_audio_attention(classifier, values).axes) == 13


def test_attention_stands_where_its_patches_do(classifier) -> None:
    """One patch is looked at: the third in time, the first in frequency."""
    rows, columns = classifier.patches.grid
    heat = torch.zeros(1, rows, columns)
    heat[0, 0, 2] = 10.0
    figure = plot_spectrograms(classifier, torch.randn(1, 40, 32), heat, ["x"])
    over = figure.axes[4].images[1]
    colors = np.asarray(over.get_array())
    place = np.unravel_index(colors.argmax(), colors.shape)
    left, right, bottom, top = over.get_extent()
    x = left + (place[1] + 0.5) / colors.shape[1] * (right - left)
    y = bottom + (place[0] + 0.5) / colors.shape[0] * (top - bottom)
    assert abs(x - (2 * 8 + 7.5)) < 3 and abs(y - 7.5) < 5


def test_bins_are_placed_by_mel(classifier) -> None:
    places = [mel_bin(classifier.preprocess, 32, hertz) for hertz in (20, 4000, 500, 1000)]
    assert places[0] == pytest.approx(-1) and places[1] == pytest.approx(32) and places[2] < places[3]


def test_plots_need_spectrograms(writer) -> None:
    with pytest.raises(ValueError, match="no spectrogram patches"):
        plot_audio_attention(writer, [(noise(0.4), SAMPLING_RATE)])


def test_clips_of_wrong_length_or_rate_are_named(classifier, writer, tmp_path) -> None:
    """Which of several, by its file or its place."""
    short, other = (
        saved(tmp_path / "short.wav", noise(0.002)),
        saved(tmp_path / "other.wav", noise(0.4), SAMPLING_RATE // 2),
    )
    features = zoo.create_model("wav2vec2_tiny", head="classify", seed=0, width=32, depth=1, heads=2, position_groups=2)
    features.preprocess = writer.preprocess
    for model in (classifier, writer, features):
        with pytest.raises(ValueError, match=r"short\.wav is too short: it has 16 samples .*, expected at least \d+ "):
            zoo.predict(model, [saved(tmp_path / "long.wav", noise(0.5)), short])
        with pytest.raises(
            ValueError, match=r"audio clip 1 is too short: it has 16 samples .*, expected at least \d+ "
        ):
            zoo.predict(model, [(noise(0.5), SAMPLING_RATE), (noise(0.002), SAMPLING_RATE)])
        with pytest.raises(
            ValueError, match=r"audio clip 1 has a sampling rate of 4000 Hz, expected 8000 Hz: .*--resample"
        ):
            zoo.predict(model, [(noise(0.5), SAMPLING_RATE), (noise(0.5), SAMPLING_RATE // 2)])
        with pytest.raises(ValueError, match=r"other\.wav has a sampling rate of 4000 Hz, .* resample=True\)"):
            zoo.predict(model, other)
