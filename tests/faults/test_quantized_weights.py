"""Weights that a method of quantization packed are refused by its name, with what to do."""

from pathlib import Path
from typing import Any

import pytest
from peers import edit_json
from text_peers import transformers_text

import zoo

METHODS: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4},
    "4-bit bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "8-bit bitsandbytes": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "int-quantized"},
    "an unnamed method": {"bits": 4},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_folder(method: str, tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertModel")
    edit_json(tmp_path / "config.json", quantization_config=METHODS[method])
    with pytest.raises(zoo.LoadError, match=rf"config\.json has a quantization_config.* {method},.*original weights"):
        zoo.load(tmp_path)


def test_null_stands_for_none(tmp_path: Path) -> None:
    transformers_text(tmp_path, "BertForMaskedLM")
    edit_json(tmp_path / "config.json", quantization_config=None)
    assert zoo.load(tmp_path).load_report.plain
