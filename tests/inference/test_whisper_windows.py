"""`zoo.transcribe` with Whisper: the segments of transformers' long-form generation, batches, silence, errors."""

import json
import math
import re
from dataclasses import replace

import pytest
import soundfile
import torch
from peers import edit_json
from torch import Tensor
from whisper_peers import transformers_whisper

import zoo
from zoo.inference.subtitles import TimedText
from zoo.inference.transcribe import Search, Transcript, transcribe_files
from zoo.inference.whisper_windows import split_at_timestamps
from zoo.models.whisper.generation import GenerationSettings
from zoo.preprocessing import whisper

RATE = 16000
GREEDY = dict(temperature=0.0, compression_ratio_threshold=None, logprob_threshold=None, no_speech_threshold=None)
LENGTHS = (0.5, 1.0, 3.7, 5.21)


def clip(seconds: float, seed: int = 0) -> tuple[Tensor, int]:
    """Noise whose loudness changes."""
    generator = torch.Generator().manual_seed(seed)
    wave = 0.1 * torch.randn(round(seconds * RATE), generator=generator)
    return wave * torch.rand(len(wave) // 800 + 1, generator=generator).repeat_interleave(800)[: len(wave)], RATE


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """[(transformers' model, ours)] of three seeds."""
    found = []
    for seed in range(3):
        folder = tmp_path_factory.mktemp("peer")
        theirs = transformers_whisper(folder, seed=seed)
        found.append((theirs, zoo.load(folder)))
    return found


def segments_of(theirs, ours, features: Tensor, **options):
    """(start, end, tokens) of transformers' segments that have a text."""
    made = theirs.generate(
        input_features=features[None], return_timestamps=True, return_segments=True, language="en", task="transcribe",
        max_new_tokens=24, condition_on_prev_tokens=False, temperature=(0.0,), **options,
    )  # fmt: skip
    zero = GenerationSettings.of(ours).no_timestamps + 1
    found = []
    for segment in made["segments"][0]:
        tokens = segment["tokens"].tolist()
        if tokens[-2:-1] and tokens[-1] >= zero and tokens[-2] >= zero:  # transformers keeps both of the last pair
            tokens = tokens[:-1]
        if ours.preprocess.decode(tokens).strip():
            found.append((round(float(segment["start"]), 3), round(float(segment["end"]), 3), tuple(tokens)))
    return found


@pytest.mark.parametrize("seconds", LENGTHS)
@torch.no_grad()
def test_segments_are_those_of_transformers(peers, seconds):
    written = 0
    for seed, (theirs, ours) in enumerate(peers):
        expected = segments_of(theirs, ours, ours.preprocess.long_features(clip(seconds, seed)))
        made = zoo.transcribe(ours, clip(seconds, seed), language="en", timestamps="segment", **GREEDY)
        assert [(round(s.start, 3), round(s.end, 3), s.tokens) for s in made.segments] == expected
        assert made.language == "en" and not made.words
        written += len(expected)
    assert written >= 3 * math.floor(seconds)


@torch.no_grad()
def test_silent_windows_are_those_of_transformers(peers):
    """A low logprob_threshold that every text fails, and a threshold for <|nospeech|> that some windows pass."""
    skipped = 0
    for seed, (theirs, ours) in enumerate(peers):
        features = ours.preprocess.long_features(clip(4, seed))
        every = zoo.transcribe(ours, clip(4, seed), language="en", timestamps="segment",
                               **GREEDY | dict(logprob_threshold=0.0, no_speech_threshold=1.0))  # fmt: skip
        threshold = sorted(s.no_speech_prob for s in every.segments)[len(every.segments) // 2] - 1e-7
        expected = segments_of(theirs, ours, features, logprob_threshold=0.0, no_speech_threshold=threshold)
        made = zoo.transcribe(ours, clip(4, seed), language="en", timestamps="segment",
                              **GREEDY | dict(logprob_threshold=0.0, no_speech_threshold=threshold))  # fmt: skip
        assert [(round(s.start, 3), round(s.end, 3), s.tokens) for s in made.segments] == expected
        skipped += len(every.segments) > len(expected)
    assert skipped


@torch.no_grad()
def test_log_probabilities_are_those_of_transformers(peers):
    theirs, ours = peers[0]
    features = ours.preprocess.long_features(clip(1))
    made = theirs.generate(
        input_features=features[None], return_timestamps=True, return_segments=True, language="en", task="transcribe",
        max_new_tokens=24, temperature=(0.0,), return_dict_in_generate=True, output_scores=True,
        force_unique_generate_call=False,
    )  # fmt: skip
    result = made["segments"][0][0]["result"]
    tokens = result["sequences"][3:]
    expected = theirs._retrieve_avg_logprobs(list(result["scores"]), tokens, 0.0)
    segment = zoo.transcribe(ours, clip(1), language="en", **GREEDY).segments[0]
    ended = tokens[-1] == ours.config.eos_token_id
    count = len(tokens) + (not ended)
    assert segment.avg_logprob == pytest.approx(float(expected) * len(tokens) / count, abs=1e-4)


def test_recordings_in_a_batch_are_transcribed_as_alone(peers):
    """Also in another order than they finish, with broken ones among them, and if each reads its own earlier text."""
    _, ours = peers[0]
    clips = [clip(2.3), clip(0.4, 1), (torch.zeros(0), RATE), clip(1.7, 2), "gone.wav"]
    for condition in (False, True):
        options = dict(language="en", condition_on_previous_text=condition, **GREEDY)
        found = dict(transcribe_files(ours, clips, Search(), batch_size=2, **options))
        assert sorted(found) == list(range(5))
        for index in (0, 1, 3):
            alone = zoo.transcribe(ours, clips[index], **options)
            for together, single in zip(found[index].segments, alone.segments, strict=True):
                assert together[:5] == single[:5] and together[5:7] == pytest.approx(single[5:7], abs=1e-4)
            assert [(w.text, w.start) for w in found[index].words] == [(w.text, w.start) for w in alone.words]
            assert found[index].name == f"audio clip {index}"
        assert "is empty" in str(found[2]) and "there is no audio file gone.wav" in str(found[4])
    with pytest.raises(zoo.preprocessing.audio_io.AudioError, match="is empty"):
        zoo.transcribe(ours, clips[2])


def test_earlier_text_is_read_on_request(peers, monkeypatch):
    _, ours = peers[0]
    prefixes = []
    from zoo.inference.whisper_decoding import WindowDecoder

    decode = WindowDecoder.decode
    monkeypatch.setattr(
        WindowDecoder, "decode", lambda self, m, prefix, seed: prefixes.append(prefix) or decode(self, m, prefix, seed)
    )
    found = zoo.transcribe(ours, clip(3), language="en", condition_on_previous_text=True, **GREEDY)
    settings = GenerationSettings.of(ours)
    first, second, last = prefixes[0][0].tolist(), prefixes[1][0].tolist(), prefixes[-1][0].tolist()
    assert first[0] == settings.start and second[0] == settings.previous and second[-3:] == first
    written = [token for segment in found.segments if segment.start < 1.0 for token in segment.tokens]
    limit = ours.config.max_length // 2 - 1
    assert second[1:-3] == written[-limit:]
    assert len(last) == 1 + limit + 3
    hot = GREEDY | dict(temperature=0.6)
    prefixes.clear()
    zoo.transcribe(ours, clip(3), language="en", condition_on_previous_text=True, **hot)
    assert {tuple(prefix[0].tolist()) for prefix in prefixes} == {tuple(first)}


def test_language_is_detected_for_each_recording(peers):
    _, ours = peers[0]
    clips = [clip(1.3, seed) for seed in range(6)]
    found = dict(transcribe_files(ours, clips, Search("segment"), **GREEDY))
    codes = {token: code for code, token in GenerationSettings.of(ours).languages.items()}
    for index, each in enumerate(clips):
        features = torch.nn.functional.pad(ours.preprocess.long_features(each)[:, :100], (0, 0))
        assert found[index].language == codes[int(ours.detect_language(features[None]))]
    assert zoo.transcribe(ours, clips[0], language="Spanish", **GREEDY).language == "es"


def test_silence_is_skipped(peers):
    _, ours = peers[0]
    wave = torch.cat([torch.zeros(3 * RATE), clip(0.6)[0], torch.zeros(3 * RATE), clip(0.5, 1)[0]])
    found = zoo.transcribe(ours, (wave, RATE), language="en", skip_silence=True, **GREEDY)
    assert all(2.7 <= s.start <= 3.9 or 6.3 <= s.start <= 7.2 for s in found.segments)
    assert min(s.start for s in found.segments) < 3.9 and max(s.start for s in found.segments) > 6.3
    with_silence = zoo.transcribe(ours, (wave, RATE), language="en", **GREEDY)
    assert any(s.start < 2.7 for s in with_silence.segments)
    nothing = zoo.transcribe(ours, (torch.zeros(3 * RATE), RATE), skip_silence=True)
    assert nothing == Transcript("audio clip 0", "")


def test_segments_of_a_window():
    """Pairs end segments; what follows the last pair is left to the next window, unless a timestamp ends it."""
    zero = 100
    cases = [
        ([100, 1, 2], [(0, 50, [100, 1, 2])], None),
        ([100, 1, 130], [(0, 30, [100, 1, 130])], None),
        ([100, 1, 120, 120, 2], [(0, 20, [100, 1, 120])], 20),
        ([100, 1, 120, 120, 2, 140], [(0, 20, [100, 1, 120]), (20, 40, [120, 2, 140])], None),
        ([100, 1, 120, 120, 2, 140, 140], [(0, 20, [100, 1, 120]), (20, 40, [120, 2, 140])], 40),
        ([], [(0, 50, [])], None),
    ]  # fmt: skip
    for tokens, parts, position in cases:
        assert split_at_timestamps(tokens, zero, 50) == (parts, position)
    assert split_at_timestamps([1, 200], None, 50) == ([(0, 50, [1, 200])], None)


def test_files(peers, tmp_path):
    """Subtitles of words, or of segments; text and JSON."""
    _, ours = peers[0]
    soundfile.write(tmp_path / "talk.wav", clip(2.5)[0].numpy(), RATE)
    found = zoo.transcribe(ours, tmp_path / "talk.wav", language="de", **GREEDY)
    assert found.text and found.name == str(tmp_path / "talk.wav")
    for suffix in ("srt", "vtt", "txt", "json"):
        found.save(tmp_path / f"a.{suffix}")
    read = json.loads((tmp_path / "a.json").read_text())
    assert read["language"] == "de" and len(read["segments"]) == len(found.segments)
    assert read["words"][0]["text"] == found.words[0].text and read["segments"][0]["tokens"]
    segments = zoo.transcribe(ours, tmp_path / "talk.wav", language="de", timestamps="segment", **GREEDY)
    assert segments.text == found.text and segments.segments == found.segments
    assert [(cue.start, cue.end) for cue in segments.subtitles()] == [(s.start, s.end) for s in segments.segments]


def test_subtitles_without_spaces():
    words = [TimedText(i * 0.3, i * 0.3 + 0.3, "\u6771", 0.9) for i in range(120)]
    found = Transcript("a", "\u6771" * 120, tuple(words), language="ja")
    cues = found.subtitles()
    assert "".join("".join(cue.lines) for cue in cues) == found.text
    assert all(len(line) <= 42 for cue in cues for line in cue.lines)
    assert all(cue.end - cue.start <= 7.0 + 1e-6 for cue in cues)


def test_features_of_long_recordings(peers, monkeypatch):
    """Those of transformers' feature extractor for the whole recording, computed in pieces."""
    import transformers

    from zoo.preprocessing import filter_banks

    _, ours = peers[0]
    wave = clip(3.21)[0]
    theirs = transformers.WhisperFeatureExtractor(80)(wave.numpy(), sampling_rate=RATE, truncation=False,
                                                      padding="longest", return_tensors="pt")  # fmt: skip
    whole = ours.preprocess.long_features((wave, RATE))
    assert whole.shape == (80, 321)
    torch.testing.assert_close(whole[:, :-1], theirs["input_features"][0][:, :320], atol=1e-4, rtol=0)
    monkeypatch.setattr(filter_banks, "LONG_PIECE", 50)
    torch.testing.assert_close(ours.preprocess.long_features((wave, RATE)), whole, atol=1e-5, rtol=0)
    assert ours.preprocess.long_features((wave[:7], RATE)).shape == (80, 1)


def test_a_model_without_timestamps_reads_whole_windows(tmp_path, monkeypatch):
    transformers_whisper(tmp_path)
    model = zoo.load(tmp_path)
    monkeypatch.setattr(whisper, "NO_TIMESTAMPS", "<|none|>")
    settings = json.loads(model.extra_files["generation_config.json"])
    del settings["no_timestamps_token_id"]
    model.extra_files["generation_config.json"] = json.dumps(settings)
    found = zoo.transcribe(model, clip(2.5), language="en", **GREEDY)
    assert [(s.start, s.end) for s in found.segments] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]
    assert found.words and found.segments[0].no_speech_prob is None


def test_refusals(peers, tmp_path):
    _, ours = peers[0]
    bare = zoo.create_model("whisper_nano", seed=0)
    calls = [
        (lambda: zoo.transcribe(ours, clip(1), language="fr"), "the model has no token <|fr|>; its languages are "),
        (lambda: zoo.transcribe(ours, clip(1), language="klingon"), "klingon"),
        (lambda: zoo.transcribe(ours, clip(1), task="sing"), "expected 'transcribe' or 'translate'"),
        (lambda: zoo.transcribe(ours, clip(1), timestamps="char"), "timestamps is 'char', expected one of word"),
        (lambda: zoo.transcribe(ours, [clip(1)]), "expects one clip, given a list of 1"),
        (lambda: zoo.transcribe(ours, clip(1), language_model=ours), "language_model= takes part in the search of CTC"),
        (lambda: zoo.transcribe(ours, clip(1), beam_width=0), "beam_width=0"),
        (lambda: zoo.transcribe(ours, (clip(1)[0], 8000)), "expected 16000 Hz"),
        (lambda: zoo.transcribe(bare, clip(1)), "the model has no tokenizer"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    with pytest.raises(TypeError, match=r"Whisper has no option 'languag'; did you mean 'language'"):
        zoo.transcribe(ours, clip(1), languag="de")
    ours.preprocess = replace(ours.preprocess, resample=True)
    assert zoo.transcribe(ours, (clip(1)[0], 8000), language="en", **GREEDY).segments
    ours.preprocess = replace(ours.preprocess, resample=False)


def test_damaged_alignment_heads(tmp_path):
    transformers_whisper(tmp_path)
    for heads, message in (([[5, 0]], "its decoder has 2 layers of 2 heads"), (3, r"expected \[layer, head\] pairs")):
        edit_json(tmp_path / "generation_config.json", alignment_heads=heads)
        with pytest.raises(zoo.LoadError, match=message):
            zoo.transcribe(zoo.load(tmp_path), clip(1))
