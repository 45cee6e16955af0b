"""zoo.optimize on encoders: the same numbers in float32, near ones in bfloat16, with and without padding."""

import pytest
import torch
from kernel_timers import fastest
from peers import error
from text_peers import ragged

import zoo

WIDE = dict(width=256, depth=2, heads=4, mlp_dim=384, vocab_size=299, max_length=32)


@pytest.mark.parametrize("name", ["bert_tiny", "roberta_small", "distilbert_small", "modernbert_tiny"])
@pytest.mark.parametrize("head", ["masked_lm", "classify", "token", "pool"])
def test_optimized_encoders_give_the_same_numbers(name, head, monkeypatch):
    fastest(monkeypatch, "onednn")
    model = zoo.create_model(name, seed=0, head=head, **WIDE).eval()
    fast, half = zoo.optimize(model), zoo.optimize(model, dtype=torch.bfloat16)
    for batch in (ragged(vocab=299), {"input_ids": ragged((9, 9), vocab=299)["input_ids"]}):
        expected = model(**batch).detach()
        assert error(fast(**batch), expected) <= 1e-5
        answer = half(**batch)
        assert answer.dtype == torch.float32 and error(answer, expected) < 0.1
