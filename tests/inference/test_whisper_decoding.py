"""When Whisper decodes a window again: repetitions, improbable texts, silence, as in OpenAI's code."""

import zlib

import pytest
import torch
from whisper_peers import BINS, FRAMES, transformers_whisper

import zoo
from zoo.inference import whisper_decoding
from zoo.inference.whisper_decoding import DecodedWindow, WhisperOptions, WindowDecoder, compression_ratio
from zoo.models.whisper.generation import GenerationSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    transformers_whisper(folder)
    return zoo.load(folder)


def window(ratio: float = 1.0, logprob: float = -0.5, silent: float | None = 0.1) -> DecodedWindow:
    return DecodedWindow([1, 2], 0.0, logprob, ratio, silent)


@pytest.mark.parametrize(("found", "options", "fails", "is_silent"), [
    (window(), {}, False, False),
    (window(ratio=2.5), {}, True, False),
    (window(logprob=-1.1), {}, True, False),
    (window(logprob=-1.1, silent=0.7), {}, False, True),
    (window(silent=0.7), {}, False, False),
    (window(ratio=2.5, silent=0.7), {}, True, False),
    (window(ratio=2.5, logprob=-1.1, silent=0.7), {}, False, True),
    (window(ratio=2.5), dict(compression_ratio_threshold=None), False, False),
    (window(logprob=-9, silent=0.7), dict(logprob_threshold=None), False, True),
    (window(logprob=-9, silent=0.7), dict(no_speech_threshold=None), True, False),
    (window(logprob=-9, silent=None), {}, True, False),
])  # fmt: skip
def test_decisions(found, options, fails, is_silent):
    options = WhisperOptions(**options)
    assert (found.fails(options), found.is_silent(options)) == (fails, is_silent)


def test_compression_ratio():
    text = "again and again and " * 20
    assert compression_ratio(text) == len(text) / len(zlib.compress(text.encode())) > 2.4
    assert compression_ratio("") == 0.0


def test_only_rows_that_fail_are_decoded_again(model, monkeypatch):
    """At the next temperatures, until they pass or none is left."""
    calls = []
    verdicts = {0.0: {0: 9.0, 1: 1.0, 2: 9.0}, 0.2: {0: 1.0, 2: 9.0}, 0.4: {2: 9.0}}

    def decode_at(self, temperature, memory, prefix, no_speech, seed):
        rows = prefix[:, 1].tolist()
        assert memory[:, 0, 0].tolist() == rows
        calls.append((temperature, rows))
        return [DecodedWindow([row], temperature, -0.5, verdicts[temperature][row]) for row in rows]

    monkeypatch.setattr(WindowDecoder, "decode_at", decode_at)
    settings = GenerationSettings.of(model)
    options = WhisperOptions(temperature=(0.0, 0.2, 0.4), no_speech_threshold=None)
    prefix = torch.tensor([[settings.start, row] for row in range(3)])
    memory = torch.arange(3.0)[:, None, None].expand(3, 4, 2)
    found = WindowDecoder(model, settings, options).decode(memory, prefix, 0)
    assert calls == [(0.0, [0, 1, 2]), (0.2, [0, 2]), (0.4, [2])]
    assert [(one.tokens, one.temperature) for one in found] == [([0], 0.2), ([1], 0.0), ([2], 0.4)]


@torch.no_grad()
def test_log_probabilities_are_those_before_the_temperature(model):
    """Of the tokens and the end token, by one forward pass and the rules of the model."""
    settings = GenerationSettings.of(model)
    memory = model.states(torch.randn(3, BINS, FRAMES, generator=torch.Generator().manual_seed(0)))
    prefix = settings.prefix(torch.tensor([settings.languages["en"]] * 3), "transcribe", True, 3)
    decoder = WindowDecoder(model, settings, WhisperOptions())
    rules = settings.processors(3, True, model.config.vocab_size, model.config.eos_token_id)
    for temperature in (0.0, 0.7):
        for row, found in enumerate(decoder.decode_at(temperature, memory, prefix, [None] * 3, 1)):
            ids = torch.tensor([[*prefix[row].tolist(), *found.tokens, model.config.eos_token_id]])
            logits = model.head(model.run_decoder(ids, None, memory[row : row + 1], None))[0]
            total, count = 0.0, len(found.tokens) + (len(found.tokens) < 24)
            for place in range(3, 3 + count):
                scores = logits[place - 1][None]
                for rule in rules:
                    scores = rule(ids[:, :place], scores)
                total += float(scores.log_softmax(-1)[0, ids[0, place]])
            assert found.avg_logprob == pytest.approx(total / (len(found.tokens) + 1), abs=1e-4)
            assert found.temperature == temperature


@torch.no_grad()
def test_probability_of_silence(model):
    """Behind the start token, also if earlier text stands before it."""
    settings = GenerationSettings.of(model)
    memory = model.states(torch.randn(1, BINS, FRAMES, generator=torch.Generator().manual_seed(0)))
    for prefix in ([settings.start, 302, 307], [settings.previous, 5, 6, settings.start, 302, 307]):
        (found,) = WindowDecoder(model, settings, WhisperOptions()).no_speech_probs(memory, torch.tensor([prefix]))
        ids = torch.tensor([prefix])
        logits = model.head(model.run_decoder(ids, None, memory, None))[0, prefix.index(settings.start)]
        token = model.preprocess.tokenizer.backend.token_to_id("<|nospeech|>")
        assert found == pytest.approx(float(logits.softmax(-1)[token]), rel=1e-4)
    options = WhisperOptions(no_speech_threshold=None)
    assert WindowDecoder(model, settings, options).no_speech_probs(memory, ids) == [None]


def test_samples_are_reproducible_and_beams_are_those_of_generate(model):
    wave = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0)), 16000
    sampled = [zoo.transcribe(model, wave, temperature=1.0, seed=seed, no_speech_threshold=None) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert all(segment.temperature == 1.0 for segment in sampled[0].segments)
    options = dict(temperature=0.0, language="en", no_speech_threshold=None, timestamps="segment")
    beams = zoo.transcribe(model, wave, beam_width=3, **options)
    features = model.preprocess.long_features(wave)[None]
    made = zoo.generate(model, input_features=features, num_beams=3, language="en", return_timestamps=True,
                        max_new_tokens=24)  # fmt: skip
    assert made[0, 3:].tolist()[: len(beams.segments[0].tokens)] == list(beams.segments[0].tokens)


def test_loops_are_reported(model):
    """This model repeats itself whatever the temperature, if only low ones are tried."""
    wave = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0)), 16000
    found = zoo.transcribe(model, wave, temperature=(0.0, 0.01), language="en", no_speech_threshold=None)
    assert found.repetitive and all(segment.temperature == 0.01 for segment in found.repetitive)
    assert found.repetitive[0].compression_ratio > whisper_decoding.REPETITIVE


@pytest.mark.parametrize(("options", "message"), [
    (dict(temperature=()), r"temperature=\(\): expected a number of at least 0"),
    (dict(temperature=-1.0), "temperature=-1.0"),
    (dict(temperature=(0.0, "hot")), "expected a number of at least 0, or several"),
    (dict(logprob_threshold="low"), "logprob_threshold='low': expected a finite number, or None"),
    (dict(batch_size=0), "batch_size=0: expected a whole number of at least 1"),
])  # fmt: skip
def test_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        WhisperOptions(**options)
