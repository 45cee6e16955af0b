"""The distance from a model's call to the kernel, as benchmarks/structure.py counts it: frames, functions, calls."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def structure():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import structure

        yield structure
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def forwards(structure):
    return structure.forwards()


@pytest.mark.parametrize("name", ["ViT", "BERT", "GPT-2"])
def test_frames_to_the_kernel(structure, forwards, name):
    """forward, encode, stack, block, attention, kind, attend."""
    with torch.inference_mode():
        assert structure.frames(forwards[name]) == 7


@pytest.mark.parametrize("name", ["ViT", "BERT padded"])
def test_functions_entered_in_a_forward_and_in_its_first_block(structure, forwards, name):
    with torch.inference_mode():
        assert structure.functions(forwards[name]) <= 25
        assert structure.functions(forwards[name], "Block.forward") <= 12


def test_calls_of_one_token(structure):
    assert structure.token_calls() <= 100  # one for each product of one row
