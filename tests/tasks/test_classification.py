"""The classifier in a trainer of one's own: pairs, dicts, soft targets, keyed randomness, losses that are no number."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.tasks import ClassificationTask, NonFiniteLoss
from zoo.tasks.config import OptimSettings

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(6, 8), nn.Dropout(dropout), nn.Linear(8, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.drop(self.body(pixel_values)))


def fit(task: L.LightningModule, folder: Path, loader: Any = None, **options: Any) -> L.Trainer:
    options = {"max_steps": 4, "logger": False, "enable_checkpointing": False, **options}
    trainer = L.Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
                        default_root_dir=folder, **options)  # fmt: skip
    trainer.fit(task, loader or pairs())
    return trainer


def pairs(n: int = 24, size: int = 4) -> DataLoader:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=g)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=size)


def test_in_a_trainer_of_ones_own(tmp_path: Path) -> None:
    task = ClassificationTask(Net(0.0), lr=0.05)
    loader = pairs(96, 8)
    trainer = L.Trainer(accelerator="cpu", max_epochs=6, enable_progress_bar=False, enable_model_summary=False,
                        default_root_dir=tmp_path, logger=L.pytorch.loggers.CSVLogger(tmp_path), log_every_n_steps=5,
                        enable_checkpointing=False)  # fmt: skip
    trainer.fit(task, loader, loader)
    assert float(trainer.callback_metrics["val_accuracy"]) > 0.8
    trainer.test(task, loader, verbose=False)
    assert float(trainer.callback_metrics["test_accuracy"]) > 0.8
    assert task.confusion is not None and task.confusion.sum() == 96
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "train_loss" in text and "val_accuracy" in text
    shares = torch.cat(trainer.predict(task, loader))
    assert shares.shape == (96, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(96))


def test_the_learning_rate_of_the_schedule(tmp_path: Path) -> None:
    seen = []

    class Look(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, *args: Any) -> None:
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    task = ClassificationTask(Net(), lr=2.0, optim=OptimSettings(warmup=0.5, final_lr=0.1))
    fit(task, tmp_path, callbacks=[Look()])
    assert seen == pytest.approx([1.0, 2.0, 2.0, 0.2])


def test_soft_targets_and_label_smoothing() -> None:
    net = Net(0.0)
    task = ClassificationTask(net, label_smoothing=0.1)
    x, soft = torch.randn(5, 6), torch.softmax(torch.randn(5, 3), 1)
    batch = {"pixel_values": x, "labels": soft.argmax(1), "targets": soft}
    smooth = 0.9 * soft + 0.1 / 3
    expected = -(smooth * net(x).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task.loss_of(batch, 0, 0), expected)
    hard = {"pixel_values": x, "labels": soft.argmax(1)}
    torch.testing.assert_close(task.loss_of(hard, 0, 0), F.cross_entropy(net(x), soft.argmax(1), label_smoothing=0.1))


def test_a_model_says_what_it_learned() -> None:
    """The kind is that of the model's config; given, the config says it from here on."""

    def model(**fields: Any) -> zoo.Model:
        return zoo.create_model("bert_tiny", head="classify", width=16, depth=1, heads=2, vocab_size=9, **fields)

    assert ClassificationTask(model()).objective.problem_type == "single_label_classification"
    assert ClassificationTask(model(num_classes=1)).objective.problem_type == "regression"
    assert (
        ClassificationTask(model(problem_type="multi_label_classification")).objective.problem_type
        == "multi_label_classification"
    )
    told = model()
    ClassificationTask(told, problem_type="multi_label_classification", ema=0.9)
    assert (
        told.config.resolved_problem_type == "multi_label_classification"
        and told.config.problem_type == "multi_label_classification"
    )
    with pytest.raises(ValueError, match="'multi_label_classification'"):
        model(num_classes=1, problem_type="single_label_classification")


