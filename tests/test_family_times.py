"""`pytest --family-times`: which family a test belongs to, and what the summary says."""

import subprocess
import sys
from pathlib import Path

import pytest
from family_times import TESTS, family_of

ROOT = Path(__file__).parents[1]
FAMILIES = ["ast", "bert", "clip", "contrast", "distilbert", "gpt2", "llama", "vit", "wav2vec2"]
VARIANTS = {"deit_tiny_patch16_224": "vit", "bert_base": "bert"}


@pytest.mark.parametrize(("test", "family"), [
    ("test_contract.py::test_export[vit]", "vit"),
    ("test_contract.py::test_every_kind_trains[ast-softmax]", "ast"),
    ("test_contract.py::test_every_variant_builds_on_meta[vit-deit_tiny_patch16_224]", "vit"),
    ("test_encoder_parity.py::test_same_numbers[DistilBertForMaskedLM-options0]", "distilbert"),
    ("test_encoder_parity.py::test_the_last_norm[BertModel]", "bert"),
    ("test_decoder_parity.py::test_training_llama_gives_the_losses", "llama"),
    ("test_decoder_parity.py::test_rotary_positions_far_from_the_start", "gpt2"),
    ("test_audio_waves.py::test_a_padded_clip_gives_what_it_gives_alone[base]", "wav2vec2"),
    ("test_contrast.py::test_compiles_whole[vit and bert]", "contrast"),
    ("test_contrast.py::test_compiles_whole[clip]", "clip"),
    ("test_contract.py::test_names_are_unique_and_listed", "other"),
])  # fmt: skip
def test_the_family_of_a_test(test: str, family: str) -> None:
    assert family_of(f"tests/models/{test}", FAMILIES, VARIANTS) == family
    assert TESTS.match(f"tests/models/{test}")


@pytest.mark.parametrize("file", ["models/test_vit_standins.py", "models/test_names.py", "nn/test_masks.py"])
def test_other_tests_do_not_count(file: str) -> None:
    assert not TESTS.match(f"tests/{file}::test_it[vit]")


def test_the_summary_has_a_line_for_each_family() -> None:
    command = [sys.executable, "-m", "pytest", "--family-times", "-p", "no:cacheprovider",
               "tests/models/test_contract.py", "-k", "published_parameter_counts and bert"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    summary = done.stdout.partition("CPU seconds of contract and parity, by family")[2]
    assert {"bert", "roberta", "distilbert"} <= set(summary.split()) and "vit" not in summary.split()
