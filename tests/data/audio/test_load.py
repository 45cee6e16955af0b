"""Readers of sounds: folders, tables, what is broken in them and how it is told."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from audio_files import folder_of_classes, tone, write

from zoo.data.audio.load import load_audio
from zoo.data.audio.speech import load_speech
from zoo.data.config import AudioDataSettings, SpeechSettings
from zoo.utils.errors import DataError


def load(name: object, **options: object):
    return load_audio(AudioDataSettings(name=str(name), **options))


def parquet(file: Path, sounds: list, **columns: list) -> Path:
    audio = [{"bytes": Path(s).read_bytes() if isinstance(s, Path) else s, "path": getattr(s, "name", None)}
             for s in sounds]  # fmt: skip
    pq.write_table(pa.table({"audio": audio, **columns}), file)
    return file


def test_a_folder_is_split_evenly(tmp_path: Path) -> None:
    sets = load(folder_of_classes(tmp_path, 10))
    assert sets.classes == ["high", "low"] and sets.real and sets.sampling_rate == 8000
    assert sets.train.labels.bincount().tolist() == [9, 9] and sets.test.labels.bincount().tolist() == [1, 1]
    again = load(tmp_path)
    assert torch.equal(sets.test.clips.samples, again.test.clips.samples)
    lengths = sorted([*sets.train.clips.lengths.tolist(), *sets.test.clips.lengths.tolist()])
    assert lengths == sorted(2 * [round((0.2 + 0.03 * i) * 8000) for i in range(10)])


def test_a_folder_with_a_test_part(tmp_path: Path) -> None:
    folder_of_classes(tmp_path / "train"), folder_of_classes(tmp_path / "val", 2)
    sets = load(tmp_path)
    assert (len(sets.train), len(sets.test), sets.validation) == (12, 4, None)
    folder_of_classes(tmp_path / "test", 3)
    sets = load(tmp_path)
    assert (len(sets.train), len(sets.test), len(sets.validation)) == (12, 6, 4)


def test_samples_are_those_of_the_files(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.wav", 300), write(tmp_path / "b.wav", 900, seconds=0.5)
    sets = load(parquet(tmp_path / "t.parquet", [a, b] * 4, label=["x", "y"] * 4))
    i = sets.train.labels.tolist().index(1)
    assert torch.allclose(sets.train.clips[i], torch.from_numpy(tone(900, 0.5)), atol=1e-4)


def test_a_table_with_paths(tmp_path: Path) -> None:
    rows = [f"{write(tmp_path / f'{i}.flac', 200 + 50 * i).name},{'ab'[i % 2]}" for i in range(8)]
    (tmp_path / "train.csv").write_text("file_name,label\n" + "\n".join(rows[:6]))
    (tmp_path / "test.csv").write_text("file_name,label\n" + "\n".join(rows[6:]))
    sets = load(tmp_path)
    assert (len(sets.train), len(sets.test), sets.classes) == (6, 2, ["a", "b"])


def test_a_column_of_paths_by_option(tmp_path: Path) -> None:
    rows = [f"{write(tmp_path / f'{i}.wav', 200 + 50 * i).name},{'ab'[i % 2]}" for i in range(8)]
    (tmp_path / "rows.csv").write_text("recording;animal\n" + "\n".join(rows).replace(",", ";"))
    sets = load(tmp_path / "rows.csv", audio="recording", label="animal")
    assert (len(sets.train), len(sets.test), sets.classes) == (6, 2, ["a", "b"])
    with pytest.raises(DataError, match=r"label=animals: .* no column 'animals'; did you mean 'animal'\?"):
        load(tmp_path / "rows.csv", audio="recording", label="animals")
    with pytest.raises(DataError, match=r"name the audio column, e\.g\. audio=recording"):
        load(tmp_path / "rows.csv", label="animal")


def test_one_speaker_held_out(tmp_path: Path) -> None:
    sounds = [write(tmp_path / f"{i}.wav", 200 + 50 * i) for i in range(8)]
    file = parquet(tmp_path / "t.parquet", sounds, label=["x", "y"] * 4, speaker=["ann", "ann", "bob", "bob"] * 2)
    sets = load(file, held_out_speaker="ann")
    assert set(sets.test.speakers) == {"ann"} and set(sets.train.speakers) == {"bob"} and len(sets.test) == 4
    with pytest.raises(DataError, match="did you mean 'bob'"):
        load(file, held_out_speaker="bobb")
    with pytest.raises(DataError, match="no column 'who'"):
        load(file, held_out_speaker="ann", speaker="who")


def test_rates_are_never_mixed_unasked(tmp_path: Path) -> None:
    write(folder_of_classes(tmp_path) / "low" / "fast.wav", sampling_rate=16000)
    with pytest.raises(
        DataError, match=r"fast\.wav has a sampling rate of 16000 Hz, expected 8000: pass data\.resample=true"
    ):
        load(tmp_path, on_error="skip")
    sets = load(tmp_path, resample=True)
    assert sets.sampling_rate == 8000 and max(sets.train.clips.lengths.tolist()) < 3200
    assert load(tmp_path, resample=True, sampling_rate=4000).sampling_rate == 4000
    with pytest.raises(DataError, match=r"model\.source= takes audio at 16000 Hz"):
        load_audio(AudioDataSettings(name=str(tmp_path), sampling_rate=8000), sampling_rate=16000)


@pytest.mark.parametrize(("name", "content", "says"), [
    ("notes.wav", b"this is not audio", "not a readable audio file"),
    ("empty.wav", b"", "not a readable audio file|empty"),
    ("cut.wav", None, "truncated"),
    ("short.wav", "one", r"has 1 samples, expected at least 25 ms \(200 samples\)"),
])  # fmt: skip
def test_broken_files_stop_or_are_left_out(tmp_path: Path, name: str, content: bytes | str | None, says: str,
                                           capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    whole = folder_of_classes(tmp_path) / "low" / "0.wav"
    if content == "one":
        content = write(tmp_path / "one.wav", 440, seconds=1 / 8000).read_bytes()
        (tmp_path / "one.wav").unlink()
    (tmp_path / "low" / name).write_bytes(whole.read_bytes()[:-800] if content is None else content)
    with pytest.raises(DataError, match=says) as raised:
        load(tmp_path)
    assert name in str(raised.value) and "on_error=skip" in str(raised.value)
    sets = load(tmp_path, on_error="skip")
    assert len(sets.train) + len(sets.test) == 12
    assert name in capsys.readouterr().err


def test_broken_rows_of_a_table_are_named(tmp_path: Path) -> None:
    sounds = [write(tmp_path / f"{i}.wav", 200 + 50 * i) for i in range(4)]
    file = parquet(tmp_path / "t.parquet", [*sounds, b"no sound", None], label=[0, 1, 0, 1, 0, 1])
    with pytest.raises(DataError, match=r"t\.parquet, row 4.*not a readable audio file"):
        load(file)
    assert len(load(file, on_error="skip").train) == 2  # and two for the test
    (tmp_path / "list.csv").write_text("file,label\n0.wav,a\nmissing.wav,b\n")
    with pytest.raises(DataError, match=r"missing\.wav"):
        load(tmp_path / "list.csv")


@pytest.mark.parametrize(("make", "says"), [
    (lambda f: None, "expected a folder or table that exists"),
    (lambda f: f.mkdir(), "0 class folders, expected at least 2"),
    (lambda f: [(f / n).mkdir(parents=True) for n in "ab"], "no audio file in any of its sub-folders"),
    (lambda f: write(f / "only" / "a.wav"), "1 class folders, expected at least 2"),
    (lambda f: (folder_of_classes(f), (f / "none").mkdir()), "none contains no audio file"),
    (lambda f: folder_of_classes(f, 1), "a single clip"),
    (lambda f: folder_of_classes(f / "test"), "1 class folders"),
])  # fmt: skip
def test_folders_that_hold_no_classes(tmp_path: Path, make, says: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(DataError, match=says):
        load(tmp_path / "data")


@pytest.mark.parametrize(("columns", "says"), [
    ({"label": ["a", "a", "a"]}, "all labels in 'label' are 'a'"),
    ({"label": ["a", None, "b"]}, "row 1: no label"),
    ({"kind": ["a", "b", "a"]}, "name the label column"),
])  # fmt: skip
def test_labels_that_are_none(tmp_path: Path, columns: dict, says: str) -> None:
    sounds = [write(tmp_path / f"{i}.wav", 200 + 50 * i) for i in range(3)]
    with pytest.raises(DataError, match=says):
        load(parquet(tmp_path / "t.parquet", sounds, **columns))


@pytest.mark.parametrize(("name", "says"), [("fsd", "did you mean 'fsdd'"), ("fsdd", "data_dir=|ZOO_DATA_DIR")])
def test_names(name: str, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=says):
        load(name)


# --- speech -----------------------------------------------------------------------------------------------------------


def spoken(folder: Path, count: int = 12, **options: object):
    lines = ["file_name,text"]
    for i in range(count):
        lines.append(f"{write(folder / f'{i}.wav', 200 + 50 * i, seconds=0.2 + 0.05 * i).name},say {i}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return load_speech(SpeechSettings(name=str(folder), **options))


def test_a_folder_with_transcripts(tmp_path: Path) -> None:
    sets = spoken(tmp_path)
    assert (len(sets.train), len(sets.test), sets.real) == (11, 1, True)
    transcripts = sets.train.transcripts + sets.test.transcripts
    assert sorted(transcripts) == sorted(f"say {i}" for i in range(12))
    assert int(sets.train.transcripts[0].split()[1]) == round((len(sets.train.clips[0]) / 8000 - 0.2) / 0.05)


def test_speech_that_is_too_long_or_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"line 12 has 0\.7 s"):
        spoken(tmp_path, max_duration=0.66)
    assert len(spoken(tmp_path, max_duration=0.66, on_error="skip").train) == 9
    assert "skipped 2 clips longer than 0.66 s" in capsys.readouterr().err
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.wav,a\n1.wav,\n2.wav,b\n")
    with pytest.raises(DataError, match="line 3: no transcript"):
        load_speech(SpeechSettings(name=str(tmp_path)))
