"""Texts to ids and back, what is refused, tokenizers learned from texts, and transformers' on the same files."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from text_peers import answer, transformers_text

import zoo
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "A quick film, and a lazy one: the dog was not brown!",
    "Quickly, the fox was over it; nobody jumps like the brown fox.",
    "Äpfel and naïve cafés, the dog said, are not films.",
] * 3


@pytest.fixture(scope="module")
def words():
    return train("wordpiece", TEXTS, 120, max_length=16)


@pytest.fixture(scope="module")
def bytes_():
    return train("bpe", TEXTS, 300, max_length=16)


def test_one_text_a_list_and_pairs(words):
    one = words("the quick fox")
    assert list(one) == ["input_ids", "attention_mask", "token_type_ids"] and one["input_ids"].shape[0] == 1
    ids = one["input_ids"][0].tolist()
    assert ids[0] == words.id("cls") and ids[-1] == words.id("sep") and words.decode(ids) == "the quick fox"
    many = words(["the dog", "the quick fox jumps"])
    lengths = [len(words.encode(text)) for text in ("the dog", "the quick fox jumps")]
    assert many["attention_mask"].sum(1).tolist() == lengths
    assert (many["input_ids"][many["attention_mask"] == 0] == words.id("pad")).all()
    pair = words(("the dog", "a fox"))
    types = pair["token_type_ids"][0].tolist()
    assert types == sorted(types) and types.count(1) == len(words.encode("a fox")) - 1
    assert words([("the dog", "a fox"), ("a fox", "the dog")])["input_ids"].shape[0] == 2


def test_the_size_of_a_vocabulary_is_found_once(words, monkeypatch):
    """A dict of 50,000 tokens takes a tenth of a second, and each load of a model asks several times."""
    other, size = replace(words, max_length=17), len(words.backend.get_vocab())
    assert words.vocab_size == size
    monkeypatch.setattr("zoo.preprocessing.text._backend", None)  # nothing is parsed or counted again
    assert other.vocab_size == words.vocab_size == size


def test_sides_and_multiples(words):
    batch = words(["the dog", "the quick fox jumps"], padding="left", multiple=8)
    assert batch["input_ids"].shape[1] % 8 == 0 and batch["attention_mask"][:, -1].tolist() == [1, 1]
    assert batch["attention_mask"][0, 0] == 0


def test_padding_is_the_padding_token_of_the_tokenizer(words):
    other = replace(words, special={"pad": "[MASK]"})
    batch = other(["the dog", "the quick fox jumps"])
    assert words.id("mask") != 0 and (batch["input_ids"][batch["attention_mask"] == 0] == words.id("mask")).all()


def test_too_long_is_never_silent(words):
    text = "the quick brown fox " * 6
    with pytest.raises(ValueError, match=r"text 1 has 26 tokens, expected at most max_length=16.*truncate='cut'"):
        words(["the dog", text])
    with pytest.warns(UserWarning, match="1 of 2 texts are truncated"):
        cut = words(["the dog", text], truncate="warn")
    assert cut["input_ids"].shape == (2, 16) and cut["input_ids"][1, -1] == words.id("sep")
    assert torch.equal(words(["the dog", text], truncate="cut")["input_ids"], cut["input_ids"])
    assert words(text, max_length=64)["input_ids"].shape == (1, 26)


@pytest.mark.parametrize("texts, said", [
    ("", "text 0 is empty"), (["a dog", ""], "text 1 is empty"), ([], "list of texts is empty"),
    (["a", 3], "text 1 is of type int"),
    (["a", ["b", "c"]], "text 1 is of type list"), ("  ", "text 0 has no tokens"), (("a", ""), "text 0 is empty"),
    (None, "expected a text or a list of texts, given NoneType"),
])  # fmt: skip
def test_what_is_no_text_is_refused(words, texts, said):
    with pytest.raises(ValueError, match=said):
        words(texts)


def test_wrong_options_name_the_right_ones(words):
    with pytest.raises(ValueError, match="truncate is 'cutt', expected one of error, warn, cut; did you mean 'cut'"):
        words("a", truncate="cutt")
    with pytest.raises(ValueError, match="special token is 'msk'"):
        words.id("msk")
    with pytest.raises(ValueError, match="has no token '<pad>'"):
        TextProcessor(tokenizer=words.tokenizer, special={"pad": "<pad>"}, max_length=8)


def test_what_the_file_says_of_truncation_does_not_act_unseen(words):
    values = json.loads(words.tokenizer)
    values["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    values["padding"] = {
        "strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    other = TextProcessor(tokenizer=json.dumps(values), special=words.special, max_length=16)
    assert torch.equal(other("the quick brown fox")["input_ids"], words("the quick brown fox")["input_ids"])


def test_bytes_know_every_letter(bytes_):
    text = "Ωmega 😀\tthe\ndog"
    assert bytes_.decode(bytes_.encode(text)) == text and "token_type_ids" not in bytes_(text)


SIZES = {"wordpiece": 120, "bpe": 300, "seq2seq": 300}
IN_A_PROCESS = """
import json, sys
from pathlib import Path
from zoo.preprocessing.tokenizer_training import train
sizes = json.loads(sys.argv[2])
print(json.dumps({kind: train(kind, Path(sys.argv[1]), size).tokenizer for kind, size in sizes.items()}))
"""


def test_equal_texts_give_equal_tokenizers_in_every_process(tmp_path):
    """Also where sets of texts have another order."""
    here = {kind: train(kind, TEXTS, size).tokenizer for kind, size in SIZES.items()}
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS))
    for texts in (file, [file]):
        assert {kind: train(kind, texts, size).tokenizer for kind, size in SIZES.items()} == here
    words, own = [sys.executable, "-c", IN_A_PROCESS, str(file), json.dumps(SIZES)], os.environ.get("PYTHONHASHSEED")
    seed = "2" if own == "1" else "1"
    done = subprocess.run(words, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True)
    assert done.stdout and json.loads(done.stdout) == here, done.stderr


def test_the_tokenizer_of_source_and_target_texts_ends_each_of_them():
    tokens = train("seq2seq", TEXTS, 300)
    assert [tokens.id(name) for name in ("bos", "pad", "eos", "unk")] == [0, 1, 2, 3]
    for text in (*TEXTS, "Ωmega 😀", "one\ttwo"):
        ids = tokens.encode(text)
        assert ids[-1] == 2 and 2 not in ids[:-1] and tokens.decode(ids) == text
    first, second = (tokens.backend.encode(text).tokens for text in ("the dog", "a the dog"))
    assert second[-len(first) :] == first  # the first word is like the others


def test_a_tokenizer_is_learned_once(tmp_path, monkeypatch):
    first = train("bpe", TEXTS, 300, cache=tmp_path)
    monkeypatch.setattr("zoo.preprocessing.tokenizer_training._bpe", None)
    assert train("bpe", TEXTS, 300, cache=tmp_path) == first
    with pytest.raises(TypeError):
        train("bpe", TEXTS[:-1], 300, cache=tmp_path)


def test_learning_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(ValueError, match="need 257"):
        train("bpe", TEXTS, 100)
    with pytest.raises(ValueError, match="source is empty"):
        train("wordpiece", ["", " "], 100)
    with pytest.raises(ValueError, match="did you mean 'wordpiece'"):
        train("wordpieces", TEXTS, 100)
    with pytest.raises(ValueError, match="given one string"):
        train("bpe", "text.txt", 300)


# --- with models ------------------------------------------------------------------------------------------------------


def classifier(preprocess, **options):
    small = dict(width=32, depth=2, heads=2, max_length=16, vocab_size=preprocess.vocab_size, num_classes=2)
    model = zoo.create_model("bert_tiny", head="classify", seed=0, **small | options).eval()
    model.preprocess, model.labels = preprocess, ["bad", "good"]
    return model


def test_saved_with_the_model(tmp_path, words):
    zoo.save(classifier(words), tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    again = zoo.load(tmp_path)
    assert again.preprocess == words and "files" not in json.loads((tmp_path / "config.json").read_text())["preprocess"]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(zoo.LoadError, match=r"tokenizer\.json is missing"):
        zoo.load(tmp_path)


def test_a_checkpoint_of_a_recipe_carries_it(tmp_path, words):
    from zoo.checkpoints.formats.native import describe

    model = classifier(words)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state, "zoo": describe(model)}, tmp_path / "last.ckpt")
    assert zoo.load(tmp_path / "last.ckpt").preprocess == words


def test_a_tokenizer_that_does_not_belong_is_refused(tmp_path, words):
    with pytest.raises(ValueError, match=r"ids go up to 119, but the model has vocab_size=50"):
        zoo.save(classifier(words, vocab_size=50), tmp_path)
    with pytest.raises(ValueError, match=r"padding token is 0 \('\[PAD\]'\), but the model has pad_token_id=3"):
        zoo.save(classifier(words, pad_token_id=3), tmp_path)
    for length in (8, 15):
        with pytest.raises(ValueError, match=f"the tokenizer has max_length=16, but .* only max_length={length}"):
            zoo.save(classifier(words, max_length=length), tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has max_length=16, but the model has only max_length=8"):
        zoo.export(classifier(words, max_length=8), tmp_path)
    transformers_text(tmp_path, "BertModel")
    (tmp_path / "tokenizer.json").write_text(words.tokenizer)
    with pytest.raises(zoo.LoadError, match="does not belong to this model: its ids go up to 119"):
        zoo.load(tmp_path)


def test_exported_for_transformers_with_the_same_numbers(tmp_path, words):
    import transformers

    model = classifier(words)
    zoo.export(model, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["The lazy dog was NOT brown", "a naïve fox", "unseen wörds £"]
    batch = dict(theirs(texts, padding=True, return_tensors="pt"))
    ours = words(texts)
    assert {name: t.tolist() for name, t in batch.items()} == {name: t.tolist() for name, t in ours.items()}
    pair = ("the quick brown fox jumps over the lazy dog", "a film about the brown dog and the naïve fox")
    theirs.padding_side = "left"
    cut = theirs([pair[0], "a dog"], [pair[1], "a fox"], truncation=True, max_length=12, padding=True)
    mine = words([pair, ("a dog", "a fox")], truncate="cut", max_length=12, padding="left")
    assert {name: list(map(list, rows)) for name, rows in cut.items()} == {n: t.tolist() for n, t in mine.items()}
    pipe = transformers.pipeline("text-classification", str(tmp_path), top_k=None)
    for text, said in zip(texts, pipe(texts)):
        for label, probability in zoo.predict(model, text):
            assert next(one["score"] for one in said if one["label"] == label) == pytest.approx(probability, abs=1e-6)
    again = zoo.load(tmp_path)
    assert again.labels == ["bad", "good"] and again.preprocess == words
    assert torch.allclose(answer(again, ours), answer(model, ours), atol=1e-6)


def test_tokens_for_a_mask(words):
    model = zoo.create_model("bert_tiny", width=32, heads=2, vocab_size=120, max_length=16, seed=0).eval()
    model.preprocess = words
    answers = zoo.predict(model, ["the [MASK] dog", "[MASK] fox jumps over"], top_k=3)
    with torch.no_grad():
        batch = words("the [MASK] dog")
        scores = model(**batch)[batch["input_ids"] == words.id("mask")].softmax(-1)[0]
    assert [len(one) for one in answers] == [3, 3]
    assert answers[0][0] == (words.decode([scores.argmax()]), pytest.approx(scores.max().item(), abs=1e-6))
    assert [token for token, _ in zoo.predict(model, "the [MASK] dog", top_k=3)] == [token for token, _ in answers[0]]
    with pytest.raises(ValueError, match=r"expected one mask \('\[MASK\]'\) in each text, but text 1 has 2"):
        zoo.predict(model, ["the [MASK]", "[MASK] [MASK]"])
    model.preprocess = train("bpe", TEXTS, 300)
    with pytest.raises(ValueError, match="expected one mask"):
        zoo.predict(model, "the dog")


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
@pytest.mark.parametrize("name", ["bert_tiny", "gpt_nano"])
def test_transformers_and_we_answer_alike(tmp_path, words, name, kind):
    """`problem_type` is what their pipelines read, both ways."""
    import transformers

    small = dict(width=32, depth=1, heads=2, max_length=16, vocab_size=words.vocab_size)
    pad = {"pad_token_id": words.id("pad")} if name == "gpt_nano" else {}
    model = zoo.create_model(name, head="classify", seed=0, num_classes=3, problem_type=kind, **small, **pad).eval()
    model.preprocess = replace(words, max_length=16, types=name == "bert_tiny")
    model.labels = ["a", "b", "c"]
    zoo.export(model, tmp_path)
    again = zoo.load(tmp_path)
    assert again.config.resolved_problem_type == kind
    pipe = transformers.pipeline("text-classification", str(tmp_path), top_k=None)
    ours = dict(zoo.predict(model, TEXTS[0]))
    assert {one["label"]: one["score"] for one in pipe([TEXTS[0]])[0]} == pytest.approx(ours, abs=1e-6)
    assert zoo.predict(again, TEXTS[0]) == zoo.predict(model, TEXTS[0])
    if kind == "regression":
        assert list(ours) == ["a", "b", "c"] and any(not 0 <= value <= 1 for value in ours.values())
    else:
        assert sum(ours.values()) != pytest.approx(1, abs=0.05)


def test_the_score_of_a_cross_encoder_is_the_logit_of_a_yes(tmp_path, words):
    """Their published files say num_labels = 1 and no more; pipelines take the sigmoid."""
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=words.vocab_size, hidden_size=32, num_hidden_layers=1,
                                     num_attention_heads=2, intermediate_size=64, max_position_embeddings=16,
                                     num_labels=1)  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    for file, text in replace(words, max_length=16).transformers_files().items():
        (tmp_path / file).write_text(text if isinstance(text, str) else json.dumps(text))
    score = transformers.pipeline("text-classification", str(tmp_path))({"text": "the dog", "text_pair": "a fox"})
    model = zoo.load(tmp_path)
    assert zoo.predict(model, ("the dog", "a fox"))[0][1] == pytest.approx(score["score"], abs=1e-6)
    assert zoo.load(tmp_path, labels=["no", "yes"]).config.resolved_problem_type == "single_label_classification"


def test_a_pair_is_one_input_and_one_class_is_a_number(words):
    model = classifier(words)
    assert len(zoo.predict(model, ("the dog", "a fox"))) == 2 and len(zoo.predict(model, [("the dog", "a fox")])) == 1
    model.reset_head(1)
    with torch.no_grad():
        assert zoo.predict(model, "the dog") == [("0", pytest.approx(model(**words("the dog")).item(), abs=1e-6))]


def test_models_without_types_export_a_tokenizer_without(tmp_path, words):
    import transformers

    small = dict(width=32, depth=2, heads=2, max_length=16, vocab_size=words.vocab_size, num_classes=2)
    model = zoo.create_model("distilbert_base", head="classify", seed=0, **small).eval()
    model.preprocess = TextProcessor(tokenizer=words.tokenizer, special=words.special, max_length=16)
    zoo.export(model, tmp_path)
    pipe = transformers.pipeline("text-classification", str(tmp_path))
    label, probability = zoo.predict(model, TEXTS[0])[0]
    assert pipe(TEXTS[0])[0] == {"label": f"LABEL_{label}", "score": pytest.approx(probability, abs=1e-6)}


@pytest.mark.parametrize("lower", [True, False])
def test_vocab_txt_of_older_repositories(tmp_path, words, lower):
    import transformers

    transformers_text(tmp_path, "BertForMaskedLM", vocab_size=200)
    vocab = sorted(words.backend.get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("\n".join(token for token, _ in vocab) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    ours, theirs = zoo.load(tmp_path).preprocess, transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "unaffable! [MASK] The DOG, 東京 naïve"]:
        assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.id("mask") == theirs.mask_token_id and ours.max_length == 40


def test_special_tokens_that_are_not_there_are_told(tmp_path, words):
    transformers_text(tmp_path, "BertModel", vocab_size=words.vocab_size)
    (tmp_path / "tokenizer.json").write_text(words.tokenizer)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "<fill>"}}))
    model = zoo.load(tmp_path)
    assert model.preprocess.id("pad") is None and model.preprocess.id("mask") == words.id("mask")
    assert model.load_report.notes == ["the tokenizer has no token '<fill>', which its settings name as pad_token"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).unlink()
    (tmp_path / "spiece.model").write_bytes(b"?")
    model = zoo.load(tmp_path)
    assert model.preprocess is None and "spiece.model has to be converted" in model.load_report.notes[0]


def test_vocab_json_and_merges_of_older_repositories(tmp_path, bytes_):
    import transformers

    values = json.loads(bytes_.tokenizer)["model"]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = {token: number for number, token in enumerate([*special, *values["vocab"], "<mask>"])}
    transformers_text(tmp_path, "RobertaForMaskedLM", vocab_size=400)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in values["merges"]))
    ours, theirs = zoo.load(tmp_path).preprocess, transformers.RobertaTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.encode("the<mask>dog") == theirs("the<mask>dog")["input_ids"]
    assert not ours.types and set(ours("the dog")) == {"input_ids", "attention_mask"}  # it has a single token type


@pytest.mark.parametrize("name", ["bert_tiny", "roberta_small", "modernbert_tiny"])
def test_their_fill_mask_finds_our_tokens(tmp_path, words, name):
    import transformers

    small = dict(width=32, depth=2, heads=2, max_length=16, vocab_size=words.vocab_size, pad_token_id=0)
    model = zoo.create_model(name, seed=0, **small).eval()
    model.preprocess = TextProcessor(
        tokenizer=words.tokenizer, special=words.special, max_length=16, types=name == "bert_tiny"
    )
    zoo.export(model, tmp_path)
    theirs = transformers.pipeline("fill-mask", str(tmp_path), top_k=4)("the [MASK] dog")
    ours = zoo.predict(model, "the [MASK] dog", top_k=4)
    assert [one["token_str"].strip() for one in theirs] == [token.strip() for token, _ in ours]
    assert [one["score"] for one in theirs] == pytest.approx([p for _, p in ours], abs=1e-6)
