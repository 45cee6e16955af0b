"""Generation with Whisper: tokens equal to those of transformers, languages, rules of timestamps, errors."""

import json

import pytest
import torch
from peers import edit_json
from torch import Tensor
from whisper_peers import BINS, CODES, FRAMES, transformers_whisper

import zoo
from zoo.models.whisper.generation import GenerationSettings, SuppressTokens, TimestampRules

OPTIONS = {
    "german": dict(language="de"),
    "by name": dict(language="Spanish", task="translate"),
    "one each": dict(language=["de", "english", "<|zh|>"]),
    "detected": dict(task="transcribe"),
    "timestamps": dict(language="de", return_timestamps=True),
    "detected, timestamps": dict(task="translate", return_timestamps=True),
}
NEW = 24


def clips(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(rows, BINS, FRAMES, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """[(folder, transformers' model, ours)] of two seeds."""
    found = []
    for seed in range(2):
        folder = tmp_path_factory.mktemp("peer")
        theirs = transformers_whisper(folder, seed=seed)
        found.append((folder, theirs, zoo.load(folder)))
    return found


def theirs_of(model, features: Tensor, **options) -> Tensor:
    """All tokens of the decoder; transformers' generate cuts the first ones off otherwise."""
    options = {name: list(value) if isinstance(value, list) else value for name, value in options.items()}
    made = model.generate(
        input_features=features, max_new_tokens=NEW, do_sample=False, force_unique_generate_call=True,
        return_dict_in_generate=True, return_timestamps=options.pop("return_timestamps", False), **options,
    )  # fmt: skip
    return made["sequences"]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("how", OPTIONS)
@torch.no_grad()
def test_tokens_equal_those_of_transformers(peers, how, beams):
    for _, theirs, ours in peers:
        options = OPTIONS[how] | {"num_beams": beams}
        expected = theirs_of(theirs, clips(), **options)
        made = zoo.generate(ours, input_features=clips(), max_new_tokens=NEW, **options)
        length = min(made.shape[1], expected.shape[1])  # theirs may cut off, or keep, a last column of padding
        assert torch.equal(made[:, :length], expected[:, :length])
        end = ours.config.eos_token_id
        assert (made[:, length:] == end).all() and (expected[:, length:] == end).all()


def test_timestamps_are_written_in_pairs(peers):
    """The rules hold for what a model with random weights writes."""
    _, _, ours = peers[0]
    settings = GenerationSettings.of(ours)
    zero = settings.no_timestamps + 1
    made = zoo.generate(
        ours, input_features=clips(6), language="en", return_timestamps=True, max_new_tokens=40, temperature=1.0, seed=1
    )
    for row in made[:, 3:].tolist():
        assert zero <= row[0] <= zero + settings.max_initial_timestamp_index
        times = [token for token in row if token >= zero]
        assert times == sorted(times) and settings.no_timestamps not in row
        for first, second, third in zip(row, row[1:], row[2:]):
            assert not (first >= zero and second >= zero and third >= zero)
        assert not set(row) & set(settings.suppress_tokens)


def test_the_rules_are_those_of_transformers():
    """For random texts and scores, of every length."""
    from transformers import GenerationConfig
    from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

    none, end, begin = 30, 20, 2
    for limit in (None, 3):
        config = GenerationConfig(eos_token_id=end, no_timestamps_token_id=none, max_initial_timestamp_index=limit)
        theirs, ours = WhisperTimeStampLogitsProcessor(config, begin), TimestampRules(none, end, begin, limit)
        for seed in range(60):
            generator = torch.Generator().manual_seed(seed)
            ids = torch.randint(0, 45, (5, begin + seed % 7), generator=generator)
            scores = torch.randn(5, 45, generator=generator) * 3
            assert torch.equal(ours(ids, scores), theirs(ids, scores))


def test_suppressed_tokens():
    scores = torch.zeros(2, 6)
    assert SuppressTokens((1, 4))(torch.ones(2, 3), scores).isinf().nonzero()[:, 1].tolist() == [1, 4, 1, 4]
    assert SuppressTokens((1,), at=3)(torch.ones(2, 3), scores).isinf().any()
    assert not SuppressTokens((1,), at=2)(torch.ones(2, 3), scores).isinf().any()


@torch.no_grad()
def test_language_detection(peers):
    for _, theirs, ours in peers:
        expected = theirs.detect_language(input_features=clips(8))
        assert torch.equal(ours.detect_language(clips(8)), expected)
        assert torch.equal(zoo.generate(ours, input_features=clips(8), max_new_tokens=1)[:, 1], expected)
    assert not ours.training


def test_settings_of_the_files(tmp_path, peers):
    """generation_config.json decides what is used by default; without it the tokens of the tokenizer are used."""
    transformers_whisper(tmp_path)
    file = tmp_path / "generation_config.json"
    full = zoo.load(tmp_path)
    ids = GenerationSettings.of(full)
    assert set(ids.languages) == set(CODES) and set(ids.tasks) == {"translate", "transcribe"}
    edit_json(file, language="german", task="translate", return_timestamps=True)
    made = zoo.generate(zoo.load(tmp_path), input_features=clips(1), max_new_tokens=2)
    assert (
        made[0, :3].tolist() == [ids.start, ids.languages["de"], ids.tasks["translate"]]
        and made[0, 3] > ids.no_timestamps
    )
    edit_json(file, language=None, task=None, return_timestamps=None,
              forced_decoder_ids=[[1, None], [2, ids.tasks["translate"]]])  # fmt: skip
    assert GenerationSettings.of(zoo.load(tmp_path)).task == "translate"
    file.unlink()
    bare = GenerationSettings.of(zoo.load(tmp_path))
    assert (bare.start, bare.languages, bare.tasks, bare.no_timestamps) == (
        ids.start, ids.languages, ids.tasks, ids.no_timestamps
    )  # fmt: skip
    file.write_text(json.dumps({"is_multilingual": False}))
    english = zoo.load(tmp_path)
    made = zoo.generate(english, input_features=clips(1), max_new_tokens=2)
    assert made[0, :2].tolist() == [ids.start, ids.no_timestamps] and made.shape == (1, 4)
    for options, message in ((dict(language="en"), "one language only"), (dict(task="transcribe"), "transcribes only")):
        with pytest.raises(ValueError, match=message):
            zoo.generate(english, input_features=clips(1), **options)
    with pytest.raises(ValueError, match="none can be detected"):
        english.detect_language(clips(1))
    file.write_text('{"lang_to_id": 3}')
    with pytest.raises(zoo.LoadError, match=r"generation_config\.json of the model is damaged"):
        zoo.generate(zoo.load(tmp_path), input_features=clips(1))


def test_a_saved_and_an_exported_model_write_the_same(peers, tmp_path):
    _, _, ours = peers[0]
    call = dict(input_features=clips(), language="de", return_timestamps=True, max_new_tokens=10)
    expected = zoo.generate(ours, **call)
    for folder in (zoo.save(ours, tmp_path / "saved"), zoo.export(ours, tmp_path / "exported")):
        assert torch.equal(zoo.generate(zoo.load(folder), **call), expected)


def test_from_a_clip_to_a_text(peers):
    _, _, ours = peers[0]
    waves = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (9000, 16000)]
    batch = ours.preprocess(waves, sampling_rate=16000)
    made = zoo.generate(ours, **batch, language="en", return_timestamps=True, max_new_tokens=12)
    for row in made:
        text = ours.preprocess.decode(row)
        assert "<|" not in text and ours.preprocess.decode(row, timestamps=True).startswith("<|0.")
    alone = [zoo.generate(ours, **ours.preprocess((wave, 16000)), language="en", max_new_tokens=12) for wave in waves]
    together = zoo.generate(ours, **batch, language="en", max_new_tokens=12)
    assert all(torch.equal(a[0, : together.shape[1]], b[: a.shape[1]]) for a, b in zip(alone, together))


def test_a_model_without_special_tokens():
    model = zoo.create_model("whisper_nano", depth=1).eval()
    features = torch.zeros(2, 80, 400)
    assert zoo.generate(model, input_features=features, max_new_tokens=3).shape == (2, 4)
    with pytest.raises(ValueError, match="no tokens for timestamps"):
        zoo.generate(model, input_features=features, return_timestamps=True)
    start = torch.tensor([[1, 2], [1, 3]])
    made = zoo.generate(model, input_features=features, decoder_input_ids=start, max_new_tokens=3)
    assert torch.equal(made[:, :2], start) and made.shape == (2, 5)


def test_calls_that_are_refused(peers):
    _, _, ours = peers[0]
    features = clips(2)
    for options, message in (
        (dict(language="klingon"), "not a language of Whisper"),
        (dict(language="french"), r"no token <\|fr\|>; its languages are de, en, es, zh"),
        (dict(language=["de"]), "1 names for 2 clips"),
        (dict(task="transscribe"), "did you mean 'transcribe'"),
        (dict(input_ids=torch.ones(2, 3, dtype=torch.long)), "does not use 'input_ids'"),
        (dict(decoder_input_ids=torch.ones(2, 1, dtype=torch.long), language="de"), "omit language= and task="),
        (dict(max_new_tokens=60), "max_length=48"),
        (dict(num_beams=400), "num_beams=400"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.generate(ours, **{"input_features": features} | options)
    with pytest.raises(TypeError, match="no option 'langauge'"):
        zoo.generate(ours, input_features=features, langauge="de")
    with pytest.raises(ValueError, match="'input_features' is missing"):
        zoo.generate(ours)
