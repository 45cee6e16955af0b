"""Two keys of a config that say different things, and values that go together in no model, are an error of the file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peers import error, randomize

import zoo

SHAPE = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "num_key_value_heads": 2,
}  # fmt: skip
MODERN = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
IDS = torch.randint(3, 90, (1, 9), generator=torch.Generator().manual_seed(0))


def folder(path: Path, name: str, options: dict[str, Any], changes: dict[str, Any]) -> Any:
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model = randomize(cls(cls.config_class(**options)))
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    return model


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize(
    "scaling", [{"type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}], ids=["linear", "yarn"]
)
def test_scaling_added_to_a_config_that_has_rope_parameters(name: str, scaling: dict[str, Any], tmp_path: Path) -> None:
    folder(tmp_path, name, SHAPE, {"rope_scaling": scaling})
    with pytest.raises(zoo.LoadError, match="differ: remove rope_scaling"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("repeated", [True, False], ids=["in both", "in the old key alone"])
def test_scaling_that_is_given_alike_is_taken(repeated: bool, tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    old = {"rope_type": "linear", "factor": 2.0}
    changes = {"rope_scaling": old} | ({} if repeated else {"rope_parameters": None, "rope_theta": 1e4})
    theirs = folder(tmp_path, "LlamaForCausalLM", SHAPE | {"rope_parameters": rope}, changes)
    with torch.no_grad():
        assert error(zoo.load(tmp_path)(input_ids=IDS), theirs(IDS).logits) <= 1e-5


@pytest.mark.parametrize("changes", [{"sliding_window": 2}, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}])
def test_modernbert(changes: dict[str, Any], tmp_path: Path) -> None:
    options = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"} | MODERN
    folder(tmp_path, "ModernBertForMaskedLM", options, changes)
    with pytest.raises(zoo.LoadError, match=next(iter(changes))):
        zoo.load(tmp_path)


@pytest.mark.parametrize("changes", [{"num_attention_heads": 3}, {"hidden_act": "mish"}, {"num_key_value_heads": 3}])
def test_values_of_which_no_model_can_be_built_name_the_file(changes: dict[str, Any], tmp_path: Path) -> None:
    folder(tmp_path, "LlamaForCausalLM", SHAPE | {"head_dim": 8}, changes)
    with pytest.raises(zoo.LoadError, match=r"config\.json"):
        zoo.load(tmp_path)
