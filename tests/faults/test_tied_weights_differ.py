"""A head that the config calls tied, but that has values of its own, keeps them."""

from pathlib import Path

import pytest
import torch
import transformers
from peers import error
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoints.formats import native

SHAPE = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 40, "tie_word_embeddings": True,
}  # fmt: skip
MODERN = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
GPT2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 40}
# Class of transformers -> (options, the tensor of its head).
MODELS = {
    "LlamaForCausalLM": (SHAPE, "lm_head.weight"),
    "Qwen2ForCausalLM": (SHAPE | {"num_key_value_heads": 2}, "lm_head.weight"),
    "GPT2LMHeadModel": (GPT2, "lm_head.weight"),
    "BertForMaskedLM": (SHAPE, "cls.predictions.decoder.weight"),
    "RobertaForMaskedLM": (SHAPE, "lm_head.decoder.weight"),
    "ModernBertForMaskedLM": (SHAPE | MODERN, "decoder.weight"),
}
IDS = torch.randint(3, 90, (1, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_a_file_with_two_tensors(name: str, tmp_path: Path) -> None:
    options, head = MODELS[name]
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    cls(cls.config_class(**options)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {head: torch.randn(99, 32)}, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = cls.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert error(zoo.load(tmp_path)(input_ids=IDS), theirs(IDS).logits) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_an_override_that_ties_them_reports_the_head_as_dropped(name: str, tmp_path: Path) -> None:
    options, head = MODELS[name]
    cls = getattr(transformers, name)
    cls(cls.config_class(**options)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {head: torch.randn(99, 32)}, tmp_path / "model.safetensors", {"format": "pt"})
    report = zoo.load(tmp_path, tie_word_embeddings=True).load_report
    assert report.dropped == ["head.proj.weight"]
    assert "head.proj.weight" not in report.mapped
    assert not report.notes


def untied(name: str) -> zoo.Model:
    """A model whose head was given weights of its own by hand."""
    head = {"bert_tiny": "masked_lm"}.get(name, "lm")
    model = zoo.create_model(name, depth=1, width=32, heads=2, vocab_size=99, head=head, seed=0).eval()
    model.head.proj.weight = torch.nn.Parameter(torch.randn(99, 32, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize("name", ["gpt_nano", "bert_tiny"])
def test_untied_by_hand_and_saved(name: str, tmp_path: Path) -> None:
    model = untied(name)
    zoo.save(model, tmp_path / "model")
    with torch.no_grad():
        assert error(zoo.load(tmp_path / "model")(input_ids=IDS), model(input_ids=IDS)) <= 1e-5


@pytest.mark.parametrize("name", ["gpt_nano", "bert_tiny"])
def test_untied_by_hand_and_exported(name: str, tmp_path: Path) -> None:
    model = untied(name)
    zoo.export(model, tmp_path / "model")
    with torch.no_grad():
        assert error(zoo.load(tmp_path / "model")(input_ids=IDS), model(input_ids=IDS)) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_a_file_with_two_equal_tensors_stays_tied(name: str, tmp_path: Path) -> None:
    options, head = MODELS[name]
    cls = getattr(transformers, name)
    cls(cls.config_class(**options)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    word = next(tensor for tensor in tensors.values() if tensor.shape == (99, 32))
    save_file(tensors | {head: word.clone()}, tmp_path / "model.safetensors", {"format": "pt"})
    model = zoo.load(tmp_path)
    assert model.config.tie_word_embeddings
    assert model.head.proj.weight is model.tokens.word.weight


def test_tied_by_hand_and_saved(tmp_path: Path) -> None:
    model = zoo.create_model(
        "gpt_nano", depth=1, width=32, heads=2, vocab_size=99, tie_word_embeddings=False, seed=0
    ).eval()
    model.head.proj.weight = model.tokens.word.weight
    for folder in (zoo.save(model, tmp_path / "ours"), zoo.export(model, tmp_path / "theirs")):
        loaded = zoo.load(folder)
        assert loaded.head.proj.weight is loaded.tokens.word.weight
        with torch.no_grad():
            assert error(loaded(input_ids=IDS), model(input_ids=IDS)) <= 1e-5


def test_a_checkpoint_of_a_run_that_was_untied_by_hand(tmp_path: Path) -> None:
    model = untied("gpt_nano")
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"zoo": native.describe(model), "state_dict": state}, tmp_path / "last.ckpt")
    with torch.no_grad():
        assert error(zoo.load(tmp_path / "last.ckpt")(input_ids=IDS), model(input_ids=IDS)) <= 1e-5


def test_two_names_of_one_tensor_with_different_values(tmp_path: Path) -> None:
    options, _ = MODELS["BertForMaskedLM"]
    cls = transformers.BertForMaskedLM
    cls(cls.config_class(**options)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {"cls.predictions.decoder.bias": torch.randn(99)}
    save_file(tensors | extra, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(zoo.LoadError, match=r"cls\.predictions\.bias and cls\.predictions\.decoder\.bias"):
        zoo.load(tmp_path)
