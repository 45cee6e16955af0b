"""Times of words and characters: against transformers' tokenizer, for clips of any length, and in files."""

import json
from pathlib import Path

import pytest
import soundfile
import torch

import zoo
from zoo.inference import long_audio, transcribe
from zoo.inference.subtitles import TimedText
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.waveform import WaveformFeatureExtractor

SAMPLING_RATE, STRIDE = 8000, 20
TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C")


@pytest.fixture(scope="module")
def speech():
    model = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=8, seed=0, width=32, depth=1, heads=2, dropout=0.0,
                             conv_channels=(16, 16), conv_kernels=(10, 8), conv_strides=(5, 4), position_kernel=8,
                             position_groups=2)  # fmt: skip
    model.preprocess = WaveformFeatureExtractor(
        sampling_rate=SAMPLING_RATE, normalize=False, vocabulary=Vocabulary(TOKENS)
    )
    return model.eval()


CLIP = (torch.zeros(SAMPLING_RATE), SAMPLING_RATE)


def frames(path: str, confidence: float = 6.0, seed: int = 0) -> torch.Tensor:
    """Scores [N, V] whose best path is written with - for the blank and ? for <unk>."""
    ids = torch.tensor([{"-": 0, "?": 3}.get(c) or (0 if c == "-" else TOKENS.index(c)) for c in path])
    scores = torch.rand(len(path), len(TOKENS), generator=torch.Generator().manual_seed(seed))
    return scores + confidence * torch.nn.functional.one_hot(ids, len(TOKENS))


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch):
    """Replaces the scores of the model."""
    return lambda scores: monkeypatch.setattr(transcribe, "frame_scores", lambda model, clip: scores)


PATH = "--AA-AB||-CC---BB|--|A--" + "|-BA-" * 3


@pytest.mark.parametrize("beam_width", [1, 16])
def test_times_are_those_of_transformers(speech, scored, beam_width: int, tmp_path: Path) -> None:
    import transformers

    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    scores = frames(PATH)
    theirs = tokenizer.decode(scores.argmax(-1), output_word_offsets=True, output_char_offsets=True)
    scored(scores)
    ours = zoo.transcribe(speech, CLIP, timestamps="char", beam_width=beam_width)
    assert ours.text == " ".join(theirs.text.split()) == "AAB CB A BA BA BA"
    seconds = STRIDE / SAMPLING_RATE

    def timed(offsets: list, key: str) -> list[tuple[str, float, float]]:
        return [(o[key], pytest.approx(o["start_offset"] * seconds), pytest.approx(o["end_offset"] * seconds))
                for o in offsets if o[key] not in (" ", "")]  # fmt: skip

    assert [(w.text, w.start, w.end) for w in ours.words] == timed(theirs.word_offsets, "word")
    assert [(c.text, c.start, c.end) for c in ours.characters] == timed(theirs.char_offsets, "char")
    p = scores.softmax(-1)
    assert ours.characters[0].probability == pytest.approx(float(p[2:4, 5].mean()))
    assert ours.words[0].probability == pytest.approx(float(p[[2, 3, 5, 6], [5, 5, 5, 6]].mean()))


def test_times_on_request(speech, scored) -> None:
    scored(frames(PATH))
    assert not zoo.transcribe(speech, CLIP, timestamps=None).words
    assert zoo.transcribe(speech, CLIP).words and not zoo.transcribe(speech, CLIP).characters


def test_the_text_is_that_of_predict(speech) -> None:
    wave = 0.1 * torch.randn(3 * SAMPLING_RATE, generator=torch.Generator().manual_seed(0))
    found = zoo.transcribe(speech, (wave, SAMPLING_RATE))
    assert found.text == zoo.predict(speech, (wave, SAMPLING_RATE), top_k=1)[0][0]
    assert " ".join(word.text for word in found.words) == found.text
    assert all(0 <= word.start < word.end <= 3.0 for word in found.words)


