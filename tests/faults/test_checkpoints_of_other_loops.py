"""The weights in a checkpoint of another training loop load by its key and prefix, and the error names both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import error, pixels, timm_folder
from safetensors.torch import load_file, save_file
from text_peers import transformers_text
from torch import Tensor

import zoo
from zoo.checkpoints.formats import native
from zoo.tasks.lora import add_lora, lora_scale

IDS = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(0))
State = dict[str, Tensor]


def named(prefix: str) -> Callable[[State], State]:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


LOOPS: dict[str, tuple[Callable[[State], Any], dict[str, str]]] = {
    "as it is": (lambda state: state, {}),
    "DDP": (named("module."), {}),
    "compiled": (named("_orig_mod."), {}),
    "compiled within DDP": (named("module._orig_mod."), {}),
    "DDP within compiled": (named("_orig_mod.module."), {}),
    "FSDP within DDP twice": (named("module.module._fsdp_wrapped_module."), {}),
    "FSDP": (lambda state: {name.replace("layer.", "layer._fsdp_wrapped_module."): t for name, t in state.items()}, {}),
    "Lightning": (lambda state: {"state_dict": named("model.")(state), "epoch": 3}, {"prefix": "model."}),
    "Lightning, compiled": (lambda state: {"state_dict": named("model._orig_mod.")(state)},
                            {"prefix": "model._orig_mod."}),
    "its key": (lambda state: {"model": state, "model_ema": named("x.")(state)}, {"key": "model"}),
    "the average": (lambda state: {"model": named("x.")(state), "model_ema": named("module.")(state)},
                    {"key": "model_ema"}),
    "nested": (lambda state: {"ema": {"model": state, "step": 3}, "optimizer": {"state": {0: {"a": torch.ones(2)}}}},
               {}),
    "a teacher beside it": (lambda state: named("student.")(state) | named("teacher.")(state), {"prefix": "student."}),
    "metrics beside it": (lambda state: {"state_dict": state, "loss": torch.tensor(1.0), "rng": [torch.ones(3)]}, {}),
}  # fmt: skip


@pytest.mark.parametrize("beside", [True, False], ids=["config beside it", "config given"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_checkpoint_loads(name: str, beside: bool, tmp_path: Path) -> None:
    change, options = LOOPS[name]
    folder = tmp_path / "model"
    theirs = transformers_text(folder, "BertForSequenceClassification", num_labels=4)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = (folder if beside else tmp_path) / "last.ckpt"
    torch.save(change(state), file)
    model = zoo.load(file, **options, **({} if beside else {"config": folder}))
    with torch.no_grad():
        assert error(model(IDS), theirs(IDS).logits) <= 1e-5


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt"])
def test_a_file_of_weights_with_a_config(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    theirs = timm_folder(folder, "vit_tiny_patch16_224", img_size=32, patch_size=8)
    state, file = load_file(folder / "model.safetensors"), tmp_path / f"weights{suffix}"
    (folder / "model.safetensors").unlink()
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    with torch.no_grad():
        for config in (folder, folder / "config.json"):
            assert error(zoo.load(file, config=config)(pixels()), theirs(pixels())) <= 1e-5


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda state: {"model": state, "model_ema": state}, {}, r"2 groups.*key='model' or key='model_ema'"),
        (lambda state: {"state_dict": state}, {"key": "state_dic"}, r"did you mean 'state_dict'"),
        (named("model."), {}, r"Most names begin with 'model\.'.*prefix='model\.'"),
        (named("model."), {"prefix": "net."}, r"no tensor whose name begins with prefix='net\.'.*model\."),
        (lambda state: {"epoch": 3}, {}, r"0 groups of tensors"),
        (lambda state: state | {"bert.x.lora_A.weight": torch.ones(1)}, {}, "LoRA adapters: merge them"),
    ],
)
def test_what_to_give_is_named(
    change: Callable[[State], Any], options: dict[str, str], message: str, tmp_path: Path
) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification")
    torch.save(change(load_file(tmp_path / "model.safetensors")), tmp_path / "last.pt")
    with pytest.raises(zoo.LoadError, match=message):
        zoo.load(tmp_path / "last.pt", **options)


def test_without_a_config_the_keys_are_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(2)}}, tmp_path / "last.ckpt")
    with pytest.raises(zoo.LoadError, match=r"config=FOLDER, key=\.\.\., prefix=.*key='state_dict'"):
        zoo.load(tmp_path / "last.ckpt")


@pytest.mark.parametrize("option", ["config", "key", "prefix"])
def test_where_such_arguments_have_no_meaning(option: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    transformers_text(folder, "BertModel")
    model = zoo.create_model("gpt_nano", depth=1, width=16, heads=2, seed=0)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"zoo": native.describe(model), "state_dict": state}, tmp_path / "last.ckpt")
    for source in (folder, tmp_path / "last.ckpt"):
        with pytest.raises(zoo.LoadError, match=f"{option}="):
            zoo.load(source, **{option: str(folder)})


@pytest.mark.parametrize("scale", [2.0, None])
def test_a_run_with_adapters(scale: float | None, tmp_path: Path) -> None:
    """With its scale the adapters are merged; a checkpoint without it says where the merged weights are."""
    pytest.importorskip("peft")
    model = zoo.create_model("bert_tiny", depth=1, width=16, heads=2, vocab_size=99, num_classes=2, seed=0).eval()
    described = native.describe(model)
    add_lora(model, 4, alpha=8.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    assert lora_scale(model) == 2.0
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    stored = {"zoo": described, "state_dict": state} | ({} if scale is None else {"lora_scale": scale})
    torch.save(stored, tmp_path / "last.ckpt")
    if scale is None:
        with pytest.raises(zoo.LoadError, match="'model' of the run"):
            zoo.load(tmp_path / "last.ckpt")
    else:
        with torch.no_grad():
            assert error(zoo.load(tmp_path / "last.ckpt")(IDS), model(IDS)) <= 1e-5


@pytest.mark.parametrize(("prefixes", "choices"), [(["encoder_q."], "prefix='encoder_q.'"), (
    ["student.", "teacher."], "prefix='student.' or prefix='teacher.'")])  # fmt: skip
def test_prefixes_of_any_name_are_in_the_error(prefixes: list[str], choices: str, tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", num_labels=4)
    state = load_file(tmp_path / "model.safetensors")
    torch.save({f"{prefix}{name}": t for prefix in prefixes for name, t in state.items()}, tmp_path / "last.pt")
    with pytest.raises(zoo.LoadError, match=f"give {choices}$"):
        zoo.load(tmp_path / "last.pt")


def test_names_of_the_library_are_not_called_a_prefix(tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", num_labels=4)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("classifier.bias")
    torch.save(state, tmp_path / "last.pt")
    with pytest.raises(zoo.LoadError, match="missing classifier") as raised:
        zoo.load(tmp_path / "last.pt")
    assert "prefix" not in str(raised.value)


@pytest.mark.parametrize("content", [{}, {"state_dict": None, "epoch": 3}, {1: torch.ones(2)}], ids=str)
def test_a_file_without_weights(content: dict[Any, Any], tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", num_labels=4)
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(zoo.LoadError, match=r"holds 0 groups of tensors: it has .*, expected a state dict"):
        zoo.load(tmp_path / "last.pt")


@pytest.mark.parametrize("options", [{"key": 3}, {"prefix": 3}, {"key": ["model"]}], ids=str)
def test_a_key_or_prefix_that_is_not_a_text(options: dict[str, Any], tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", num_labels=4)
    with pytest.raises(ValueError, match="expected a text"):
        zoo.load(tmp_path / "model.safetensors", config=tmp_path, **options)


def test_a_config_that_does_not_exist(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "last.pt")
    with pytest.raises(zoo.LoadError, match=r"config=.*does not exist: expected the folder"):
        zoo.load(tmp_path / "last.pt", config=tmp_path / "absent")


def test_verify_of_a_file_of_weights(tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForSequenceClassification", num_labels=4)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "last.pt")
    with pytest.raises(zoo.LoadError, match=r"zoo\.verify compares a folder"):
        zoo.verify(tmp_path / "last.pt")
