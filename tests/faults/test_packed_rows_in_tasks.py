"""A packed batch trains as its documents alone do: no loss at padding or across documents, and no padding is masked."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.tasks import CausalLMTask, MaskedLMTask

GENERATOR = torch.Generator().manual_seed(0)
DOCUMENTS = [torch.randint(5, 200, (length,), generator=GENERATOR).tolist() for length in (7, 5, 9, 3)]
PACKED = dict(zoo.pack(DOCUMENTS, 16))
SMALL = {"width": 32, "depth": 1, "heads": 2, "dropout": 0.0, "attention_dropout": 0.0, "seed": 0}


def decoder() -> zoo.Model:
    return zoo.create_model("gpt_nano", **SMALL).eval()


def encoder() -> zoo.Model:
    return zoo.create_model("bert_tiny", vocab_size=200, **SMALL).eval()


def test_next_tokens_are_those_of_the_documents() -> None:
    model = decoder()
    with torch.no_grad():
        losses = CausalLMTask(model, lr=1e-3).losses(model, PACKED)
        alone = [
            F.cross_entropy(model(input_ids=torch.tensor([ids]))[0, :-1], torch.tensor(ids[1:]), reduction="none")
            for ids in DOCUMENTS
        ]
    assert losses.shape == torch.cat(alone).shape
    assert (losses - torch.cat(alone)).abs().max() < 1e-4


def test_padding_is_never_masked() -> None:
    model = encoder()
    task = MaskedLMTask(model, lr=1e-3, mask_id=4, mask_probability=0.999)  # of all tokens that may be
    with torch.no_grad():
        losses = task.losses(model, PACKED)
    assert len(losses) == sum(map(len, DOCUMENTS))


def rows(documents: list[list[int]]) -> dict[str, Tensor]:
    """One document in each row, padded."""
    longest = max(map(len, documents))
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in documents])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in documents])
    return {"input_ids": ids, "attention_mask": mask}


def test_the_gradient_is_that_of_the_documents_in_rows_of_their_own() -> None:
    gradients = []
    for batch in (PACKED, rows(DOCUMENTS)):
        task = CausalLMTask(decoder(), lr=1e-3)
        task.loss_of(batch, 0, 0).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in task.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()


def test_documents_whose_tokens_alternate() -> None:
    ids = torch.tensor([[10, 20, 11, 21, 12, 0]])
    batch = {"input_ids": ids, "document_ids": torch.tensor([[0, 1, 0, 1, 0, -1]])}
    task = CausalLMTask(decoder(), lr=1e-3)
    with torch.no_grad():
        loss = task.loss_of(batch, 0, 0)
        assert torch.allclose(loss, task.loss_of(rows([[10, 11, 12], [20, 21]]), 0, 0), atol=1e-5)


@pytest.mark.parametrize("key", ["attention_mask", "document_ids"])
def test_labels_at_padding_do_not_count(key: str) -> None:
    """Labels that are the tokens that follow, with padding that nobody excluded."""
    ids = torch.tensor([[7, 8, 9, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    labels = torch.tensor([[8, 9, 5, 0, 0]])
    task = CausalLMTask(decoder(), lr=1e-3)
    marks = {key: mask if key == "attention_mask" else mask - 1}
    with torch.no_grad():
        loss = task.loss_of({"input_ids": ids, "labels": labels, **marks}, 0, 0)
        right = task.loss_of({"input_ids": ids[:, :3], "labels": labels[:, :3]}, 0, 0)
    assert torch.allclose(loss, right, atol=1e-6)


def test_at_least_one_token_of_each_document_is_masked() -> None:
    task = MaskedLMTask(encoder(), lr=1e-3, mask_id=4, mask_probability=1e-6)
    selected = task.mask_tokens(PACKED, 0)[1]
    found = {(row, int(PACKED["document_ids"][row, at])) for row, at in selected.nonzero().tolist()}
    assert len(found) == len(DOCUMENTS) == int(selected.sum())


def test_a_model_that_would_mix_the_documents_is_refused() -> None:
    class Plain(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return F.one_hot(input_ids, 200).float()

    with pytest.raises(ValueError, match="document_ids"):
        CausalLMTask(Plain(), lr=1e-3).loss_of(PACKED, 0, 0)
