"""A packed batch trains as its documents alone do: no loss at padding or across documents, and no padding is masked."""

import pytest
import torch
from torch.nn import functional as F

import zoo
from zoo.tasks import CausalLMTask, MaskedLMTask

GENERATOR = torch.Generator().manual_seed(0)
DOCUMENTS = [torch.randint(5, 200, (length,), generator=GENERATOR).tolist() for length in (7, 5, 9, 3)]
SMALL = {"width": 32, "depth": 1, "heads": 2, "dropout": 0.0, "attention_dropout": 0.0, "seed": 0}


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="padding and the borders of documents are predicted")
def test_next_tokens_are_those_of_the_documents() -> None:
    model = zoo.create_model("gpt_nano", **SMALL).eval()
    with torch.no_grad():
        losses = CausalLMTask(model, lr=1e-3).losses(model, dict(zoo.pack(DOCUMENTS, 16)))
        alone = [
            F.cross_entropy(model(input_ids=torch.tensor([ids]))[0, :-1], torch.tensor(ids[1:]), reduction="none")
            for ids in DOCUMENTS
        ]
    assert losses.shape == torch.cat(alone).shape
    assert (losses - torch.cat(alone)).abs().max() < 1e-4


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="padding is masked, and predicted")
def test_padding_is_never_masked() -> None:
    model = zoo.create_model("bert_tiny", vocab_size=200, **SMALL).eval()
    task = MaskedLMTask(model, lr=1e-3, mask_id=4, mask_probability=0.999)  # of all tokens that may be
    with torch.no_grad():
        losses = task.losses(model, dict(zoo.pack(DOCUMENTS, 16)))
    assert len(losses) == sum(map(len, DOCUMENTS))
