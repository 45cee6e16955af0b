"""`pytest --family-times`: which family a test belongs to, and what the summary says."""

import os
from pathlib import Path

import pytest
from family_times import TESTS, FamilyTimes, family_of

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


TEST_FILE = """
import pytest

@pytest.mark.parametrize("variant", ["bert_base", "roberta_base", "vit_base_patch16_224"])
def test_it(variant: str) -> None:
    sum(i for i in range(1_000_000) if "vit" not in variant)
"""


def test_the_summary_has_a_line_for_each_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a folder that looks like ours, and in this process: another takes seconds to start."""
    file = tmp_path / "tests" / "models" / "test_invented_parity.py"
    file.parent.mkdir(parents=True)
    file.write_text(TEST_FILE)
    words = ["--rootdir", str(tmp_path), "-c", os.devnull, "--import-mode=importlib", "-s", "-p", "no:cacheprovider",
             "-p", "no:xdist", str(file)]  # fmt: skip
    assert pytest.main(words, plugins=[FamilyTimes()]) == 0
    summary = capsys.readouterr().out.partition("CPU seconds of contract and parity, by family")[2]
    rows = [line.split()[:2] for line in summary.splitlines() if "slowest" in line]
    assert sorted(name for _, name in rows) == ["bert", "roberta", "vit"] and rows[-1][1] == "vit"
