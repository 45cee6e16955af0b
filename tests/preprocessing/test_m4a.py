"""AAC in MP4 files: samples, streams, sampling rates, and errors that name the file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.preprocessing import audio_io
from zoo.preprocessing.audio_io import AudioError, blocks, info, read

av = pytest.importorskip("av", reason="PyAV is an extra")
if "aac" not in av.codecs_available:
    pytest.skip("this PyAV has no AAC encoder", allow_module_level=True)

SAMPLING_RATE = 22050


def chirp(seconds: float, sampling_rate: int = SAMPLING_RATE, channels: int = 1) -> np.ndarray:
    """Tones [C, S] that rise, each channel at another pitch."""
    t = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return np.stack([0.3 * np.sin(2 * np.pi * (200 * (c + 1) * t + 150 * t * t)) for c in range(channels)]).astype("f4")


def encoded(
    path: Path, wave: np.ndarray, sampling_rate: int = SAMPLING_RATE, codec: str = "aac", **options: Any
) -> Path:
    layout = "mono" if len(wave) == 1 else "stereo"
    with av.open(str(path), "w", format="mp4", options=options) as file:
        stream = file.add_stream(codec, rate=sampling_rate, layout=layout)
        planes = wave if codec == "aac" else (wave * 32767).astype("i2")
        frame = av.AudioFrame.from_ndarray(planes, format="fltp" if codec == "aac" else "s16p", layout=layout)
        frame.sample_rate, frame.pts = sampling_rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return encoded(tmp_path / "voice.m4a", chirp(2.3, channels=2))


def test_the_samples_are_those_that_were_encoded(clip: Path) -> None:
    wave = chirp(2.3, channels=2)
    apart, sampling_rate = read(clip, mono=False)
    assert sampling_rate == SAMPLING_RATE and apart.dtype == torch.float32
    frames, rate, channels = info(clip)
    assert apart.shape == (channels, frames) and (rate, channels) == (SAMPLING_RATE, 2)
    assert 0 <= frames - wave.shape[1] < 100  # its clock counts milliseconds
    inner = slice(2000, wave.shape[1] - 2000)  # no delay of the encoder is left
    assert np.abs(apart.numpy()[:, inner] - wave[:, inner]).max() < 0.05
    torch.testing.assert_close(read(clip)[0], apart.mean(0))
    assert torch.equal(read(clip.read_bytes())[0], read(str(clip))[0])


def test_the_content_decides_and_not_the_name(clip: Path) -> None:
    renamed = clip.rename(clip.with_suffix(".wav"))
    assert info(renamed).sampling_rate == SAMPLING_RATE


def test_lossless_integers_have_their_full_scale(tmp_path: Path) -> None:
    if "alac" not in av.codecs_available:
        pytest.skip("this PyAV has no ALAC encoder")
    wave = chirp(0.5)
    found = read(encoded(tmp_path / "a.m4a", wave, codec="alac"))[0].numpy()
    assert np.abs(found[: wave.shape[1]] - wave[0]).max() < 1e-4


@pytest.mark.parametrize("sampling_rate", [SAMPLING_RATE, 16000, 44100])
def test_a_stream_has_the_samples_of_the_whole(clip: Path, sampling_rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_io, "CHUNK", 3000)
    whole, _ = read(clip, sampling_rate=sampling_rate, resample=True)
    pieces = list(blocks(clip, 0.5, 0.1, sampling_rate=sampling_rate, resample=True))
    shared = round(0.1 * sampling_rate)
    joined = torch.cat([pieces[0].wave, *(piece.wave[shared:] for piece in pieces[1:])])
    torch.testing.assert_close(joined, whole, atol=1e-6, rtol=0)


def test_a_stream_decodes_what_it_gives(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_io, "CHUNK", 1000)
    decoded = []
    samples = audio_io.M4AFile._next_frame
    monkeypatch.setattr(audio_io.M4AFile, "_next_frame", lambda self: decoded.append(1) or samples(self))
    assert len(next(blocks(clip, 0.1)).wave) == SAMPLING_RATE // 10
    assert len(decoded) <= 4


def test_rates_are_refused_or_resampled(clip: Path) -> None:
    with pytest.raises(AudioError, match=r"voice\.m4a has a sampling rate of 22050 Hz, expected 16000 Hz"):
        read(clip, sampling_rate=16000)
    model = zoo.create_model("ast_tiny", seed=0, width=16, depth=1, heads=2, num_classes=3)
    with pytest.raises(AudioError, match=r"voice\.m4a has a sampling rate"):
        zoo.predict(model, clip)
    assert len(zoo.timeline(model, (read(clip, sampling_rate=16000, resample=True)[0], 16000)).rows) > 0


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("fraction", [0.95, 0.4])
def test_truncated_files_are_named(tmp_path: Path, options: dict[str, str], fraction: float) -> None:
    """With the index at the end nothing can be read, with the index at the beginning what is there."""
    clip = encoded(tmp_path / "voice.m4a", chirp(2.0), **options)
    clip.write_bytes(clip.read_bytes()[: int(fraction * clip.stat().st_size)])
    for way in (read, lambda path: list(blocks(path, 0.5))):
        with pytest.raises(
            AudioError, match=r"voice\.m4a is (damaged or truncated|truncated|not a readable audio file)"
        ):
            way(clip)
    if options:
        there, _ = read(clip, partial=True)
        assert 0.3 * fraction * 2 * SAMPLING_RATE < len(there) < 2 * SAMPLING_RATE
    else:
        with pytest.raises(AudioError, match=r"its index, which is often at its end|no index"):
            read(clip)


def test_packets_that_are_missing_at_the_end_are_noticed(tmp_path: Path) -> None:
    """A cut between two packets damages none of them."""
    clip = encoded(tmp_path / "voice.m4a", chirp(2.0))
    file = audio_io.M4AFile(clip)
    file.frames += 9000
    with pytest.raises(AudioError, match=r"is truncated: it declares \d+ frames and has \d+"):
        audio_io._check_not_truncated(clip, file, "voice.m4a", len(file.read(file.frames)))


@pytest.mark.parametrize("junk", [bytes(500), b""])
def test_files_that_only_begin_like_mp4(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "voice.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + junk)
    with pytest.raises(AudioError, match=r"voice\.m4a is not a readable audio file"):
        read(path)


def test_video_without_audio(tmp_path: Path) -> None:
    if "mpeg4" not in av.codecs_available:
        pytest.skip("this PyAV has no MPEG-4 encoder")
    with av.open(str(tmp_path / "film.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    with pytest.raises(AudioError, match=r"film\.mp4 is not a readable audio file: The file has no audio stream"):
        read(tmp_path / "film.mp4")


def test_without_pyav_the_error_says_how_to_install_it(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("raise ImportError('there is no av')")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from zoo.preprocessing import audio_io
try:
    audio_io.read({str(clip)!r})
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "attention-zoo[m4a]"' in done.stdout and "there is no av" in done.stdout, done.stderr