def test_long_clips_are_decoded_in_pieces_with_one_clock(speech, scored, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "".join(f"{word}|------" for word in ["A-AB", "CC", "BAC", "B"] * 9)
    scored(frames(path))
    whole = zoo.transcribe(speech, CLIP, timestamps="char")
    monkeypatch.setattr(transcribe, "PIECE", 40 * STRIDE / SAMPLING_RATE)
    monkeypatch.setattr(transcribe, "PIECES", 3)
    pieces = zoo.transcribe(speech, CLIP, timestamps="char")
    assert pieces == whole and len(whole.words) == 36


@pytest.mark.parametrize("count", [1, 9, 10, 11, 57])
def test_pieces_are_all_frames_and_end_in_pauses(count: int) -> None:
    scores = frames(("AB-C" * 20)[:count])
    pieces = transcribe.split_at_pauses(scores, 0, 10)
    assert torch.equal(torch.cat(pieces), scores) and all(0 < len(piece) <= 10 for piece in pieces)
    pieces = transcribe.split_at_pauses(frames("ABABA--------BCBCBCBC"), 0, 18)
    assert len(pieces) == 2 and (pieces[0][-2:].argmax(-1) == 0).all() and (pieces[1][:2].argmax(-1) == 0).all()


def test_windows_of_a_file(speech, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_audio, "SECONDS", 0.8)
    monkeypatch.setattr(long_audio, "CONTEXT", 0.3)
    wave = 0.1 * torch.randn(2 * SAMPLING_RATE, generator=torch.Generator().manual_seed(0))
    soundfile.write(tmp_path / "a.wav", wave.numpy(), SAMPLING_RATE, subtype="FLOAT")
    found = zoo.transcribe(speech, tmp_path / "a.wav")
    again = zoo.transcribe(speech, (wave, SAMPLING_RATE))
    assert found.name == str(tmp_path / "a.wav") and (found.text, found.words) == (again.text, again.words)


def test_align_a_text_that_is_known(speech, scored) -> None:
    """The model is not sure between A and B; the text decides, and keeps its own letters."""
    scores = frames("--AA-|-CC--")
    scores[2:4, TOKENS.index("B")] = scores[2:4, TOKENS.index("A")] - 0.1
    scored(scores)
    found = zoo.align(speech, CLIP, " b  C\n")
    assert found.text == "b C" and [word.text for word in found.words] == ["b", "C"]
    seconds = STRIDE / SAMPLING_RATE
    assert [w.start for w in found.words] == pytest.approx([2 * seconds, 7 * seconds])
    assert [w.end for w in found.words] == pytest.approx([4 * seconds, 9 * seconds])
    assert found.words[0].probability == pytest.approx(float(scores.softmax(-1)[2:4, TOKENS.index("B")].mean()))
    assert [c.text for c in found.characters] == ["b", "C"]


def test_files(speech, scored, tmp_path: Path) -> None:
    scored(frames(PATH))
    found = zoo.transcribe(speech, CLIP)
    for suffix in ("srt", "vtt", "txt", "json"):
        found.save(tmp_path / f"a.{suffix}")
    assert (tmp_path / "a.txt").read_text() == "AAB CB A BA BA BA\n"
    assert (tmp_path / "a.srt").read_text().startswith("1\n00:00:00,005 --> 00:00:01,005\nAAB CB")
    assert (tmp_path / "a.vtt").read_text().startswith("WEBVTT\n\n00:00:00.005 --> ")
    values = json.loads((tmp_path / "a.json").read_text())
    assert values["text"] == found.text and values["words"][1] == found.words[1]._asdict()
    with pytest.raises(ValueError, match=r"the suffix of the file is '.doc'"):
        found.save(tmp_path / "a.doc")
    with pytest.raises(ValueError, match="subtitles need the times of words"):
        zoo.transcribe(speech, CLIP, timestamps=None).save(tmp_path / "b.srt")


def test_subtitles_of_a_language_without_spaces(speech, scored) -> None:
    scored(frames("A-BB-C-" * 60))
    with pytest.raises(
        ValueError, match=r"a word of 180 characters is longer than a subtitle \(ABCABC.*timestamps='char'"
    ):
        zoo.transcribe(speech, CLIP).subtitles()
    found = zoo.transcribe(speech, CLIP, timestamps="char")
    cues = found.subtitles()
    assert "".join(line for cue in cues for line in cue.lines) == found.text == "ABC" * 60
    assert all(len(cue.lines) <= 2 and max(map(len, cue.lines)) <= 42 for cue in cues)
    starts = {character.start for character in found.characters}
    assert len(cues) == 3 and all(cue.start in starts for cue in cues)


def test_a_word_that_is_longer_in_time_than_a_subtitle_is_divided() -> None:
    characters = tuple(TimedText(2.0 * i, 2.0 * i + 0.1, "音", 0.9) for i in range(10))
    found = transcribe.Transcript("a.wav", "音" * 10, (TimedText(0.0, 18.1, "音" * 10, 0.9),), characters).subtitles()
    assert [(cue.start, cue.lines) for cue in found] == [(0, ("音" * 4,)), (8, ("音" * 4,)), (16, ("音" * 2,))]


def test_silence_is_an_empty_text(speech, scored, tmp_path: Path) -> None:
    scored(frames("---||--??"))  # nor has <unk> a text
    found = zoo.transcribe(speech, CLIP, timestamps="char")
    assert found.text == "" and found.words == () and found.characters == ()
    found.save(tmp_path / "a.srt")
    assert (tmp_path / "a.srt").read_text() == ""


def test_refusals(speech, scored) -> None:
    scored(frames("-A-"))
    for call, message in [
        (lambda: zoo.transcribe(speech, [CLIP]), "zoo.transcribe expects one clip, given a list of 1"),
        (lambda: zoo.transcribe(speech, CLIP, beam_width=0), "beam_width=0"),
        (lambda: zoo.transcribe(speech, CLIP, timestamps="words"), "timestamps is 'words', expected one of word, char"),
        (lambda: zoo.transcribe("folder", CLIP), r"load it, zoo.load\('folder'\)"),
        (lambda: zoo.align(speech, CLIP, "  "), "expected the text of the clip"),
        (lambda: zoo.align(speech, CLIP, "AX"), "'X', which is not in the vocabulary"),
        (lambda: zoo.align(speech, CLIP, "ABABA"), "need at least 5 frames, but the clip has 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    scored(torch.full((9, 8), torch.nan))
    for call in (lambda: zoo.transcribe(speech, CLIP, beam_width=1), lambda: zoo.align(speech, CLIP, "A")):
        with pytest.raises(ValueError, match="scores that are not finite for audio clip 0"):
            call()
    ast = zoo.create_model("ast_tiny", seed=0, width=16, depth=1, heads=2, num_classes=3)
    with pytest.raises(
        ValueError, match=r"zoo.transcribe expects Whisper or a model for audio with head='ctc', but the model has"
    ):
        zoo.transcribe(ast, CLIP)
    bare = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=8, seed=0)
    with pytest.raises(ValueError, match="the model has no vocabulary to decode texts with"):
        zoo.transcribe(bare, CLIP)
