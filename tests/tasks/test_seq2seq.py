"""Sequence-to-sequence training: teacher forcing, label smoothing over real tokens, generated texts and their BLEU."""

import math
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.synthetic.translations import make_translations
from zoo.data.text.parallel import ParallelTexts
from zoo.data.text.parallel_datamodule import ParallelDataModule
from zoo.nn.losses.token_labels import shift_right
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks import BLEU, Seq2SeqSpeechTask, Seq2SeqTask, inverse_sqrt
from zoo.tasks.config import OptimSettings
from zoo.tasks.language_modeling import Predictions, output_layer
from zoo.tasks.text_metric import select_rows

SMALL = {"vocab_size": 60, "width": 32, "depth": 1, "heads": 2, "dropout": 0.0, "seed": 0}
NAMES = ["bart_nano", "transformer_nano"]


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    ids, labels = (torch.randint(5, 60, (3, n), generator=generator) for n in (7, 6))
    mask = (torch.arange(7) < torch.tensor([[7], [2], [5]])).long()
    labels[torch.arange(6) >= torch.tensor([[3], [6], [1]])] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "lengths": [7, 2, 5], "labels": labels,
            "index": torch.arange(3), "epoch": 0}  # fmt: skip


class Plain(nn.Module):
    """A model that is none of ours, with the logits of one."""

    inputs = ("input_ids", "attention_mask", "decoder_input_ids")

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.inner(**inputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("plain", [False, True])
def test_the_loss_is_that_of_torch_over_real_tokens(name: str, smoothing: float, plain: bool) -> None:
    model = zoo.create_model(name, **SMALL).double()
    if name == "bart_nano":
        model.head.proj.bias.copy_(torch.randn(60))  # the fixed bias of BART's output layer
    one = batch()
    start, labels = model.config.decoder_start_token_id, one["labels"]
    read = torch.tensor([[start, *row[:-1]] for row in labels.tolist()])
    logits = model(one["input_ids"], one["attention_mask"], read.where(read >= 0, model.config.pad_token_id))
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    of_torch = torch.autograd.grad(expected, list(model.parameters()))
    task = Seq2SeqTask(Plain(model) if plain else model, lr=1e-3, label_smoothing=smoothing)
    assert (output_layer(task.model) is None) == (plain or name == "bart_nano")  # whose forward is its own
    loss = task.loss_of(one, 0, 0)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6, check_dtype=False)
    for ours, other in zip(torch.autograd.grad(loss, list(model.parameters())), of_torch, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)
    assert float(task._count) == 10  # the tokens that count, by which micro-batches are weighted


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_label_smoothing_without_all_scores(reduction: Any) -> None:
    layer = nn.Linear(8, 50)
    hidden, labels = torch.randn(6, 8), torch.tensor([3, -100, 49, 0, 7, -100])
    found = Predictions(hidden, labels, layer, 0.3).cross_entropy(reduction)
    expected = F.cross_entropy(layer(hidden), labels, label_smoothing=0.3, reduction=reduction)
    torch.testing.assert_close(found, expected)


def test_what_stands_at_padding_makes_no_difference() -> None:
    task = Seq2SeqTask(zoo.create_model("transformer_nano", **SMALL), lr=1e-3, label_smoothing=0.1)
    one = batch()
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    longer = one | {name: F.pad(one[name], (0, 3), value=value) for name, value in fill.items()}
    longer["input_ids"] = longer["input_ids"] + (1 - longer["attention_mask"]) * 7
    torch.testing.assert_close(task.loss_of(longer, 0, 0), task.loss_of(one, 0, 0))
    alone = [task.loss_of(select_rows(one, torch.tensor([i])), 0, 0) * n for i, n in enumerate((3, 6, 1))]
    torch.testing.assert_close(sum(alone) / 10, task.loss_of(one, 0, 0))


def test_shift_right() -> None:
    labels = torch.tensor([[5, 6, 2], [7, 2, -100]])
    assert shift_right(labels, 1, 0).tolist() == [[1, 5, 6], [1, 7, 2]]
    assert shift_right(torch.tensor([[7, -100, 2]]), 1, 0).tolist() == [[1, 7, 0]]


def test_rows_of_a_batch() -> None:
    part = select_rows(batch(), torch.tensor([2, 0]))
    assert part["lengths"] == [5, 7] and part["index"].tolist() == [2, 0] and part["epoch"] == 0
    assert torch.equal(part["labels"], batch()["labels"][[2, 0]])


@pytest.mark.parametrize(("options", "says"), [
    ({"label_smoothing": 1.0}, "label_smoothing=1.0"), ({"text_metric": BLEU}, "give both or none"),
    ({"generation": {"num_beams": 61}}, "num_beams=61: expected at most 60, the size of the vocabulary"),
])  # fmt: skip
def test_options_that_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Seq2SeqTask(zoo.create_model("bart_nano", **SMALL), lr=1e-3, **options)


