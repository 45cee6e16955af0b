"""A language model in the beam: its scores, and what they change."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import zoo
from zoo.inference import ctc_language_model, transcribe
from zoo.inference.ctc_decoding import beam
from zoo.inference.ctc_language_model import LanguageModelScorer
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.waveform import WaveformFeatureExtractor

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = Vocabulary(("<pad>", "|", *LETTERS))
CLIP = (torch.zeros(8000), 8000)


def characters(letters: str, max_length: int = 48, **special: str) -> TextProcessor:
    """A tokenizer of single characters, with a token that begins texts."""
    from tokenizers import Regex

    vocab = {token: i for i, token in enumerate(["<s>", *special.values(), " ", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=special.get("unk", "<none>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return TextProcessor(tokenizer=tokenizer.to_str(), special={"bos": "<s>", **special}, max_length=max_length)


def decoder(processor: TextProcessor, seed: int = 0):
    model = zoo.create_model("gpt2", vocab_size=processor.vocab_size, width=32, depth=1, heads=2, seed=seed,
                             max_length=processor.max_length, dropout=0.0)  # fmt: skip
    model.preprocess = processor
    return model.eval()


@pytest.fixture(scope="module")
def lm():
    """A decoder that has learned one sentence."""
    model = decoder(characters(LETTERS)).train()
    ids = torch.tensor([[model.preprocess.id("bos"), *model.preprocess.encode("the cat sat on the mat")]])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids)[0, :-1], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2
    return model.eval()


def frames(text: str, confidence: float = 8.0, **doubts: str) -> torch.Tensor:
    """Scores [N, V] of a text with a blank after each symbol; doubts: symbols that are 0.3 worse than another."""
    path = [i for symbol in VOCABULARY.encode(text) for i in (symbol, 0)]
    scores = confidence * torch.nn.functional.one_hot(torch.tensor(path), len(VOCABULARY)).float()
    for better, worse in doubts.items():
        at = path.index(VOCABULARY.tokens.index(better))
        scores[at, VOCABULARY.tokens.index(worse)] = confidence - 0.3
    return scores


@pytest.fixture(scope="module")
def speech():
    model = zoo.create_model("wav2vec2_tiny", head="ctc", vocab_size=len(VOCABULARY), seed=0, width=32, depth=1,
                             heads=2, position_groups=2)  # fmt: skip
    model.preprocess = WaveformFeatureExtractor(sampling_rate=8000, vocabulary=VOCABULARY)
    return model.eval()


def test_log_probabilities_are_those_of_each_text_alone(lm) -> None:
    texts = ["the cat", "a", "on the mat sat the cat", "cat the"]
    expected = []
    for text in texts:
        ids = [lm.preprocess.id("bos"), *lm.preprocess.encode(text)]
        with torch.no_grad():
            log_p = lm(input_ids=torch.tensor([ids]))[0].log_softmax(-1)
        expected.append(sum(float(log_p[i, token]) for i, token in enumerate(ids[1:])))
    scorer = LanguageModelScorer(lm, VOCABULARY, weight=0.7, word_bonus=2.0)
    assert scorer.log_probabilities(texts) == pytest.approx(expected, abs=1e-3)
    words = [2, 1, 6, 2]
    found = scorer([VOCABULARY.encode(text) for text in texts])
    assert found == pytest.approx([0.7 * e + 2.0 * n for e, n in zip(expected, words)], abs=1e-3)
    assert scorer([[]]) == [0.0]


@pytest.mark.parametrize(("special", "ids", "begin"), [
    ({"bos": "<s>", "eos": "b"}, {}, 0), ({"eos": "b"}, {"bos_token_id": 2}, 3), ({}, {"bos_token_id": 2}, 2),
    ({}, {"bos_token_id": 99, "eos_token_id": 1}, 1), ({}, {"bos_token_id": 99, "eos_token_id": 99}, None),
])  # fmt: skip
def test_the_token_that_begins_texts(special, ids, begin) -> None:
    """Of the tokenizer, else of the config, if the model has it; without one, the first token is not scored."""
    processor = TextProcessor(tokenizer=characters("ab").tokenizer, special=special, max_length=48)
    model = zoo.create_model("gpt2", vocab_size=4, width=32, depth=1, heads=2, seed=0, max_length=48, **ids).eval()
    model.preprocess = processor
    found = LanguageModelScorer(model, Vocabulary(("<pad>", "|", "a", "b"))).log_probabilities(["ab"])[0]
    text = [2, 3] if begin is None else [begin, 2, 3]
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([text]))[0].log_softmax(-1)
    assert found == pytest.approx(sum(float(log_p[i, token]) for i, token in enumerate(text[1:])), abs=1e-4)


def test_batches_do_not_change_the_scores(lm, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [LETTERS[:i] for i in range(1, 20)]
    expected = LanguageModelScorer(lm, VOCABULARY).log_probabilities(texts)
    monkeypatch.setattr(ctc_language_model, "MAX_SCORES", 3 * 10 * 28)
    assert LanguageModelScorer(lm, VOCABULARY).log_probabilities(texts) == pytest.approx(expected, abs=1e-3)


def test_long_texts_are_scored_in_windows(lm) -> None:
    text = "the cat sat on the mat " * 6
    ids = [lm.preprocess.id("bos"), *(lm.preprocess.backend.token_to_id(c) for c in text)]
    expected, limit = 0.0, lm.config.max_length
    with torch.no_grad():
        for start, first, end in [(0, 1, 48), *((d - 24, d, d + 24) for d in range(48, len(ids), 24))]:
            window = ids[start : min(end, len(ids))]
            log_p = lm(input_ids=torch.tensor([window]))[0].log_softmax(-1)
            expected += sum(float(log_p[i - 1, window[i]]) for i in range(first - start, len(window)))
    assert limit == 48 and len(ids) > 2 * limit
    assert LanguageModelScorer(lm, VOCABULARY).log_probabilities([text]) == pytest.approx([expected], abs=1e-2)


@pytest.mark.parametrize(("text", "doubts", "better"), [
    ("the bat sat", {"b": "c"}, "the cat sat"),  # a word within the text
    ("the cat sad", {"d": "t"}, "the cat sat"),  # the last word, which no space ends
])  # fmt: skip
def test_the_language_model_decides_between_words(
    lm, speech, text: str, doubts: dict[str, str], better: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcribe, "frame_scores", lambda model, clip: frames(text, **doubts))
    assert zoo.transcribe(speech, CLIP).text == text
    found = zoo.transcribe(speech, CLIP, language_model=lm)
    assert found.text == better and [word.text for word in found.words] == better.split()
    assert zoo.transcribe(speech, CLIP, language_model=lm, lm_weight=0.0, word_bonus=0.0).text == text


def test_a_word_is_scored_while_the_search_runs(lm) -> None:
    """A beam of two would lose the better text before the end: letters after it are as doubtful."""
    scores = frames("the bat sat on the mat", b="c")
    for i in (16, 20, 24):
        scores[i + 1, VOCABULARY.tokens.index("z")] = 7.9
    scorer = LanguageModelScorer(lm, VOCABULARY)
    assert VOCABULARY.decode(beam(scores[None], width=2, scorer=scorer)[0][0][0])[:7] == "the cat"
    scorer.space = None  # scores the complete texts alone
    assert VOCABULARY.decode(beam(scores[None], width=2, scorer=scorer)[0][0][0])[:7] == "the bat"


@pytest.mark.parametrize("width", [1, 4, 16])
def test_without_weights_the_beam_is_the_same(lm, width: int) -> None:
    scores = torch.randn(2, 12, len(VOCABULARY), generator=torch.Generator().manual_seed(0))
    scores[:, ::3, 1] += 4  # spaces
    lengths = torch.tensor([12, 7])
    scorer = LanguageModelScorer(lm, VOCABULARY, weight=0.0, word_bonus=0.0)
    assert beam(scores, lengths, width=width, scorer=scorer) == beam(scores, lengths, width=width)


def test_the_log_probabilities_of_the_beam_are_those_of_the_audio(lm) -> None:
    scores = frames("the bat sat", b="c")[None]
    plain = {tuple(ids): score for ids, score in beam(scores, width=8)[0]}
    fused = beam(scores, width=8, scorer=LanguageModelScorer(lm, VOCABULARY))[0]
    assert VOCABULARY.decode(fused[0][0]) == "the cat sat"
    assert fused[0][1] == pytest.approx(plain[tuple(fused[0][0])], abs=1e-6) and fused[0][1] < fused[1][1]


def test_a_word_bonus_prefers_more_words(lm) -> None:
    scores = frames("thecat")
    scores[5, 1] = 7.5  # a space instead of the blank after "e"
    best = [VOCABULARY.decode(beam(scores[None], scorer=LanguageModelScorer(lm, VOCABULARY, weight=0.0, word_bonus=b)
                                   )[0][0][0]) for b in (0.0, 2.0)]  # fmt: skip
    assert best == ["thecat", "the cat"]


def test_capitals_are_scored_in_lower_case(lm) -> None:
    capitals = Vocabulary(("<pad>", "|", *LETTERS.upper()))
    scorer = LanguageModelScorer(lm, capitals)
    assert scorer([capitals.encode("the cat")]) == LanguageModelScorer(lm, VOCABULARY)([VOCABULARY.encode("the cat")])
    own = decoder(characters(LETTERS.upper()))
    assert not LanguageModelScorer(own, capitals).lowercase
    assert math.isfinite(LanguageModelScorer(own, capitals).log_probabilities(["THE"])[0])


def test_refusals(lm, speech) -> None:
    def call(model, **options):
        return zoo.transcribe(speech, CLIP, language_model=model, **options)

    bare = decoder(characters(LETTERS))
    bare.preprocess = None
    greek = decoder(characters("αβγδ", unk="<unk>"))
    unmatched = decoder(characters(LETTERS))
    unmatched.preprocess = characters(LETTERS + "0123456789")
    for model, message in [
        (bare, "the model has no tokenizer, so it cannot score texts: load a folder that has one"),
        (greek, r"is for another vocabulary: its tokenizer has no tokens for 26 of the 26 symbols .*'a', 'b'"),
        (decoder(characters("αβγδ")), "is for another vocabulary"),
        (unmatched, "the tokenizer does not belong to this model"),
        (speech, "expected a decoder with head='lm', but it has head='ctc'"),
        ("gpt2", r"expected a zoo.Model, given a str: load it, zoo.load\('gpt2'\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(model)
    with pytest.raises(ValueError, match="beam_width=1: with a language model, expected at least 2 texts"):
        call(lm, beam_width=1)
    with pytest.raises(ValueError, match="lm_weight=nan: expected a finite number"):
        call(lm, lm_weight=math.nan)
