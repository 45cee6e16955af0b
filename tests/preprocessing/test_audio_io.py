"""Reading audio files: formats, sampling rates, channels, streams, and errors that name the file."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from zoo.preprocessing import audio_io
from zoo.preprocessing.audio_io import AudioError, as_wave, blocks, info, read, resampled

SAMPLING_RATE = 22050
FORMATS = ["wav", "flac", "ogg", "mp3"]


def tone(seconds: float, sampling_rate: int = SAMPLING_RATE, channels: int = 1) -> np.ndarray:
    """Tones of other pitch in each channel, with grain: [S] or [S, C]."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * sampling_rate)) / sampling_rate
    waves = np.stack([np.sin(2 * np.pi * 220 * (c + 1) * t) for c in range(channels)], -1)
    return (0.4 * waves + rng.normal(0, 0.03, waves.shape)).astype(np.float32)


def encoded(
    wave: np.ndarray, sampling_rate: int = SAMPLING_RATE, format: str = "WAV", subtype: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, sampling_rate, format=format.upper(), subtype=subtype)
    return file.getvalue()


def written(folder: Path, wave: np.ndarray, format: str = "wav", sampling_rate: int = SAMPLING_RATE) -> Path:
    path = folder / f"clip.{format}"
    path.write_bytes(encoded(wave, sampling_rate, format))
    return path


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_formats_from_path_and_memory(tmp_path: Path, format: str) -> None:
    wave = tone(0.7)[:, 0]
    path = written(tmp_path, wave, format)
    wave_read, sampling_rate = read(path)
    assert sampling_rate == SAMPLING_RATE and wave_read.dtype == torch.float32 and wave_read.shape == (len(wave),)
    assert np.abs(wave_read.numpy() - wave).max() < (1e-4 if format in ("wav", "flac") else 0.2)
    assert torch.equal(read(path.read_bytes())[0], wave_read) and torch.equal(read(str(path))[0], wave_read)
    assert info(path) == (len(wave), SAMPLING_RATE, 1)


def test_float_files_are_exact() -> None:
    wave = tone(0.1)[:, 0] * 3  # beyond full scale, which floats may be
    assert np.array_equal(read(encoded(wave, subtype="FLOAT"))[0].numpy(), wave)


@pytest.mark.parametrize("channels", [2, 8])
def test_channels_are_mixed_by_their_mean_or_kept(channels: int) -> None:
    data = encoded(tone(0.2, channels=channels), subtype="FLOAT")
    apart = read(data, mono=False)[0]
    assert apart.shape == (channels, round(0.2 * SAMPLING_RATE)) and apart.is_contiguous()
    torch.testing.assert_close(read(data)[0], apart.mean(0))


def test_rates_are_refused_or_resampled_and_never_ignored(tmp_path: Path) -> None:
    path = written(tmp_path, tone(0.5))
    with pytest.raises(
        AudioError, match=r"clip\.wav has a sampling rate of 22050 Hz, expected 16000 Hz: resample it with"
    ):
        read(path, sampling_rate=16000)
    wave_read, sampling_rate = read(path, sampling_rate=16000, resample=True)
    assert sampling_rate == 16000 and len(wave_read) == 8000
    import torchaudio

    assert torch.equal(wave_read, torchaudio.functional.resample(read(path)[0], SAMPLING_RATE, 16000))
    assert read(path, sampling_rate=SAMPLING_RATE)[1] == SAMPLING_RATE


def test_resampling_keeps_the_tone() -> None:
    t = torch.arange(8000) / 8000
    twice = resampled(torch.sin(2 * torch.pi * 440 * t), 8000, 16000)
    assert twice.shape == (16000,) and twice.abs().max() < 1.01
    assert int(torch.fft.rfft(twice).abs().argmax()) == 440


def test_rates_without_a_common_divisor_and_no_rates() -> None:
    with pytest.raises(AudioError, match="cannot resample 44101 Hz to 16000 Hz"):
        resampled(torch.zeros(100), 44101, 16000)
    with pytest.raises(ValueError, match="sampling_rate=0"):
        read(encoded(tone(0.1)), sampling_rate=0)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("sampling_rate", [SAMPLING_RATE, 16000, 44100])