def test_models_that_are_refused() -> None:
    with pytest.raises(ValueError, match="Bert has no decoder_start_token_id"):
        Seq2SeqTask(zoo.create_model("bert_tiny", vocab_size=60, width=32, depth=1, heads=2), lr=1e-3)
    with pytest.raises(ValueError, match="has no decoder_start_token_id"):
        Seq2SeqTask(zoo.create_model("bart_nano", decoder_start_token_id=None, **SMALL), lr=1e-3)

    class Pooled(Plain):
        def forward(self, **inputs: Tensor) -> Tensor:
            return self.inner(**inputs)[:, 0]

    with pytest.raises(ValueError, match=r"needs logits \[B, T, V\] for labels \[3, 6\], the model returned \[3, 60\]"):
        Seq2SeqTask(Pooled(zoo.create_model("bart_nano", **SMALL)), lr=1e-3).loss_of(batch(), 0, 0)


def test_the_inverse_square_root_schedule() -> None:
    factors = [inverse_sqrt(step, warmup=100) for step in range(1000)]
    assert factors[0] == 0.01 and factors[99] == 1.0 == max(factors) and factors[399] == pytest.approx(0.5)
    # Vaswani et al. 2017, eq. 3, but for the peak
    paper = [min((step + 1) ** -0.5, (step + 1) * 100**-1.5) * 10 for step in range(1000)]
    assert factors == pytest.approx(paper)
    with pytest.raises(ValueError, match="schedule=inverse_sqrt with warmup=0"):
        OptimSettings(schedule="inverse_sqrt", warmup=0)
    task = Seq2SeqTask(zoo.create_model("bart_nano", **SMALL),
                       optim=OptimSettings(lr=0.5, schedule="inverse_sqrt", warmup=0.25))  # fmt: skip
    task._trainer = SimpleNamespace(estimated_stepping_batches=400, precision_plugin=None)  # type: ignore[assignment]
    scheduler = task.configure_optimizers()["lr_scheduler"]["scheduler"]  # type: ignore[index,call-overload]
    assert [0.5 * scheduler.lr_lambdas[0](step) for step in (0, 99, 399)] == pytest.approx([0.005, 0.5, 0.25])


# --- generated texts --------------------------------------------------------------------------------------------------


def test_bleu_is_that_of_the_whole_corpus_however_it_is_cut() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    sources, texts = make_translations(60, seed=3)
    others = [" ".join(text.split()[:-1]) + " gut." if i % 3 else text for i, text in enumerate(texts)]
    others[7], others[9] = "", "ein"
    whole = sacrebleu.corpus_bleu(others, [texts]).score
    assert 20 < whole < 95
    parts = BLEU()
    for rows in torch.arange(60).split([1, 20, 39]):
        parts.update([others[i] for i in rows], [texts[i] for i in rows])
    assert parts.compute() == {"bleu": pytest.approx(whole, abs=1e-9)}
    assert parts.signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    parts.reset()
    assert parts.compute() == {"bleu": 0.0}
    parts.update(sources, sources)
    assert parts.compute()["bleu"] == pytest.approx(100.0)


def pairs(count: int = 40) -> Splits[ParallelTexts]:
    sources, targets = make_translations(count, seed=0)
    part = ParallelTexts(sources, targets)
    return Splits(part, part.take(torch.arange(10)), "t", False, "t", validation=part.take(torch.arange(10, 25)))


@pytest.fixture(scope="module")
def memorized() -> tuple[Seq2SeqTask, ParallelDataModule, L.Trainer]:
    """A model that has learned a few sentences by heart."""
    pytest.importorskip("sacrebleu")
    sets = pairs()
    model = zoo.create_model("transformer_nano", **SMALL | dict(vocab_size=600, width=64, order="pre"))
    model.preprocess = train("seq2seq", [*sets.train.sources, *sets.train.targets], 600, max_length=64)
    tokens: Any = model.preprocess
    model = zoo.create_model("transformer_nano", **SMALL | dict(
        vocab_size=tokens.vocab_size, width=64, order="pre", pad_token_id=tokens.id("pad"), max_length=64,
        bos_token_id=0, eos_token_id=tokens.id("eos"), decoder_start_token_id=0))  # fmt: skip
    model.preprocess = tokens
    data = ParallelDataModule(sets, tokens, 20, seed=0)
    assert sets.validation is not None
    task = Seq2SeqTask(model, text_metric=BLEU, references={"val": sets.validation.targets, "test": sets.test.targets},
                       val_samples=12, generation={"num_beams": 3, "max_new_tokens": 40},
                       optim=OptimSettings(lr=5e-3, weight_decay=0.0))  # fmt: skip
    trainer = L.Trainer(max_steps=150, accelerator="cpu", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, check_val_every_n_epoch=75)  # fmt: skip
    trainer.fit(task, data)
    return task, data, trainer


