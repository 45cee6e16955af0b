"""`zoo.verify` compares every class of transformers that loads, with a vocabulary of any size and any padding token."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from decoder_peers import decoder
from safetensors.torch import load_file, save_file
from seq2seq_files import TINY, seq2seq_folder
from text_peers import transformers_text

import zoo
from zoo.models.example_batch import example_batch
from zoo.models.mapping.config_keys import mappings
from zoo.models.registry import families


def classes() -> Iterator[str]:
    """The classes of transformers' text models."""
    for family, mapping in mappings(families(), "transformers"):
        if family.modality == "text" and family.name != "clip_text":
            yield from mapping.heads


def written(folder: Path, name: str, **options: int) -> Path:
    if (tiny := next((tiny for start, tiny in TINY.items() if name.startswith(start)), None)) is not None:
        seq2seq_folder(folder, name, **tiny | options)
        return folder
    decoders = ("GPT2", "Llama", "Mistral", "Qwen", "Granite", "Mamba", "Rwkv", "Gemma")
    (decoder if name.startswith(decoders) else transformers_text)(folder, name, **options)
    return folder


@pytest.mark.parametrize("name", classes())
def test_a_small_vocabulary(name: str, tmp_path: Path) -> None:
    """The seeded ids would hold the padding token, which transformers looks for in the ids themselves."""
    found = zoo.verify(written(tmp_path, name, vocab_size=6, pad_token_id=2))
    assert found.ok, str(found)


def test_a_model_for_pretraining(tmp_path: Path) -> None:
    found = zoo.verify(written(tmp_path, "BertForPreTraining"))
    assert found.ok and found.against == "transformers"


@pytest.mark.parametrize("pad", [0, 2, 5, None])
def test_the_example_has_no_padding(pad: int | None) -> None:
    sizes = {"vocab_size": 6, "depth": 1, "width": 16, "heads": 2}
    model = zoo.create_model("bert_tiny", pad_token_id=pad, **sizes)
    for seed in range(20):
        ids = example_batch(model, seed)["input_ids"]
        assert pad not in ids.flatten().tolist() and ids.min() >= 0 and ids.max() < 6


@pytest.mark.parametrize(("field", "value"), [("problem_type", "multi_label_classification"), ("dropout", 0.5)])
def test_fields_of_the_config_that_the_outputs_do_not_depend_on(field: str, value: Any, tmp_path: Path) -> None:
    model = zoo.create_model("bert_tiny", depth=1, vocab_size=64, head="classify", num_classes=3, seed=0)
    folder = zoo.save(model, tmp_path / "model")
    assert zoo.verify(folder).ok
    config = json.loads((folder / "config.json").read_text())
    config["config"][field] = value
    (folder / "config.json").write_text(json.dumps(config))
    result = zoo.verify(folder)
    assert not result.ok
    assert f"config.{field} is {value!r}" in str(result)


def test_a_folder_of_an_earlier_version_has_no_config_in_its_record(tmp_path: Path) -> None:
    model = zoo.create_model("bert_tiny", depth=1, vocab_size=64, head="classify", num_classes=3, seed=0)
    folder = zoo.save(model, tmp_path / "model")
    tensors = load_file(folder / "golden.safetensors")
    save_file(tensors, folder / "golden.safetensors", {"zoo": json.dumps({"labels": None})})
    assert zoo.verify(folder).ok


@pytest.mark.parametrize(("key", "value"), [("format", True), ("format", 2.0), ("variant", 3), ("variant", ["vit"])])
def test_values_of_another_type_in_our_config(key: str, value: Any, tmp_path: Path) -> None:
    model = zoo.create_model("bert_tiny", depth=1, vocab_size=64, head="classify", num_classes=3, seed=0)
    folder = zoo.save(model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(zoo.LoadError, match=key):
        zoo.load(folder)
