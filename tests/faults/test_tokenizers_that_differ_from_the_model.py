"""A tokenizer with another padding token or a few more tokens than the model: it loads with a note where the numbers
do not depend on it, and is refused where they do."""

import json
from pathlib import Path

import pytest
import torch
from decoder_peers import decoder
from text_peers import transformers_text
from tokenizers import Tokenizer

import zoo
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train

TEXTS = ["a b", "c a b b c a"]


def folder(path: Path, name: str, extra: tuple[str, ...] = (), special: bool = True, **options: int) -> TextProcessor:
    """A model with a tokenizer that has `extra` added tokens beyond the model's vocabulary; returns the tokenizer."""
    tokens = train("wordpiece", ["a b c"], 40, max_length=16)
    options = {"vocab_size": tokens.vocab_size} | options
    (decoder if name.startswith("GPT2") else transformers_text)(path, name, **options)
    backend = Tokenizer.from_str(tokens.tokenizer)
    if extra:
        (backend.add_special_tokens if special else backend.add_tokens)(list(extra))
    for file, values in tokens.transformers_files().items():
        text = backend.to_str() if file == "tokenizer.json" else json.dumps(values)
        (path / file).write_text(text)
    return tokens


@pytest.mark.parametrize("name", ["BertModel", "BertForSequenceClassification", "DistilBertForMaskedLM",
                                  "ModernBertForTokenClassification"])  # fmt: skip
def test_another_padding_token_where_padding_is_masked(name: str, tmp_path: Path) -> None:
    import transformers

    tokens = folder(tmp_path, name, pad_token_id=3)
    assert tokens.id("pad") not in (None, 3)
    model = zoo.load(tmp_path)
    assert any("rows are padded with the model's" in note for note in model.load_report.notes)
    batch = model.preprocess(TEXTS)
    assert batch["input_ids"][0, -1] == 3
    theirs = getattr(transformers, name).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected, found = theirs(**batch)[0], model(**batch)
    keep = batch["attention_mask"].bool() if found.ndim == 3 else slice(None)
    assert (found[keep] - expected[keep]).abs().max() < 1e-5
    again = zoo.load(zoo.save(model, tmp_path / "ours"))
    assert torch.equal(again(**batch), found) and again.preprocess == model.preprocess
    assert again.load_report.plain
    zoo.export(model, tmp_path / "again")
    assert zoo.verify(tmp_path / "again").ok


def test_another_padding_token_where_positions_depend_on_it(tmp_path: Path) -> None:
    """transformers finds RoBERTa's positions by the padding id, which is another token in these texts."""
    folder(tmp_path, "RobertaModel", pad_token_id=3)
    with pytest.raises(zoo.LoadError, match=r"its padding token is \d+ .* but the model has pad_token_id=3"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("extra, special", [(("<one>",), True), (("<one>", "<two>"), True), (("word",), False)],
                         ids=str)  # fmt: skip
def test_added_tokens_that_the_model_lacks(extra: tuple[str, ...], special: bool, tmp_path: Path) -> None:
    tokens = folder(tmp_path, "BertModel", extra, special, pad_token_id=0)
    model = zoo.load(tmp_path)
    count = "one token" if len(extra) == 1 else f"{len(extra)} tokens"
    assert any(f"{count} more" in note and extra[0] in note for note in model.load_report.notes)
    assert torch.equal(model.preprocess(TEXTS)["input_ids"], tokens(TEXTS)["input_ids"])
    with pytest.raises(ValueError, match=f"token id {tokens.vocab_size} at row 0, position 2 is out of range"):
        model(**model.preprocess(f"a {extra[0]} b"))
    assert zoo.load(zoo.save(model, tmp_path / "ours")).preprocess == model.preprocess


def test_one_ordinary_token_more(tmp_path: Path) -> None:
    size = train("wordpiece", ["a b c"], 40, max_length=16).vocab_size
    folder(tmp_path, "BertModel", vocab_size=size - 1)
    assert any("one token more" in note for note in zoo.load(tmp_path).load_report.notes)
    folder(tmp_path / "two", "BertModel", vocab_size=size - 2)
    with pytest.raises(zoo.LoadError, match="does not belong to this model"):
        zoo.load(tmp_path / "two")


def test_a_padding_token_that_the_model_lacks(tmp_path: Path) -> None:
    """As in many folders of decoders, to which a padding token was added without resizing the embeddings."""
    folder(tmp_path, "GPT2LMHeadModel", ("<mypad>",), n_positions=16)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"pad_token": "<mypad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").unlink()
    model = zoo.load(tmp_path)
    assert any("no embedding for the padding token '<mypad>'" in note for note in model.load_report.notes)
    both, alone = model(**model.preprocess(TEXTS)), model(**model.preprocess(TEXTS[:1]))
    assert torch.allclose(both[:1, : alone.shape[1]], alone, atol=1e-6)


@pytest.mark.parametrize("role", ["cls", "unk"])
def test_a_token_of_every_text_that_the_model_lacks(role: str, tmp_path: Path) -> None:
    folder(tmp_path, "BertModel", ("<mine>",))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {f"{role}_token": "<mine>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").unlink()
    with pytest.raises(zoo.LoadError, match="does not belong to this model"):
        zoo.load(tmp_path)