def test_it_learns_sentences_by_heart(memorized: Any) -> None:
    task, _, trainer = memorized
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(task.validation_metrics) == {name for name in found if name.startswith("val_")}
    assert task.validation_metrics["val_bleu"] == "max"
    assert found["val_bleu"] > 80 and found["val_token_accuracy"] > 0.9
    assert found["val_perplexity"] == pytest.approx(math.exp(found["val_loss"]), rel=1e-5)


def test_evaluation_has_the_loss_and_the_accuracy_of_single_pairs(memorized: Any) -> None:
    task, data, trainer = memorized
    trainer.test(task, data, verbose=False)
    row = {name: float(value) for name, value in trainer.callback_metrics.items()}
    losses, right, count = 0.0, 0, 0
    for i in range(10):
        one = data.test.__getitems__(Keys([i], 0))
        with torch.no_grad():
            logits = task.model.eval()(one["input_ids"], None, shift_right(one["labels"], 0, 1))[0]
        losses += float(F.cross_entropy(logits, one["labels"][0], reduction="sum"))
        right += int((logits.argmax(-1) == one["labels"][0]).sum())
        count += one["labels"].shape[1]
    assert row["test_loss"] == pytest.approx(losses / count, rel=1e-4)
    assert row["test_token_accuracy"] == pytest.approx(right / count)
    part = data.splits.test
    assert sorted(task.predictions) == list(range(10))
    expected = zoo.generate(task.model, part.sources, num_beams=3, max_new_tokens=40)
    assert [task.predictions[i] for i in range(10)] == expected
    right = sum(text == task.predictions[i] for i, text in enumerate(part.targets))
    assert row["test_bleu"] > 70 and right >= 6
    assert task.reports["bleu_signature"] == BLEU().signature


def test_no_texts_are_generated_for_no_samples(memorized: Any) -> None:
    task, data, trainer = memorized
    task.val_samples = 0
    try:
        trainer.validate(task, data, verbose=False)
        assert "val_bleu" not in trainer.callback_metrics and "val_bleu" not in task.validation_metrics
    finally:
        task.val_samples = 12


def test_ctc_beside_the_decoder() -> None:
    """By torch's own losses; the end token is the blank, and padding of both texts makes no difference."""
    model = zoo.create_model("transformer_nano", **SMALL | {"eos_token_id": 2, "depth": 2}).double()
    one = batch() | {"labels": torch.tensor([[7, 7, 9, 2], [5, 2, -100, -100], [8, 2, -100, -100]])}
    one |= {"input_ids": one["input_ids"].repeat(1, 2), "attention_mask": one["attention_mask"].repeat_interleave(2, 1)}
    del one["lengths"]
    read = shift_right(one["labels"], model.config.decoder_start_token_id, model.config.pad_token_id)
    inputs = one["input_ids"], one["attention_mask"]
    losses = F.cross_entropy(model(*inputs, read).flatten(0, 1), one["labels"].flatten(), reduction="sum")
    scores = model.head(model.encode(*inputs)).log_softmax(-1).transpose(0, 1)
    texts, frames = torch.tensor([[7, 7, 9], [5, 2, 2], [8, 2, 2]]), one["attention_mask"].sum(1)
    ctc = F.ctc_loss(scores, texts, frames, torch.tensor([3, 1, 1]), blank=2, reduction="sum")
    task = Seq2SeqSpeechTask(model, lr=1e-3, ctc_weight=0.25)
    loss = task.loss_of(one, 0, 0)
    torch.testing.assert_close(loss, (0.75 * losses + 0.25 * ctc) / 8, check_dtype=False)
    assert not model.encoder.blocks._forward_hooks
    plain = Seq2SeqSpeechTask(model, lr=1e-3).loss_of(one, 0, 0)
    torch.testing.assert_close(plain, losses / 8, check_dtype=False)
    with pytest.raises(ValueError, match="row 0: 3 symbols need at least 4 frames, but the clip has 3"):
        task.loss_of(one | {name: one[name][:, :3] for name in ("input_ids", "attention_mask")}, 0, 0)


def test_models_without_ctc() -> None:
    model = zoo.create_model("bart_nano", **SMALL)
    with pytest.raises(ValueError, match=r"ctc_weight=1\.0: expected at least 0 and less than 1"):
        Seq2SeqSpeechTask(model, ctc_weight=1.0)
    with pytest.raises(ValueError, match="the output layer of Plain cannot read the states of an encoder"):
        Seq2SeqSpeechTask(Plain(model), ctc_weight=0.3)
    recurrent = zoo.create_model("gru_bahdanau_nano", vocab_size=60, width=16, seed=0)
    with pytest.raises(ValueError, match="cannot read the states of an encoder; expected a Transformer"):
        Seq2SeqSpeechTask(recurrent, ctc_weight=0.3)
    with pytest.raises(ValueError, match="the model has no eos_token_id, which is the blank"):
        Seq2SeqSpeechTask(zoo.create_model("bart_nano", **SMALL | {"eos_token_id": None}), ctc_weight=0.3)