def test_dropout_is_a_function_of_seed_step_and_micro_batch(tmp_path: Path) -> None:
    def losses(seed: int, disturb: bool) -> list[float]:
        torch.manual_seed(0)
        task, seen = ClassificationTask(Net(), lr=1e-3, seed=seed), []

        class Look(L.Callback):
            def on_train_batch_start(self, *args: Any) -> None:
                if disturb:
                    torch.manual_seed(len(seen) + 99)

            def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
                seen.append(outputs["loss"].item())

        fit(task, tmp_path, callbacks=[Look()], accumulate_grad_batches=2, max_steps=2)
        return seen

    assert losses(0, False) == losses(0, True) != losses(1, False)


def test_the_average_is_what_is_evaluated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = ClassificationTask(Net(0.0), lr=0.5, ema=0.99)
    fit(task, tmp_path)
    assert task.evaluated is task.ema
    assert not torch.equal(task.ema.head.weight, task.model.head.weight)
    assert {k.split(".")[0] for k in task.state_dict()} == {"model", "ema"}


def test_settings_of_the_optimizer_reach_it(tmp_path: Path) -> None:
    optim = OptimSettings(eps=0.01, betas=(0.5, 0.6), weight_decay=0.3)
    [optimizer] = fit(ClassificationTask(Net(), lr=0.1, optim=optim), tmp_path).optimizers
    assert {(group["eps"], group["betas"]) for group in optimizer.param_groups} == {(0.01, (0.5, 0.6))}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.3}


def test_the_average_warms_up_in_training(tmp_path: Path) -> None:
    """After the first step nine tenths of the average are the model, whatever the decay."""
    torch.manual_seed(0)
    task = ClassificationTask(Net(0.0), lr=0.5, ema=0.9999)
    initial = task.model.head.weight.detach().clone()
    fit(task, tmp_path, max_steps=1)
    assert not torch.equal(initial, task.model.head.weight)
    torch.testing.assert_close(task.ema.head.weight, 0.1 * initial + 0.9 * task.model.head.weight)


@pytest.mark.parametrize(("clip", "kind"), [(0.01, None), (0.01, "norm"), (100.0, "norm"), (0.001, "value"), (0, None)])
def test_gradients_are_clipped(tmp_path: Path, clip: float, kind: str | None) -> None:
    seen = []

    class Look(L.Callback):
        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            trainer.optimizers[0].register_step_post_hook(lambda *_: seen.append(self.flat(module)))

        def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
            seen.append(self.flat(module))  # before clipping

        def flat(self, module: Any) -> Tensor:
            return torch.cat([p.grad.flatten().clone() for p in module.parameters()])

    options = {"gradient_clip_val": clip or None, "gradient_clip_algorithm": kind, "max_steps": 1}
    fit(ClassificationTask(Net(0.0), lr=0.1), tmp_path, callbacks=[Look()], **options)
    before, after = seen
    assert 0.01 < before.norm() < 100
    if kind == "value":
        expected = before.clamp(-clip, clip)
    else:
        expected = before * min(1.0, clip / float(before.norm())) if clip else before
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-8)


def test_the_loss_of_evaluation_has_no_class_weights(tmp_path: Path) -> None:
    plain, weighted = (
        ClassificationTask(Net(0.0), lr=0.1, class_weights=weights) for weights in (None, torch.tensor([0.1, 1.0, 9.0]))
    )
    weighted.model.load_state_dict(plain.model.state_dict())
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path,
                        enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    losses = []
    for task in (plain, weighted):
        trainer.test(task, pairs(), verbose=False)
        losses.append(float(trainer.callback_metrics["test_loss"]))
    assert losses[0] == losses[1]


