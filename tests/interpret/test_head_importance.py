"""`zoo.head_importance`: gates by finite differences, ablation by pruned models, and the losses of all heads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from image_text_models import PIXELS, small_captioner
from image_text_models import TEXT as TEXT_OF_IMAGE
from peers import randomize
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.interpret.row_losses import row_losses
from zoo.models.base import Model
from zoo.models.example_batch import example_batch
from zoo.nn.pruned_heads import attention_layers

TINY = dict(width=32, depth=2, heads=4, mlp_dim=48)
PAIRS = {"image.depth": 1, "text.depth": 1, "text.vocab_size": 50, "text.eos_token_id": 49}
TEXT = TINY | dict(vocab_size=50, max_length=32, dropout=0.1)


def small(name: str, **more: Any) -> Any:
    return randomize(zoo.create_model(name, seed=0, **more)).double()


def texts(rows: int = 4, tokens: int = 9) -> dict[str, Tensor]:
    """Rows of which some have padding, on either side."""
    ids = torch.randint(3, 50, (rows, tokens), generator=torch.Generator().manual_seed(0))
    keep = torch.ones_like(ids)
    keep[1, 6:] = 0
    keep[2, :4] = 0
    return {"input_ids": ids, "attention_mask": keep}


def loss_with_gate(model: Model, name: str, head: int, gate: float, batch: dict[str, Tensor]) -> Tensor:
    """The loss of each row with the output of one head times the gate."""
    attention = attention_layers(model)[name]
    factors = torch.ones(attention.core.spec.heads, attention.head_dim, dtype=torch.float64)
    factors[head] = gate
    handle = attention.out.register_forward_pre_hook(lambda _, args: (args[0] * factors.flatten(),))
    with torch.no_grad():
        losses = row_losses(model, batch)
    handle.remove()
    return losses


@pytest.mark.parametrize("name", ["gpt_nano", "bert_tiny", "t5_nano"])
def test_gradients_are_those_of_gates(name: str) -> None:
    batch = texts()
    if name == "bert_tiny":
        model, batch["labels"] = small(name, **TEXT | dict(head="classify", num_classes=3)), torch.tensor([0, 2, 1, 1])
    elif name == "t5_nano":
        labels = batch["input_ids"][:, :5].clone()
        labels[3, 2:] = -100
        model, batch["labels"] = small(name, **TEXT | dict(head_dim=8)), labels
    else:
        model = small(name, **TEXT)
    found = zoo.head_importance(model.train(), batch, batch_size=3)
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    for layer, head in ((0, 1), (len(found.names) - 1, 2)):
        place = found.names[layer], head
        more, less = (loss_with_gate(model, *place, 1 + step, batch) for step in (1e-5, -1e-5))
        expected = float(((more - less) / 2e-5).abs().mean())
        assert float(found.table[layer, head]) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert found.rows == 4
    with torch.no_grad():
        assert found.loss == pytest.approx(float(row_losses(model, batch).mean()))


def test_losses_of_texts_leave_out_padding_alone() -> None:
    batch = texts()
    ids, keep = batch.values()
    decoder = small("gpt_nano", **TEXT).eval()
    pair = small("t5_nano", **TEXT | dict(head_dim=8)).eval()
    labels = ids.flip(1).clone()  # as long as the source, whose padding is elsewhere
    labels[3, 7:] = -100
    with torch.no_grad():
        found = row_losses(decoder, batch), row_losses(pair, batch | {"labels": labels})
        for row in range(4):
            own = ids[row][keep[row].bool()]
            logits = decoder(input_ids=own[None])[0, :-1]
            torch.testing.assert_close(found[0][row], F.cross_entropy(logits, own[1:]), rtol=1e-9, atol=1e-12)
            target = labels[row][labels[row] >= 0]
            read = torch.cat([torch.zeros(1, dtype=torch.long), target[:-1]])
            logits = pair(input_ids=own[None], decoder_input_ids=read[None])[0]
            torch.testing.assert_close(found[1][row], F.cross_entropy(logits, target), rtol=1e-9, atol=1e-12)


def test_packed_documents_and_copies_of_the_tokens() -> None:
    """The loss of a row of documents is that of the tokens within each."""
    model, ids = small("gpt_nano", **TEXT).eval(), torch.arange(3, 12)[None]
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, -1, -1]])
    with torch.no_grad():
        found = row_losses(model, {"input_ids": ids, "document_ids": documents})
        alone = [row_losses(model, {"input_ids": ids[:, part]}) for part in (slice(0, 4), slice(4, 7))]
    torch.testing.assert_close(found, (3 * alone[0] + 2 * alone[1]) / 5, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="labels are a copy of input_ids"):
        row_losses(model, {"input_ids": ids, "labels": ids})


def test_padding_and_the_size_of_batches_change_nothing() -> None:
    model, batch = small("gpt_nano", **TEXT).eval(), texts()
    whole = zoo.head_importance(model, batch)
    alone = [{"input_ids": ids[keep.bool()][None]} for ids, keep in zip(*batch.values(), strict=True)]
    torch.testing.assert_close(zoo.head_importance(model, alone).table, whole.table, rtol=1e-9, atol=1e-12)
    model.requires_grad_(False)
    torch.testing.assert_close(
        zoo.head_importance(model, batch, batch_size=1).table, whole.table, rtol=1e-9, atol=1e-12
    )
    model.set_checkpointing(True)
    again = zoo.head_importance(model.train(), batch)
    torch.testing.assert_close(again.table, whole.table, rtol=1e-9, atol=1e-12)
    assert model.blocks.checkpointing


def test_ablation_is_the_loss_of_the_model_without_the_head() -> None:
    model, batch = small("gpt_nano", **TEXT).eval(), texts()
    found = zoo.head_importance(model, batch, method="ablation", layers=-1)
    assert found.names == ["blocks.1.mixer"]
    with torch.no_grad():
        losses = [float(row_losses(zoo.prune(model, {1: [other for other in range(4) if other != head]}), batch).mean())
                  for head in range(4)]  # fmt: skip
    assert found.table[0].tolist() == pytest.approx([loss - found.loss for loss in losses], abs=1e-12)


def test_pruning_by_importance_removes_heads_that_do_nothing() -> None:
    model = small("gpt_nano", **TEXT).eval()
    with torch.no_grad():
        for layer, head in ((0, 2), (1, 0), (1, 3)):
            model.blocks[layer].mixer.out.weight[:, 8 * head : 8 * head + 8] = 0
    batch, idle = texts(), {("blocks.0.mixer", 2), ("blocks.1.mixer", 0), ("blocks.1.mixer", 3)}
    ablation = zoo.head_importance(model, batch, method="ablation")
    assert {(name, head) for name, head in ablation.order() if abs(ablation.scores[name][head]) < 1e-12} == idle
    scores = zoo.head_importance(model, batch)
    assert {*scores.order()[:3]} == idle
    pruned = zoo.prune(model, 5, importance=scores)
    assert pruned.config.pruned_heads == {"blocks.0.mixer": (2,), "blocks.1.mixer": (0, 3)}
    torch.testing.assert_close(pruned(**batch), model(**batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["multi", "regression", "token", "masked_lm", "image", "ctc", "pairs", "own"])
def test_the_loss_of_every_kind_of_head(head: str) -> None:
    batch: dict[str, Any] = texts()
    rows, labels, loss = 4, None, None
    if head == "multi":
        model = small("bert_tiny", **TEXT | dict(num_classes=3, problem_type="multi_label_classification"))
        batch["labels"] = torch.tensor([[1, 0, 1]] * 4)
    elif head == "regression":
        model = small("bert_tiny", **TEXT | dict(num_classes=1))
        batch["labels"] = torch.tensor([0.5, 1.0, 2.0, -1.0])
    elif head in ("token", "masked_lm"):
        model = small("bert_tiny", **TEXT | dict(head=head) | (dict(num_classes=3) if head == "token" else {}))
        batch["labels"] = batch["input_ids"] % 3
    elif head == "image":
        model = small("vit_cifar_tiny", **TINY | dict(num_classes=3))
        batch = {"pixel_values": torch.randn(4, 3, 32, 32)}
        model.labels, labels = ["a", "b", "c"], torch.tensor([0, 1, 2, 2])
    elif head == "ctc":
        model, rows = small("wav2vec2_tiny", head="ctc"), 2
        batch = {"input_values": torch.randn(2, 8000), "labels": torch.tensor([[3, 4, 5], [6, 6, 0]]),
                 "label_lengths": torch.tensor([3, 2])}  # fmt: skip
    elif head == "pairs":
        model = small("clip_tiny", **PAIRS)
        batch = example_batch(model)
        rows = len(batch["input_ids"])
    else:
        model = small("bert_tiny", **TEXT | dict(head="pool"))
        loss = lambda output, _: output.square().mean(1)  # noqa: E731
    found = zoo.head_importance(model, batch, labels, loss=loss)
    assert found.rows == rows and all(float(values.min()) > 0 for values in found.scores.values())


def test_inputs_of_the_preprocessing_and_names_of_classes() -> None:
    model = small("vit_cifar_tiny", **TINY | dict(num_classes=2)).float()
    model.labels = ["cat", "dog"]
    images = list(torch.randint(0, 255, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    by_name = zoo.head_importance(model, images, ["cat", "dog", "dog", "cat", "dog"], batch_size=2)
    by_number = zoo.head_importance(model, images, [0, 1, 1, 0, 1], batch_size=2)
    torch.testing.assert_close(by_name.table, by_number.table)
    assert by_name.rows == 5
    batch = model.preprocess(images)
    for labels in (["cat", "dog", "dog", "cat", "dog"], torch.tensor([0, 1, 1, 0, 1])):
        torch.testing.assert_close(zoo.head_importance(model, batch, labels).table, by_number.table)
    rows = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0], [0, 1]])
    model = small("vit_cifar_tiny", **TINY | dict(num_classes=2, problem_type="multi_label_classification")).float()
    of_tensor, of_list = (zoo.head_importance(model, images, labels) for labels in (rows, rows.tolist()))
    torch.testing.assert_close(of_tensor.table, of_list.table)


def test_the_result_prints_and_plots(tmp_path: Path) -> None:
    model = zoo.prune(small("gpt_nano", **TEXT), {0: [0, 3]})
    found = zoo.head_importance(model, texts(), normalize=True)
    assert found.table[0, 2:].isnan().all() and not found.table[1].isnan().any()
    assert [float(values.norm()) for values in found.scores.values()] == pytest.approx([1.0, 1.0])
    lines = str(found).splitlines()
    assert "over 4 rows" in lines[0] and [line.split()[0] for line in lines[2:]] == ["blocks.0.mixer", "blocks.1.mixer"]
    values = [float(found.scores[name][head]) for name, head in found.order()]
    assert values == sorted(values) and len(values) == 6
    found.plot(tmp_path / "heads.png")
    assert (tmp_path / "heads.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "data is empty"),
        ({}, {}, "data is empty"),
        (texts(), dict(labels=[0, 1, 2, 0, 1]), "4 inputs and 5 labels"),
        ("a text", {}, "data is a str: expected a list of inputs"),
        (texts(), dict(method="magic"), "method is 'magic'"),
        (texts(), dict(batch_size=0), "batch_size=0"),
        (texts(), dict(layers=9), "no block with this number"),
        (texts(), {}, "needs labels for its loss"),
        (texts(), dict(labels=torch.tensor([0, 1, 2, 3])), "expected classes from 0 to 2"),
        (texts(), dict(labels=torch.zeros(4, 2)), r"labels are \[4, 2\], expected \[4\]"),
        (["a", "b"], dict(labels=[1]), "2 inputs and 1 labels"),
        (iter([texts()]), dict(labels=[1]), "put the labels into them"),
        (texts(), dict(loss=lambda output, batch: output), "expected a tensor"),
    ],
)
def test_what_it_cannot_measure_is_named(data: Any, options: dict[str, Any], message: str) -> None:
    model = small("bert_tiny", **TEXT | dict(head="classify", num_classes=3))
    with pytest.raises(ValueError, match=message):
        zoo.head_importance(model, data, **options)
    with pytest.raises(ValueError, match="no attention whose heads"):
        zoo.head_importance(zoo.create_model("mamba_nano", depth=1), texts())
    with pytest.raises(ValueError, match="has no loss of its own: pass loss="):
        zoo.head_importance(small("bert_tiny", **TEXT | dict(head="pool")), texts())
    with pytest.raises(ValueError, match="given a Linear"):
        zoo.head_importance(nn.Linear(2, 2), texts())


def test_the_loss_of_captions() -> None:
    model = small_captioner("blip_nano")
    found = zoo.head_importance(model, [PIXELS, PIXELS], [TEXT_OF_IMAGE, "a red bird"], layers="decoder.*")
    losses = []
    for caption in (TEXT_OF_IMAGE, "a red bird"):
        ids = model.preprocess.text(caption)["input_ids"]  # [CLS] ... [SEP]
        with torch.no_grad():
            scores = model(**model.preprocess(images=[PIXELS]), input_ids=ids[:, :-1])
        losses.append(float(torch.nn.functional.cross_entropy(scores[0], ids[0, 1:])))
    assert found.loss == pytest.approx(sum(losses) / 2, rel=1e-5)
    with pytest.raises(ValueError, match="a CoCaOutput, which has no loss of its own: pass loss="):
        zoo.head_importance(small_captioner("coca_nano"), [PIXELS], ["a red bird"])
