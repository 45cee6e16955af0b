"""A damaged file ends in one LoadError that names it, never in an error of a library below."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import edit_json
from safetensors.torch import load_file, save_file

import zoo
from zoo.checkpoints.formats import native
from zoo.preprocessing.tokenizer_training import train

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, SETTINGS, PICKLE = "tokenizer.json", "tokenizer_config.json", "pytorch_model.bin"
HEAD = "classifier.weight"
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers: a BERT with a classifier and a tokenizer."""
    folder = tmp_path_factory.mktemp("good") / "model"
    options = {"depth": 1, "width": 16, "heads": 2, "vocab_size": 128, "max_length": 64, "num_classes": 2}
    model = zoo.create_model("bert_tiny", **options, seed=0).eval()
    model.preprocess = train("wordpiece", ["the cat sat on the mat"] * 9, 100, max_length=32)
    return zoo.export(model, folder)


def text(name: str, change: Callable[[str], str]) -> Damage:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def key(name: str, **changes: Any) -> Damage:
    return lambda folder: edit_json(folder / name, **changes)


def negative_id(folder: Path) -> None:
    values = json.loads((folder / TOKENIZER).read_text())
    values["model"]["vocab"]["z"] = -1
    (folder / TOKENIZER).write_text(json.dumps(values))


def head(dtype: torch.dtype) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file(tensors | {HEAD: tensors[HEAD].to(dtype)}, folder / WEIGHTS, {"format": "pt"})

    return damage


def pickled(change: Callable[[dict[Any, torch.Tensor]], dict[Any, Any]]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        torch.save(tensors | change(tensors), folder / PICKLE)

    return damage


def index(value: Any) -> Damage:
    def damage(folder: Path) -> None:
        names = list(load_file(folder / WEIGHTS))
        (folder / WEIGHTS).rename(folder.parent / "other.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, value)}))

    return damage


def quantized(tensors: dict[Any, torch.Tensor]) -> dict[Any, Any]:
    return {HEAD: torch.quantize_per_tensor(tensors[HEAD], 0.1, 0, torch.qint8)}


NESTED = '{"a":' * 5000 + "1" + "}" * 5000
# What is damaged: (how, what the error names).
DAMAGED: dict[str, tuple[Damage, str]] = {
    "tokenizer cut off": (text(TOKENIZER, lambda old: old[:300]), TOKENIZER),
    "tokenizer without a model": (text(TOKENIZER, lambda old: "{}"), TOKENIZER),
    "tokenizer with a negative id": (negative_id, TOKENIZER),
    "tokenizer not in UTF-8": (lambda folder: (folder / TOKENIZER).write_bytes(b"\xff\xfe"), TOKENIZER),
    "pad token a list": (key(SETTINGS, pad_token=["a"]), SETTINGS),
    "more tokens a number": (key(SETTINGS, additional_special_tokens=5), SETTINGS),
    "more tokens of numbers": (key(SETTINGS, additional_special_tokens=[5]), SETTINGS),
    "added tokens a list": (key(SETTINGS, added_tokens_decoder=[5]), SETTINGS),
    "added tokens without content": (key(SETTINGS, added_tokens_decoder={"5": {}}), SETTINGS),
    "lower case a text": (key(SETTINGS, do_lower_case="no"), SETTINGS),
    "length a text": (key(SETTINGS, model_max_length="long"), SETTINGS),
    "length a list": (key(SETTINGS, model_max_length=[1]), SETTINGS),
    "padding on a side that is none": (key(SETTINGS, padding_side="top"), "padding"),
    "a weight of int8": (head(torch.int8), HEAD),
    "a weight of uint8": (head(torch.uint8), HEAD),
    "a number for a name": (pickled(lambda tensors: {3: torch.zeros(1)}), PICKLE),
    "a sparse tensor": (pickled(lambda tensors: {HEAD: tensors[HEAD].to_sparse()}), HEAD),
    "a tensor without values": (pickled(lambda tensors: {HEAD: tensors[HEAD].to("meta")}), HEAD),
    "a quantized tensor": (pickled(quantized), HEAD),
    "index of numbers": (index(3), INDEX),
    "index of nulls": (index(None), INDEX),
    "index of lists": (index(["a"]), INDEX),
    "index of very long names": (index("a" * 5000), INDEX),
    "index of files outside the folder": (index("../other.safetensors"), INDEX),
    "JSON nested too deep": (text(CONFIG, lambda old: NESTED), CONFIG),
    "a number of 10,000 digits": (text(CONFIG, lambda old: old.rstrip()[:-1] + ', "z": ' + "9" * 10000 + "}"), CONFIG),
    "vocabulary of 10^18": (key(CONFIG, vocab_size=10**18), "vocab_size"),
    "id2label a list": (key(CONFIG, id2label=["a", "b"]), "id2label"),
    "id2label a number": (key(CONFIG, id2label=5), "id2label"),
    "architectures an object": (key(CONFIG, architectures={"a": 1}), "architectures"),
    "architectures a list of lists": (key(CONFIG, architectures=[[1]]), "architectures"),
    "modules.json without a type": (lambda folder: (folder / "modules.json").write_text('[{"idx": 0}]'),
                                    "modules.json"),
    "modules.json of numbers": (lambda folder: (folder / "modules.json").write_text("[1]"), "modules.json"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("damage", "named"), DAMAGED.values(), ids=DAMAGED)
def test_a_folder_of_transformers(damage: Damage, named: str, good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good, folder)
    damage(folder)
    with pytest.raises(zoo.LoadError, match=named.replace(".", r"\.")):
        zoo.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"state_dict": [1]}, id="state dict a list"),
        pytest.param({"state_dict": {1: 2}}, id="numbers for names"),
        pytest.param({"state_dict": {"model.x": 3}}, id="a value that is not a tensor"),
        pytest.param({"state_dict": None}, id="state dict of nothing"),
        pytest.param({"unit": None}, id="unit of nothing"),
        pytest.param({"unit": [1.0, "a"]}, id="unit of text"),
        pytest.param({"zoo": {"library_name": "zoo"}}, id="a description without a family"),
        pytest.param({"zoo": [1]}, id="a description that is a list"),
    ],
)
def test_a_checkpoint_of_a_run(changes: dict[str, Any], tmp_path: Path) -> None:
    model = zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2, num_classes=2, seed=0)
    whole = {
        "zoo": native.describe(model),
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
    }
    torch.save(whole | changes, tmp_path / "damaged.ckpt")
    with pytest.raises(zoo.LoadError, match=r"damaged\.ckpt"):
        zoo.load(tmp_path / "damaged.ckpt")
