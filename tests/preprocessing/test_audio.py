"""Audio preprocessing: outputs and files of transformers, saving with models, and errors that name the clip."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import zoo
from zoo.preprocessing.audio import AudioProcessor
from zoo.preprocessing.audio_io import AudioError
from zoo.preprocessing.auto import processor_from_dict
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.waveform import WaveformFeatureExtractor
from zoo.utils.errors import LoadError

CLOSE = 1e-5
SMALL = SpectrogramFeatureExtractor(frames=60, num_mel_bins=32)
WORDS = Vocabulary(("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B"))


def clips(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0.01, 0.1, length).astype(np.float32) for length in lengths]


def wav(wave: np.ndarray, sampling_rate: int = 16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, sampling_rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours.double() - theirs).abs().max() / theirs.abs().max().clamp_min(1)).item()


# --- transformers -----------------------------------------------------------------------------------------------------

EXTRACTORS: list[tuple[str, dict[str, Any]]] = [
    ("ASTFeatureExtractor", {}),
    ("ASTFeatureExtractor", {"num_mel_bins": 64, "max_length": 150, "mean": -6.0, "std": 3.0}),
    ("ASTFeatureExtractor", {"max_length": 100, "do_normalize": False, "sampling_rate": 8000}),
    ("WhisperFeatureExtractor", {"chunk_length": 3}),
    ("WhisperFeatureExtractor", {"feature_size": 128, "chunk_length": 2}),
    ("Wav2Vec2FeatureExtractor", {"return_attention_mask": True}),
    ("Wav2Vec2FeatureExtractor", {"do_normalize": False}),
]


@pytest.mark.parametrize("name, options", EXTRACTORS, ids=str)
def test_equals_transformers_both_ways(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    import transformers

    extractor = getattr(transformers, name)(**options)
    extractor.save_pretrained(tmp_path)
    kind: Any = WaveformFeatureExtractor if name.startswith("Wav2Vec2") else SpectrogramFeatureExtractor
    ours = kind.from_transformers(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    audio = clips(16000, 16000, 30_000, 400, 60_000)
    outputs = ours(audio, sampling_rate=ours.sampling_rate, too_long="cut")
    padded = {"padding": True, "return_attention_mask": True} if kind is WaveformFeatureExtractor else {}
    written = type(extractor)(**json.loads(json.dumps(ours.to_transformers())))
    for theirs in (extractor, written):
        expected = theirs(audio, sampling_rate=ours.sampling_rate, return_tensors="pt", **padded)
        assert outputs.keys() == expected.keys()
        for key, values in outputs.items():
            assert error(values, expected[key]) <= CLOSE
    assert written.to_dict() == extractor.to_dict() or "do_normalize" in options
    assert kind.from_transformers(ours.to_transformers()) == ours
    assert kind.from_transformers({"feature_extractor_type": name} | options) == ours, "what a file leaves out"


def test_the_default_is_the_extractor_of_ast() -> None:
    """Published files store half of the std that AST divides by."""
    from transformers import ASTFeatureExtractor

    theirs = ASTFeatureExtractor()
    ours = SpectrogramFeatureExtractor()
    assert ours == SpectrogramFeatureExtractor.from_transformers(theirs.to_dict())
    assert (ours.mean, ours.std) == (theirs.mean, 2 * theirs.std)


def test_what_transformers_cannot_express() -> None:
    for odd in (
        SpectrogramFeatureExtractor(low_freq=50.0),
        SpectrogramFeatureExtractor(frame_shift=12.5),
        SpectrogramFeatureExtractor(high_freq=7000.0),
    ):
        with pytest.raises(ValueError, match="ASTFeatureExtractor cannot express"):
            odd.to_transformers()
    with pytest.raises(ValueError, match="no feature extractor for feature_type='log_mel'"):
        SpectrogramFeatureExtractor(feature_type="log_mel").to_transformers()
    with pytest.raises(ValueError, match="WhisperFeatureExtractor cannot express"):
        SpectrogramFeatureExtractor(
            feature_type="whisper", low_freq=0.0, mean=0.0, std=1.0, num_mel_bins=80, frames=250
        ).to_transformers()


def test_files_that_are_not_understood() -> None:
    with pytest.raises(LoadError, match="ClapFeatureExtractor is not supported"):
        SpectrogramFeatureExtractor.from_transformers({"feature_extractor_type": "ClapFeatureExtractor"})
    with pytest.raises(LoadError, match="zero padding on the right"):
        WaveformFeatureExtractor.from_transformers({"padding_value": 1.0})
    with pytest.raises(LoadError, match="dither"):
        SpectrogramFeatureExtractor.from_transformers(
            {"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1}
        )
    with pytest.raises(LoadError, match="feature_size=2"):
        WaveformFeatureExtractor.from_transformers({"feature_size": 2})


def test_a_ctc_tokenizer_is_written_for_transformers(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    for name, values in WaveformFeatureExtractor(vocabulary=WORDS).transformers_files().items():
        (tmp_path / name).write_text(values if isinstance(values, str) else json.dumps(values))
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    theirs = AutoProcessor.from_pretrained(tmp_path)
    ids = theirs.tokenizer("AB BA").input_ids
    assert ids == WORDS.encode("AB BA") and theirs.tokenizer.pad_token_id == WORDS.blank_id
    assert theirs.tokenizer.decode([5, 5, 0, 6, 4, 6, 6, 5]) == "AB BA"


# --- saved ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        SMALL,
        SpectrogramFeatureExtractor(feature_type="log_mel", high_freq=7000.0, resample=True, too_long="windows"),
        WaveformFeatureExtractor(sampling_rate=8000, max_length=900, too_long="cut"),
        WaveformFeatureExtractor(vocabulary=WORDS, normalize=False),
    ],
    ids=lambda given: given.kind,
)
def test_the_same_after_json(given: AudioProcessor) -> None:
    values = json.loads(json.dumps(given.to_dict()))
    assert processor_from_dict(values) == given and hash(given) == hash(processor_from_dict(values))
    with pytest.raises(LoadError, match=r"unknown key 'sample_rate'.*sampling_rate"):
        processor_from_dict(values | {"sample_rate": 1})
    del values["sampling_rate"]
    with pytest.raises(LoadError, match="lacks the key 'sampling_rate'"):
        processor_from_dict(values)


def test_saved_with_models_and_fitted_to_them(tmp_path: Path) -> None:
    model = zoo.create_model("ast_tiny", max_length=60, mel_bins=32, width=16, heads=2, depth=1, num_classes=3)
    model.preprocess = replace(SMALL, mean=-5.0, resample=True)
    zoo.save(model, tmp_path / "ours")
    assert zoo.load(tmp_path / "ours").preprocess == model.preprocess
    assert zoo.load(tmp_path / "ours", max_length=80).preprocess == replace(model.preprocess, frames=80)
    zoo.export(model, tmp_path / "theirs")
    assert zoo.load(tmp_path / "theirs").preprocess == replace(model.preprocess, resample=False)
    model.preprocess = SpectrogramFeatureExtractor(frames=61, num_mel_bins=32)
    with pytest.raises(ValueError, match="the preprocessing has frames=61, but the model has max_length=60"):
        zoo.save(model, tmp_path / "wrong")


@pytest.mark.parametrize(
    "make",
    [
        lambda: SpectrogramFeatureExtractor(sampling_rate=0),
        lambda: SpectrogramFeatureExtractor(feature_type="mfcc"),  # type: ignore[arg-type]
        lambda: SpectrogramFeatureExtractor(too_long="cutt"),  # type: ignore[arg-type]
        lambda: SpectrogramFeatureExtractor(std=0.0),
        lambda: SpectrogramFeatureExtractor(high_freq=9000.0),
        lambda: WaveformFeatureExtractor(max_length=0),
    ],
)
def test_fields_that_cannot_be(make: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|Hz"):
        make()


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_all_kinds_of_inputs(tmp_path: Path) -> None:
    wave = clips(9000)[0]
    (tmp_path / "x.wav").write_bytes(wav(wave))
    expected = SMALL((wave, 16000))["input_values"]
    assert expected.shape == (1, 60, 32) and expected.dtype == torch.float32
    tensor = torch.from_numpy(wave)
    decoded = {"array": wave, "sampling_rate": 16000, "path": None}  # by datasets
    for clip in (
        str(tmp_path / "x.wav"),
        tmp_path / "x.wav",
        wav(wave),
        (tensor, 16000),
        (tensor[None], 16000),
        decoded,
    ):
        assert torch.equal(SMALL(clip)["input_values"], expected)
    for clip in (wave, tensor, tensor[None], tensor.double()):
        assert torch.equal(SMALL(clip, sampling_rate=16000)["input_values"], expected)
    both = SMALL([tmp_path / "x.wav", (np.stack([wave] * 8), 16000)])["input_values"]  # eight channels are mixed
    assert both.shape[0] == 2 and error(both[1:], expected.double()) <= CLOSE


@pytest.mark.parametrize("edit, message", [
    ({"vocabulary": {"tokens": ["<pad>", "|", "A"], "blank": "<pad>", "space": "|"}}, "3 symbols, .* vocab_size=7"),
    ({"vocabulary": {"tokens": list(WORDS.tokens), "space": "|"}}, "vocabulary lacks the key 'blank'"),
    ({"vocabulary": {"tokens": list(WORDS.tokens), "blank": "<pad>", "space": "|", "gap": 1}}, "unknown key 'gap'"),
    ({"sampling_rate": "16k"}, "sampling_rate='16k', expected a number"),
])  # fmt: skip
def test_a_damaged_preprocess_is_named(tmp_path: Path, edit: dict[str, Any], message: str) -> None:
    zoo.save(writer(), tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["preprocess"] |= edit
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(LoadError, match=message):
        zoo.load(tmp_path)


def test_a_vocabulary_goes_with_its_symbols(tmp_path: Path) -> None:
    zoo.save(writer(), tmp_path)
    assert zoo.load(tmp_path).preprocess.vocabulary == WORDS
    assert zoo.load(tmp_path, vocab_size=9).preprocess.vocabulary is None


def writer() -> zoo.Model:
    small: dict[str, Any] = dict(width=32, depth=1, heads=2, conv_channels=(8,) * 4, position_groups=2)
    model = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=len(WORDS), seed=0, **small)
    model.preprocess = WaveformFeatureExtractor(vocabulary=WORDS)
    return model


@pytest.mark.parametrize("sampling_rate", [0, -16000, 16000.5, float("nan"), float("inf"), "16000", (16000,)])
def test_invalid_sampling_rates(sampling_rate: Any) -> None:
    with pytest.raises(ValueError, match=r"audio clip 1 has sampling_rate=.*: expected samples per second"):
        replace(SMALL, resample=True)([(clips(9000)[0], 16000.0), (clips(9000)[0], sampling_rate)])


def test_the_sampling_rate_must_be_known() -> None:
    wave = clips(9000)[0]
    with pytest.raises(ValueError, match="audio clip 0 has no sampling rate"):
        SMALL(wave)
    with pytest.raises(AudioError, match="audio clip 1 has a sampling rate of 8000 Hz, expected 16000 Hz"):
        SMALL([(wave, 16000), (wave, 8000)])
    with pytest.raises(AudioError, match="audio clip 0 has a sampling rate of 48000 Hz, expected 16000 Hz"):
        SMALL((wave, 48000))
    with pytest.raises(AudioError, match="a sampling rate of 8000 Hz, expected 16000 Hz"):
        SMALL(wav(wave, 8000))
    twice = SMALL([(wave[:4500], 8000), wav(wave[:4500], 8000)], resample=True)["input_values"]
    assert error(twice[0], twice[1].double()) <= 1e-6


def test_a_batch_is_what_each_is_alone() -> None:
    audio = clips(3000, 9000, 9000, 500)
    for preprocess in (
        SMALL,
        WaveformFeatureExtractor(),
        SpectrogramFeatureExtractor(feature_type="log_mel", frames=60),
    ):
        batch = preprocess(audio, sampling_rate=16000)
        for row, clip in enumerate(audio):
            alone = preprocess(clip, sampling_rate=16000)
            size = alone["input_values"].shape[1]
            assert error(batch["input_values"][row, :size], alone["input_values"][0].double()) <= 1e-6
            assert "attention_mask" not in alone
    mask = WaveformFeatureExtractor()(audio, sampling_rate=16000)["attention_mask"]
    assert mask.dtype == torch.int64 and mask.sum(1).tolist() == [3000, 9000, 9000, 500]
    assert "attention_mask" not in WaveformFeatureExtractor()(audio[1:3], sampling_rate=16000)


def test_silence_and_clipping_give_numbers() -> None:
    silent, clipped = np.zeros(8000, np.float32), np.sign(clips(8000)[0])
    whisper = SpectrogramFeatureExtractor(feature_type="whisper", num_mel_bins=80, frames=100, low_freq=0.0)
    for preprocess in (SMALL, whisper, SpectrogramFeatureExtractor(feature_type="log_mel"), WaveformFeatureExtractor()):
        for values in preprocess([silent, clipped, clips(8000)[0]], sampling_rate=16000).values():
            assert values.isfinite().all()
    assert not WaveformFeatureExtractor()(silent, sampling_rate=16000)["input_values"].any()
    assert not WaveformFeatureExtractor()(silent[:1] + 1, sampling_rate=16000)["input_values"].any(), "one sample"


@pytest.mark.parametrize("preprocess", [SMALL, WaveformFeatureExtractor()], ids=["spectrogram", "waveform"])
@pytest.mark.parametrize(
    "clip, message",
    [
        (np.zeros(0, np.float32), "audio clip 1 is empty"),
        (np.full(900, np.nan, np.float32), "audio clip 1 has 900 samples that are NaN"),
        (np.zeros((2, 900), np.float32), "several clips or several channels"),
        (b"not audio", "is not a readable audio file"),
        ("nowhere.wav", r"there is no audio file nowhere\.wav"),
        ([0.0, 0.1], "audio clip 1 is a list, expected"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_clips_are_named(preprocess: AudioProcessor, clip: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preprocess([clips(900)[0], clip], sampling_rate=16000)
    with pytest.raises(ValueError, match="the list of audio clips is empty"):
        preprocess([])


def test_too_short_for_a_frame() -> None:
    for samples in (1, 399):
        with pytest.raises(AudioError, match=rf"audio clip 0 is too short: it has {samples} samples .* at least 400 "):
            SMALL(clips(samples), sampling_rate=16000)
    assert SMALL(clips(400), sampling_rate=16000)["input_values"].shape == (1, 60, 32)
    with pytest.raises(AudioError, match="at least 201"):
        SpectrogramFeatureExtractor(feature_type="log_mel")(clips(200), sampling_rate=16000)


# --- too long ---------------------------------------------------------------------------------------------------------

LIMITED = [
    SMALL,
    SpectrogramFeatureExtractor(feature_type="log_mel", frames=60),
    WaveformFeatureExtractor(max_length=9000),
]
LIMITED += [SpectrogramFeatureExtractor(feature_type="whisper", num_mel_bins=80, frames=100, low_freq=0.0)]


@pytest.mark.parametrize("preprocess", LIMITED, ids=["kaldi", "log_mel", "waveform", "whisper"])
def test_too_long_is_an_error_a_cut_or_windows(tmp_path: Path, preprocess: AudioProcessor) -> None:
    limit = preprocess.max_samples
    assert limit is not None
    whole = clips(limit + 3000)[0]
    path = tmp_path / "long.wav"
    path.write_bytes(wav(whole))
    preprocess(whole[:limit], sampling_rate=16000)
    with pytest.raises(
        AudioError, match=rf"audio clip 0 is too long: it has {limit + 1} samples .* at most {limit} .*too_long='cut'"
    ):
        preprocess(whole[: limit + 1], sampling_rate=16000)
    with pytest.raises(AudioError, match=r"long\.wav is too long: it has"):
        preprocess(path)
    (name,) = preprocess(whole[:limit], sampling_rate=16000)
    first, last = (preprocess(part, sampling_rate=16000)[name][0] for part in (whole[:limit], whole[-limit:]))
    for clip in (path, (whole, 16000)):
        assert torch.equal(preprocess(clip, too_long="cut")[name][0], first)
        rows = preprocess([clip, clip], too_long="windows")[name]
        assert len(rows) == 4
        for row, part in zip(rows, (first, last, first, last)):
            assert error(row, part.double()) <= 1e-6
        assert [(w.start, len(w.wave)) for w in preprocess.windows(clip)] == [(0, limit), (3000, limit)]
    assert len(preprocess(path, too_long="windows")[name]) == 2


def test_the_limit_is_the_last_that_fits() -> None:
    """One sample more would be one frame more, of which transformers would silently cut the end."""
    from zoo.preprocessing.filter_banks import frames_of

    assert frames_of(SMALL.max_samples, 16000) == 60 and frames_of(SMALL.max_samples + 1, 16000) == 61


def test_short_clips_are_one_window_and_no_limit_has_none() -> None:
    wave = clips(1000)[0]
    (window,) = SMALL.windows((wave, 16000))
    assert (window.start, len(window.wave), window.sampling_rate) == (0, 1000, 16000)
    with pytest.raises(ValueError, match="set max_length="):
        next(WaveformFeatureExtractor().windows((wave, 16000)))