def test_a_stream_has_the_samples_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, sampling_rate: int
) -> None:
    monkeypatch.setattr(audio_io, "CHUNK", 3000)
    path = written(tmp_path, tone(2.3, channels=2), format)
    whole, _ = read(path, sampling_rate=sampling_rate, resample=True)
    pieces = list(blocks(path, 0.5, 0.1, sampling_rate=sampling_rate, resample=True))
    shared, length = round(0.1 * sampling_rate), round(0.5 * sampling_rate)
    assert {piece.sampling_rate for piece in pieces} == {sampling_rate}
    assert [p.start for p in pieces] == [i * (length - shared) for i in range(len(pieces))]
    assert all(len(piece.wave) == length for piece in pieces[:-1]) and shared < len(pieces[-1].wave) <= length
    joined = torch.cat([pieces[0].wave, *(piece.wave[shared:] for piece in pieces[1:])])
    torch.testing.assert_close(joined, whole, atol=1e-6, rtol=0)


def test_pieces_without_rest_and_shorter_files(tmp_path: Path) -> None:
    path = written(tmp_path, tone(1.0))
    assert [len(piece.wave) for piece in blocks(path, 0.5)] == [SAMPLING_RATE // 2, SAMPLING_RATE // 2]
    assert [len(piece.wave) for piece in blocks(path, 7)] == [SAMPLING_RATE]
    with pytest.raises(ValueError, match="overlap"):
        next(blocks(path, 0.5, 0.5))
    with pytest.raises(AudioError, match="expected 16000 Hz"):
        next(blocks(path, 0.5, sampling_rate=16000))


def test_a_stream_takes_the_memory_of_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the requested part is decoded."""
    path, read_ = written(tmp_path, tone(20)), []
    monkeypatch.setattr(audio_io, "CHUNK", 1000)
    decode = audio_io._decoded
    monkeypatch.setattr(audio_io, "_decoded", lambda *args: read_.append(1) or decode(*args))
    assert len(next(blocks(path, 0.1)).wave) == SAMPLING_RATE // 10
    assert len(read_) == 3


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("junk", [b"not audio " * 99, b"\x89PNG\r\n\x1a\n" + bytes(500), b"RIFF", b"ID3" + bytes(900)])
def test_files_that_are_not_audio_are_named(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "photo.wav"
    path.write_bytes(junk)
    with pytest.raises(AudioError, match=r"photo\.wav (is not a readable audio file|is damaged|is empty)"):
        read(path)
    with pytest.raises(AudioError, match=f"audio in memory \\({len(junk)} bytes\\)"):
        read(junk)


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"there is no audio file .*nowhere\.wav"):
        read(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match="is a folder, and not an audio file"):
        read(tmp_path)
    with pytest.raises(AudioError, match="is empty"):
        read(b"")
    with pytest.raises(AudioError, match="is empty: it has no samples"):
        read(encoded(np.zeros(0, np.float32)))
    with pytest.raises(AudioError, match="is empty"):
        list(blocks(written(tmp_path, np.zeros(0, np.float32)), 1))
    with pytest.raises(ValueError, match="given int"):
        read(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", [*FORMATS, "aiff", "au", "w64", "rf64"])
@pytest.mark.parametrize("fraction", [0.95, 0.4])
def test_truncated_files_are_named_and_read_on_request(tmp_path: Path, format: str, fraction: float) -> None:
    path = written(tmp_path, tone(2), format)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    for way in (read, lambda path: list(blocks(path, 0.5))):
        with pytest.raises(AudioError, match=r"clip\.\w+ is (damaged or )?truncated"):
            way(path)
    if format == "ogg":  # of which nothing is there but a part of a page
        return
    there, _ = read(path, partial=True)
    assert 0.2 * fraction * 2 * SAMPLING_RATE < len(there) < 2 * SAMPLING_RATE


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFDB])
def test_streamed_wavs_do_not_know_their_length(declared: int) -> None:
    data = bytearray(encoded(tone(0.5)))
    data[4:8] = data[40:44] = declared.to_bytes(4, "little")
    assert len(read(bytes(data))[0]) == SAMPLING_RATE // 2


def test_mp3_with_a_tag_before_its_length() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 200_000).astype(np.float32)
    tagged = b"ID3\x04\x00\x00\x00\x00\x10\x00" + bytes(2048) + encoded(wave, 44100, "mp3")
    assert len(read(tagged)[0]) == 200_000
    with pytest.raises(AudioError, match=r"is truncated: it declares 200000 frames and has \d+"):
        read(tagged[:-5000])


def test_flac_without_its_length() -> None:
    data = bytearray(encoded(tone(0.5), format="flac"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    with pytest.raises(AudioError, match="does not declare its length"):
        read(bytes(data))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite(value: float) -> None:
    wave = tone(0.1)[:, 0]
    wave[[70, 90]] = value
    with pytest.raises(AudioError, match="has 2 samples that are NaN or infinite, the first at index 70"):
        read(encoded(wave, subtype="FLOAT"))


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_and_tensors() -> None:
    wave = torch.linspace(-1, 1, 100)
    assert as_wave(wave, "x") is wave or torch.equal(as_wave(wave, "x"), wave)
    assert torch.equal(as_wave(wave.double().numpy(), "x"), wave)
    assert torch.equal(as_wave(wave[None], "x"), wave)
    assert torch.equal(as_wave(torch.stack([wave, -wave]), "x", channels=True), torch.zeros(100))
    assert torch.equal(as_wave(np.array([-32768, 16384], np.int16), "x"), torch.tensor([-1.0, 0.5]))
    assert torch.equal(as_wave(torch.tensor([-(2**31), 2**30], dtype=torch.int32), "x"), torch.tensor([-1.0, 0.5]))


@pytest.mark.parametrize(
    "samples, message",
    [
        (torch.zeros(2, 9), "several clips or several channels"),
        (torch.zeros(9, dtype=torch.uint8), "expected floats"),
        (torch.zeros(()), r"expected \[S\] or \[C, S\]"),
        (torch.zeros(2, 2, 9), r"expected \[S\] or \[C, S\]"),
        (torch.zeros(0), "is empty"),
        (torch.tensor([0.0, torch.nan]), "NaN"),
        ([0.1, 0.2], "is a list"),
        (None, "is a NoneType"),
    ],
)
def test_invalid_samples(samples: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"clip 3.*{message}"):
        as_wave(samples, "clip 3")


def test_channels_come_first() -> None:
    with pytest.raises(ValueError, match="transpose"):
        as_wave(torch.zeros(900, 2), "x", channels=True)


# --- libraries --------------------------------------------------------------------------------------------------------


def run(code: str, folder: Path) -> str:
    """What a process prints in which the modules of a folder come before the installed ones."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("error", [OSError("libcudart.so.13"), RuntimeError("different CUDA"), ImportError()])
def test_a_broken_torchaudio_says_how_to_fix_it(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(name: str) -> None:
        raise error

    monkeypatch.setattr(audio_io, "import_module", broken)
    with pytest.raises(ImportError, match="Text and vision do not need torchaudio") as caught:
        resampled(torch.zeros(9), 8000, 16000)
    message = str(caught.value)
    assert 'pip install "torch' in message or "of the same release" in message
    assert "zoo doctor" in message and str(error) in message


def test_text_and_vision_work_where_neither_library_does(tmp_path: Path) -> None:
    (tmp_path / "torchaudio.py").write_text("raise RuntimeError('different CUDA versions')")
    (tmp_path / "soundfile.py").write_text("raise OSError('sndfile library not found')")
    (tmp_path / "x.wav").write_bytes(encoded(tone(0.1)))
    printed = run(
        f"""
import torch, zoo
from zoo.preprocessing import audio_io
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor
zoo.create_model("vit_cifar_tiny")(torch.zeros(1, 3, 32, 32))
print(WaveformFeatureExtractor()(torch.zeros(9000), sampling_rate=16000)["input_values"].shape)
for call in (lambda: SpectrogramFeatureExtractor()(torch.zeros(9000), sampling_rate=16000),
             lambda: audio_io.read({str(tmp_path / "x.wav")!r})):
    try:
        call()
    except ValueError:
        print("mistaken for an invalid clip, which a dataset may skip")
    except ImportError as error:
        print(error)
""",
        tmp_path,
    )
    works, torchaudio, soundfile_ = printed.splitlines()
    assert works == "torch.Size([1, 9000])" and "different CUDA versions" in torchaudio
    for part in ("sndfile library not found", "pip install --force-reinstall", "libsndfile1", "zoo doctor"):
        assert part in soundfile_