def test_the_average_follows_every_step(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = ClassificationTask(Net(0.0), lr=0.5, ema=0.3)
    expected, seen = task.model.head.weight.detach().clone(), []  # type: ignore[union-attr]

    class Look(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(task.model.head.weight.detach().clone())  # type: ignore[union-attr]

    fit(task, tmp_path, callbacks=[Look()])
    for step, weight in enumerate(seen):
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(task.ema.head.weight, expected)  # type: ignore[union-attr]


@pytest.mark.parametrize(("rank", "micro"), [(0, [0, 2, 0, 2]), (1, [1, 3, 1, 3])])
def test_micro_batches_are_numbered_over_processes_and_accumulation(rank: int, micro: list[int]) -> None:
    class Trainer:
        global_step, accumulate_grad_batches = 7, 2
        distributed_sampler_kwargs = {"rank": rank, "num_replicas": 2}  # noqa: RUF012

    trainer, task = Trainer(), ClassificationTask(Net())
    task.trainer = trainer  # type: ignore[assignment]
    assert [task.position(index) for index in range(4)] == [(7, number) for number in micro]


def test_losses_are_checked_before_a_checkpoint() -> None:
    class Guard:
        def drain(self) -> None:
            raise NonFiniteLoss("not finite", 3, Path("file"))

    task = ClassificationTask(Net())
    task.guard = Guard()  # type: ignore[assignment]
    with pytest.raises(NonFiniteLoss):
        task.on_save_checkpoint({})


def test_rows_of_weight_0_are_not_evaluated() -> None:
    task = ClassificationTask(Net(0.0))
    task.eval()
    x = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    labels = task.model(x).argmax(1)
    labels[4:] = (labels[4:] + 1) % 3  # wrong, but of weight 0
    task.validation_step({"pixel_values": x, "labels": labels, "weight": torch.tensor([1, 1, 1, 1, 0, 0])}, 0)
    assert float(task.metrics["val_accuracy"].compute()) == 1.0
    assert float(task.metrics["val_loss"].compute()) == pytest.approx(
        F.cross_entropy(task.model(x[:4]), labels[:4]).item()
    )


def test_each_validation_starts_from_nothing() -> None:
    task = ClassificationTask(Net(0.0))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)

    def metrics(loader: DataLoader) -> dict[str, float]:
        trainer.validate(task, loader, verbose=False)
        return {name: float(value) for name, value in trainer.callback_metrics.items()}

    first, other = metrics(pairs(8)), metrics(pairs(24))
    assert first and metrics(pairs(8)) == first != other


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(tmp_path: Path, bad: float) -> None:
    x, y = torch.randn(12, 6), torch.zeros(12, dtype=torch.long)
    x[9, 2] = bad
    task = ClassificationTask(Net(), lr=1e-3)
    with pytest.raises(NonFiniteLoss, match="step 3") as error:
        fit(task, tmp_path, DataLoader(TensorDataset(x, y), batch_size=4))
    assert error.value.step == 2
    saved = torch.load(error.value.file, weights_only=True)
    torch.testing.assert_close(saved["batch"]["pixel_values"][1], x[9], equal_nan=True)
    assert saved["step"] == 2 and all(torch.isfinite(p).all() for p in task.parameters())


@pytest.mark.parametrize(("call", "says"), [
    (lambda: ClassificationTask(Net(), ema=1.0), "less than 1"),
    (lambda: ClassificationTask(Net(), lr=-1.0), "lr=-1.0"),
    (lambda: ClassificationTask(Net(), optim=OptimSettings(freeze=["bodi"])), "did you mean 'body'"),
    (lambda: ClassificationTask(Net()).loss_of({"pixel_values": torch.randn(2, 3, 6), "labels": None}, 0, 0),
     "head='classify'"),
])  # fmt: skip
def test_bad_arguments(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_a_batch_that_is_neither(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a dict or a pair"):
        fit(ClassificationTask(Net(), lr=1e-3), tmp_path, DataLoader(torch.randn(8, 6), batch_size=4))


def test_a_trainer_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_steps or max_epochs"):
        fit(ClassificationTask(Net(), lr=1e-3), tmp_path, max_steps=-1, max_epochs=-1)
