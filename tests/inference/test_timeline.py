"""The labels of a recording over time: windows, mean, files."""

import csv
import json
from pathlib import Path

import pytest
import soundfile
import torch

import zoo
from zoo.inference import long_audio
from zoo.inference.timeline import TimelineRow
from zoo.interpret.plot_timeline import edges, plot_timeline
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor

SAMPLING_RATE = 8000


def classifier(**options):
    model = zoo.create_model("ast_tiny", seed=0, width=16, depth=1, heads=2, max_length=40, mel_bins=32, num_classes=3,
                             **options)  # fmt: skip
    model.preprocess = SpectrogramFeatureExtractor(
        sampling_rate=SAMPLING_RATE, frames=40, num_mel_bins=32, mean=-8, std=4
    )
    model.labels = ["a", "b", "$c$"]
    return model.eval()


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * SAMPLING_RATE), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "long.wav", noise(4.7).numpy(), SAMPLING_RATE, subtype="FLOAT")
    return tmp_path / "long.wav"


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_rows_are_the_windows_and_their_mean_is_the_prediction(problem: str, recording: Path) -> None:
    model = classifier(problem_type=problem)
    found = zoo.timeline(model, recording, top_k=3)
    windows = list(model.preprocess.windows(str(recording)))
    assert len(windows) > long_audio.BATCH_SIZE  # several batches
    assert found.spans == tuple((w.start / SAMPLING_RATE, (w.start + len(w.wave)) / SAMPLING_RATE) for w in windows)
    assert found.spans[-1][1] == pytest.approx(4.7) and found.spans[-1][0] < found.spans[-2][1]
    assert found.mean == zoo.predict(model, recording)
    rows = found.rows
    assert len(rows) == 3 * len(windows)
    for i in (0, 4, len(windows) - 1):
        alone = zoo.predict(model, (windows[i].wave, SAMPLING_RATE))
        own = rows[3 * i : 3 * i + 3]
        assert {(row.start, row.end) for row in own} == {found.spans[i]}
        assert [row.label for row in own] == [label for label, _ in alone]
        assert [row.probability for row in own] == pytest.approx([p for _, p in alone], abs=1e-5)


def test_a_short_clip_is_one_row() -> None:
    found = zoo.timeline(classifier(), (noise(0.2), SAMPLING_RATE))
    assert found.rows == [TimelineRow(0.0, 0.2, *found.mean[0])]


def test_models_of_waveforms_have_windows_of_20_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_audio, "SECONDS", 0.5)
    model = zoo.create_model("wav2vec2_tiny", head="classify", num_classes=2, seed=0, width=32, depth=1, heads=2,
                             position_groups=2)  # fmt: skip
    model.preprocess = WaveformFeatureExtractor(sampling_rate=SAMPLING_RATE)
    found = zoo.timeline(model, (noise(1.2), SAMPLING_RATE))
    assert found.spans == ((0.0, 0.5), (0.5, 1.0), (0.7, 1.2)) and found.labels == ("0", "1")
    assert found.mean == zoo.predict(model, (noise(1.2), SAMPLING_RATE))


def test_files(recording: Path, tmp_path: Path) -> None:
    found = zoo.timeline(classifier(), recording)
    found.save(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["start", "end", "label", "probability"] and len(rows) == len(found.spans)
    for row, expected in zip(rows, found.rows, strict=True):
        assert row["label"] == expected.label
        numbers = [float(row[name]) for name in ("start", "end", "probability")]
        assert numbers == pytest.approx([expected.start, expected.end, expected.probability], abs=1e-3)
    found.save(str(tmp_path / "out.json"))
    values = json.loads((tmp_path / "out.json").read_text())
    assert values["rows"][-1] == found.rows[-1]._asdict() and len(values["rows"]) == len(rows)
    assert [(one["label"], one["probability"]) for one in values["mean"]] == found.mean
    with pytest.raises(ValueError, match=r"the suffix of the file is '.txt', expected one of .csv, .json"):
        found.save(tmp_path / "out.txt")


def test_values_of_a_regression_are_not_called_probabilities(tmp_path: Path) -> None:
    zoo.timeline(classifier(problem_type="regression"), (noise(0.2), SAMPLING_RATE)).save(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("start,end,label,value\n0.000,0.200,a,")


def test_refusals(recording: Path) -> None:
    model = classifier()
    with pytest.raises(ValueError, match=r"zoo.timeline expects one clip, given a list of 2"):
        zoo.timeline(model, [recording, recording])
    with pytest.raises(ValueError, match="top_k=0"):
        zoo.timeline(model, recording, top_k=0)
    with pytest.raises(ValueError, match=r"load it, zoo.load\('runs/ast'\)"):
        zoo.timeline("runs/ast", recording)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="expects a model for audio with head='classify', but the model has head='ctc'"
    ):
        zoo.timeline(zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=5, seed=0), recording)
    with pytest.raises(ValueError, match="the model has no preprocessing for audio"):
        zoo.timeline(zoo.create_model("vit_cifar_tiny", seed=0), recording)
    with pytest.raises(ValueError, match="there is no audio file"):
        zoo.timeline(model, "none.wav")
    model.head.proj.weight.data[:] = torch.nan
    with pytest.raises(ValueError, match=r"numbers that are not finite for .*long\.wav"):
        zoo.timeline(model, recording)
    model = classifier()
    model.labels = ["a"]
    with pytest.raises(ValueError, match="1 names for 3 classes"):
        zoo.timeline(model, recording)


# --- the plot -----------------------------------------------------------------------------------------------------


def test_the_plot_shows_probabilities_where_their_windows_are(recording: Path, tmp_path: Path) -> None:
    found = zoo.timeline(classifier(), recording)
    figure = plot_timeline(found, tmp_path / "out.png", labels=2)
    assert (tmp_path / "out.png").stat().st_size > 5_000
    _, _, heat, mean = figure.axes
    best = found.outputs.amax(0).argsort(descending=True)[:2]
    shown = torch.from_numpy(heat.collections[0].get_array().data).reshape(2, -1)
    assert torch.equal(shown, found.outputs[:, best].T)
    assert [bar.get_width() for bar in mean.patches] == pytest.approx(found.outputs.mean(0)[best].tolist())
    places = edges(found)
    assert places == sorted(places) and places[0] == 0 and places[-1] == pytest.approx(4.7)
    assert len(places) == len(found.spans) + 1
    labels = [found.labels[i].replace("$", "\\$") for i in best]
    assert [tick.get_text() for tick in heat.get_yticklabels()] == labels


def test_the_waveform_has_every_peak(tmp_path: Path) -> None:
    wave = torch.zeros(round(4.7 * SAMPLING_RATE))
    for second in (0.3, 2.2, 4.6):
        wave[round(second * SAMPLING_RATE)] = -0.5
    times, peaks = zoo.timeline(classifier(), (wave, SAMPLING_RATE)).envelope.T
    assert {round(second, 1) for second in times[peaks == 0.5].tolist()} == {0.3, 2.2, 4.6}
    assert (times.diff() > 0).all()


def test_values_of_a_regression_are_steps() -> None:
    found = zoo.timeline(classifier(problem_type="regression"), (noise(2.0), SAMPLING_RATE))
    axis = plot_timeline(found).axes[2]
    assert [line.get_data().values.tolist() for line in axis.patches] == found.outputs.T.tolist()
