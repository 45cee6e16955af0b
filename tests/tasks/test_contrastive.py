"""Contrast in a trainer of one's own: exact in parts and on several processes, dropout included; what is refused."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from ranks import as_torchrun
from task_towers import Towers, batch, loader, towers
from torch import Tensor
from torch.utils.data import DataLoader

import zoo
from zoo.nn.losses.temperature import MAX_SCALE, temperature
from zoo.tasks import ContrastiveTask, NonFiniteLoss, contrastive
from zoo.tasks.base import seed_all
from zoo.tasks.config import OptimSettings
from zoo.tasks.contrastive import concatenate_outputs, select_modalities, text_hashes

torch.set_num_threads(1)


def fit(task: L.LightningModule, folder: Path, data: Any, validation: Any = None, **options: Any) -> L.Trainer:
    options = {
        "max_steps": 3,
        "precision": "64-true",
        "logger": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        **options,
    }
    trainer = L.Trainer(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
                        use_distributed_sampler=False, default_root_dir=folder, **options)  # fmt: skip
    trainer.fit(task, data, validation)
    return trainer


def gradients(task: ContrastiveTask, data: dict[str, Tensor], step: int = 0) -> dict[str, Tensor]:
    task.model.zero_grad()
    seed_all(task.seed, step, 0, torch.device("cpu"))
    loss = task.loss_of(data, step, 0)
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}


def far(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The greatest relative difference of any tensor."""
    assert mine.keys() == theirs.keys()
    return max(((mine[n] - theirs[n]).abs().max() / theirs[n].abs().max()).item() for n in theirs)


# --- in parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [1, 4, 5, 12, 50])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_parts_have_the_gradients_of_the_whole(kind: str, cached: int) -> None:
    whole = gradients(ContrastiveTask(towers(kind=kind), lr=1e-3), batch())
    parts = gradients(ContrastiveTask(towers(kind=kind), lr=1e-3, grad_cache_size=cached, loss_chunk_size=5), batch())
    assert len(whole) == 1 + len(list(towers(kind=kind).parameters()))
    assert far(parts, whole) <= 1e-12


def test_dropout_is_replayed() -> None:
    """The plain way: each part's graph is kept, each part draws its own."""
    task = ContrastiveTask(towers(dropout=0.4), lr=1e-3, grad_cache_size=5, seed=3)
    found, data = gradients(task, batch(), step=7), batch()
    model, outputs = towers(dropout=0.4), []
    for k in range(3):
        seed_all(3, 7, k, torch.device("cpu"))
        outputs.append(model(**{name: data[name][5 * k : 5 * k + 5] for name in model.inputs}))
    loss = model.loss(concatenate_outputs(outputs))
    loss.backward()
    expected = {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters()}
    assert far(found, expected) <= 1e-12  # type: ignore[arg-type]
    assert far(gradients(task, batch(), step=8), expected) > 1e-3  # type: ignore[arg-type]


def test_parts_are_encoded_one_at_a_time() -> None:
    task = ContrastiveTask(towers(), lr=1e-3, grad_cache_size=5)
    held: list[int] = []
    loss = task.loss_of(batch(), 0, 0)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x.numel()) or x, lambda x: x):  # type: ignore[func-returns-value]
        task.loss_of(batch(), 0, 0)
    assert task.model.rows == [5, 5, 2, 5, 5, 2] and max(held) <= 12 * 8  # features, but nothing 16 wide of a tower
    loss.backward()
    assert task.model.rows[6:] == [2, 5, 5]


def test_parts_in_low_precision(tmp_path: Path) -> None:
    """Features in bfloat16, loss and temperature in float32; parts differ from the whole by rounding."""

    def trained(cached: int | None) -> Towers:
        model = towers().float()
        data = {name: x.float() if x.is_floating_point() else x for name, x in batch().items()}
        fit(
            ContrastiveTask(model, lr=1e-2, grad_cache_size=cached),
            tmp_path,
            loader(data, 12),
            precision="bf16-mixed",
            max_steps=1,
        )
        return model

    whole, parts = trained(None), trained(5)
    for (name, mine), theirs in zip(parts.named_parameters(), whole.parameters(), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(
            mine.grad, theirs.grad, rtol=0.1, atol=0.02 * theirs.grad.abs().max().item(), msg=name
        )


def test_three_modalities_around_a_hub() -> None:
    model = towers("image", "text", "audio")
    found = gradients(ContrastiveTask(model, lr=1e-3, hub="text", grad_cache_size=4), batch())
    output = model(**batch())
    expected = (
        model.loss(select_modalities(output, "image", "text")) + model.loss(select_modalities(output, "text", "audio"))
    ) / 2
    torch.testing.assert_close(found["loss"], expected.detach(), rtol=1e-12, atol=0)
    all_three = gradients(ContrastiveTask(model, lr=1e-3), batch())["loss"]
    expected = (2 * expected + model.loss(select_modalities(output, "image", "audio"))) / 3
    torch.testing.assert_close(all_three, expected.detach(), rtol=1e-12, atol=0)


# --- in a trainer ----------------------------------------------------------------------------------------------------


def test_in_a_trainer_of_ones_own(tmp_path: Path) -> None:
    data, held = batch(128), batch(40, seed=1)
    task = ContrastiveTask(towers("image", "text", "audio"), lr=0.02, hub="image", grad_cache_size=16, seed=1)
    logger = L.pytorch.loggers.CSVLogger(tmp_path)
    trainer = fit(task, tmp_path, DataLoader(rows(data), 32), loader(held, 16), max_steps=-1, max_epochs=15,
                  log_every_n_steps=5, check_val_every_n_epoch=5, logger=logger)  # fmt: skip
    figures = trainer.callback_metrics
    assert figures["val_image_to_audio_r1"] > 0.5 and figures["val_audio_to_image_r10"] > 0.9
    assert figures["val_text_to_image_median_rank"] <= 10 and figures["val_recall"] > 0.4
    assert "val_text_to_audio_r1" not in figures
    assert {name for name in figures if name.startswith("val_")} == set(task.validation_metrics)
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert "train_loss" in text and "logit_scale" in text and "val_image_to_text_r5" in text
    trainer.test(task, loader(held, 16), verbose=False)
    assert trainer.callback_metrics["test_recall"] == figures["val_recall"]
    answers = trainer.predict(task, loader(held, 16))
    assert sorted(answers[0]) == ["audio", "image", "text"] and len(answers) == 3


def rows(data: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{name: x[i] for name, x in data.items()} for i in range(len(data["pixel_values"]))]


def test_a_model_of_the_zoo(tmp_path: Path) -> None:
    image = {"name": "vit_cifar_tiny", "width": 16, "depth": 1, "heads": 2, "image_size": 8, "patch_size": 4}
    text = {"name": "bert_tiny", "width": 16, "depth": 1, "heads": 2, "vocab_size": 50, "max_length": 8,
            "dropout": 0.0, "attention_dropout": 0.0}  # fmt: skip
    model = zoo.contrast(image=image, text=text, width=8).double()
    g = torch.Generator().manual_seed(0)
    data = {
        "pixel_values": torch.randn(6, 3, 8, 8, generator=g, dtype=torch.float64),
        "input_ids": torch.randint(5, 50, (6, 5), generator=g),
        "attention_mask": (torch.arange(5) < torch.tensor([5, 3, 4, 2, 5, 1])[:, None]).long(),
    }
    whole, parts = (gradients(ContrastiveTask(model, lr=1e-3, grad_cache_size=cached), data) for cached in (None, 4))
    assert set(whole) == {"loss"} | {n for n, _ in model.named_parameters()}
    zero = {n for n, x in whole.items() if x.abs().max() < 1e-12}  # the biases of keys
    assert far(*({n: x for n, x in found.items() if n not in zero} for found in (parts, whole))) <= 1e-12
    trainer = fit(
        ContrastiveTask(model, lr=1e-3, grad_cache_size=2, ema=0.5), tmp_path, loader(data, 6), loader(data, 3)
    )
    assert 0 <= trainer.callback_metrics["val_recall"] <= 1


def test_a_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """All that is random is keyed, so weights, optimizer and step are enough."""

    def run(steps: int, start: str | None = None) -> ContrastiveTask:
        task = ContrastiveTask(
            towers(dropout=0.4), lr=0.01, optim=OptimSettings(warmup=0.0, final_lr=1.0), grad_cache_size=2, ema=0.9
        )
        trainer = fit(task, tmp_path, loader(batch(32), 4), max_steps=steps, max_epochs=-1, callbacks=[])
        if start is None:
            trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return task

    run(4)
    whole = run(8).state_dict()
    task = ContrastiveTask(
        towers(dropout=0.4), lr=0.01, optim=OptimSettings(warmup=0.0, final_lr=1.0), grad_cache_size=2, ema=0.9
    )
    options: Any = dict(accelerator="cpu", precision="64-true", logger=False, enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, max_steps=8)  # fmt: skip
    later = {name: x[16:] for name, x in batch(32).items()}
    L.Trainer(**options).fit(task, loader(later, 4), ckpt_path=tmp_path / "4.ckpt", weights_only=True)
    for name, value in task.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_temperature_is_clamped(tmp_path: Path) -> None:
    for lr_sign, expected in ((-1, math.log(MAX_SCALE)), (1, 0.0)):
        model = towers()
        task = ContrastiveTask(model, lr=100.0, optim=OptimSettings(warmup=0.0))
        task.loss_of = lambda *args, m=model, s=lr_sign: s * m.logit_scale  # type: ignore[method-assign]
        fit(task, tmp_path, loader(batch(4), 4), max_steps=1)
        torch.testing.assert_close(model.logit_scale.item(), expected)
        assert temperature(model)[0] == pytest.approx(math.exp(expected))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(tmp_path: Path, bad: float) -> None:
    data = batch(12)
    data["pixel_values"][9, 2] = bad
    with pytest.raises(NonFiniteLoss, match="step 3"):
        fit(ContrastiveTask(towers(), lr=1e-3, grad_cache_size=2), tmp_path, loader(data, 4))


# --- several processes -----------------------------------------------------------------------------------------------


class Recorder(L.Callback):
    def __init__(self, folder: Path):
        self.folder, self.seen = folder, []  # type: ignore[var-annotated]

    def on_before_optimizer_step(self, trainer: L.Trainer, module: Any, optimizer: Any) -> None:
        named = ((n, p.grad) for n, p in module.model.named_parameters())
        whole = ((n, g.full_tensor() if hasattr(g, "full_tensor") else g) for n, g in named)
        self.seen.append({n: g.reshape(()) if g.numel() == 1 else g.clone() for n, g in whole})

    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        figures = {n: x.double() for n, x in trainer.callback_metrics.items()}
        torch.save((self.seen, figures), self.folder / f"rank{trainer.global_rank}.pt")


def trained(folder: Path, world: int, rank: int, strategy: str = "auto", **options: Any) -> None:
    """Three steps of 16 rows in micro-batches of 4, on one process or several, then a validation of 20 rows."""
    sharded = strategy == "fsdp2"
    how: Any = ModelParallelStrategy(world, 1, save_distributed_checkpoint=False) if sharded else strategy
    task = ContrastiveTask(towers("image", "text", "audio", dropout=0.3), lr=1e-2, hub="text", **options)
    fit(task, folder, loader(batch(48), 16 // world, rank, world), loader(batch(20, 1), 4, rank, world), devices=world,
        strategy=how, precision="32-true" if sharded else "64-true", callbacks=[Recorder(folder)])  # fmt: skip


def on_several(folder: Path, world: int, **options: Any) -> list[Any]:
    """`trained` in several processes, as torchrun starts them; what each recorded."""
    assert as_torchrun(world, lambda rank: trained(folder, world, rank, **options)) == [0] * world
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.parametrize(("world", "cached", "strategy"),
                         [(4, None, "ddp"), (2, 4, "ddp"), (4, None, "fsdp2"), (2, 4, "fsdp2")])  # fmt: skip
def test_processes_are_parts(tmp_path: Path, world: int, cached: int | None, strategy: str) -> None:
    """Gradients, with dropout, and the figures of the validation are those of one process that encodes in parts."""
    trained(tmp_path, 1, 0, grad_cache_size=4)
    steps, figures = torch.load(tmp_path / "rank0.pt", weights_only=True)
    for mine, found in on_several(tmp_path, world, grad_cache_size=cached, strategy=strategy):
        for step, (ours, theirs) in enumerate(zip(mine, steps, strict=True)):
            assert far(ours, theirs) <= (1e-12 if step == 0 else 1e-9)  # Adam's division carries on what rounding left
        assert far({n: found[n] for n in figures}, figures) <= 1e-6 and len(figures) == 18


# --- duplicates ------------------------------------------------------------------------------------------------------


def twins() -> dict[str, Tensor]:
    data = batch(6)
    data["input_ids"][4] = data["input_ids"][1]
    return data


def test_equal_captions_are_named_once() -> None:
    task = ContrastiveTask(towers(), lr=1e-3)
    with pytest.warns(UserWarning, match=r"step 3: 1 captions .*token ids \[.*\] \(rows 1, 4\)"):
        task.loss_of(twins(), 2, 0)
    with _silence():
        task.loss_of(twins(), 3, 0)
    captions = {"captions": list("abcdef")}
    with pytest.raises(ValueError, match=r"'b' \(rows 1, 4\).*duplicates='positives'"):
        ContrastiveTask(towers(), lr=1e-3, duplicates="refuse").loss_of(twins() | captions, 0, 0)


def test_captions_are_decoded_where_one_can() -> None:
    class Words:
        def decode(self, ids: Tensor) -> str:
            return " ".join(f"w{int(i)}" for i in ids)

    data = twins() | {"attention_mask": torch.ones(6, 6, dtype=torch.long)}
    data["attention_mask"][[1, 4], 2:] = 0
    model = towers()
    model.preprocess = type("P", (), {"text": Words()})()  # type: ignore[assignment]
    first, second = data["input_ids"][1, :2].tolist()
    with pytest.raises(ValueError, match=rf"'w{first} w{second}' \(rows 1, 4\)"):
        ContrastiveTask(model, lr=1e-3, duplicates="refuse").loss_of(data, 0, 0)


def test_equal_captions_as_positives() -> None:
    data, model = twins(), towers(kind="siglip")
    ids = torch.tensor([0, 1, 2, 3, 1, 5])
    expected = model.loss(model(**{n: data[n] for n in model.inputs}), positives=ids)
    assert torch.equal(ContrastiveTask(model, lr=1e-3, duplicates="positives").loss_of(data, 0, 0), expected)
    given = batch(6) | {"positives": ids}
    other = model.loss(model(**{n: given[n] for n in model.inputs}), positives=ids)
    assert torch.equal(ContrastiveTask(model, lr=1e-3).loss_of(given, 0, 0), other)
    with _silence():
        plain = ContrastiveTask(model, lr=1e-3, duplicates="ignore").loss_of(data, 0, 0)
    assert not torch.equal(plain, expected)


def test_texts_are_known_however_far_they_are_padded() -> None:
    ids = torch.tensor([[3, 4, 5, 0], [3, 4, 5, 9], [3, 4, 0, 0], [4, 3, 5, 0]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
    found = text_hashes(ids, mask).tolist()
    assert found[0] == found[1] and len(set(found)) == 3
    assert text_hashes(ids[:, :3], mask[:, :3]).tolist() == found
    assert text_hashes(ids[:, [3, 0, 1, 2]], mask[:, [3, 0, 1, 2]]).tolist() == found
    assert text_hashes(ids[:1, :3]).tolist() == found[:1]


class _silence:
    def __enter__(self) -> None:
        import warnings

        self.context = warnings.catch_warnings()
        self.context.__enter__()
        warnings.simplefilter("error")

    def __exit__(self, *args: Any) -> None:
        self.context.__exit__(*args)


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluated(tmp_path: Path, data: dict[str, Tensor], size: int, **options: Any) -> dict[str, float]:
    task = ContrastiveTask(towers(), lr=1e-3, **options)
    trainer = fit(task, tmp_path, loader(batch(4), 4), loader(data, size), max_steps=1)
    return {n: float(x) for n, x in trainer.callback_metrics.items() if n.startswith("val")}


def test_validation_sees_the_whole_set(tmp_path: Path) -> None:
    """Batches do not matter, filler rows do not count, repeated rows and captions are one answer."""
    data = batch(30, 2)
    whole = evaluated(tmp_path, data, 30)
    assert evaluated(tmp_path, data, 7) == pytest.approx(whole, rel=1e-6)
    filled = {n: torch.cat([x, x[:5]]) for n, x in data.items()}
    weight = {"weight": (torch.arange(35) < 30).long()}
    assert evaluated(tmp_path, filled | weight, 8) == pytest.approx(whole, rel=1e-6)
    again = evaluated(tmp_path, filled | {"index": torch.arange(35) % 30}, 8, duplicates="ignore")
    assert again.pop("val_loss") > whole.pop("val_loss") and again == pytest.approx(whole, rel=1e-6)


def test_validation_loss_is_that_of_the_set_as_one_batch(tmp_path: Path) -> None:
    data = batch(30, 2)
    task = ContrastiveTask(towers(), lr=1e-3)
    trainer = fit(task, tmp_path, loader(batch(4), 4), loader(data, 7), max_steps=1)
    with torch.no_grad():
        expected = task.model.loss(task.model(**{n: data[n] for n in task.model.inputs}))
    assert float(trainer.callback_metrics["val_loss"]) == pytest.approx(expected.item(), rel=1e-6)


# --- refusals --------------------------------------------------------------------------------------------------------


class Later(L.Callback):
    def on_train_epoch_start(self, trainer: L.Trainer, module: Any) -> None:
        trainer.accumulate_grad_batches = 2 if trainer.current_epoch else 1


@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 4}, {"callbacks": [Later()], "max_steps": 6}])
def test_accumulation_is_refused_with_the_reason(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"accumulate_grad_batches=[24]: rows of different batches .*grad_cache_size="):
        fit(ContrastiveTask(towers(), lr=1e-3), tmp_path, loader(batch(), 4), **options)


def unknown() -> ContrastiveTask:
    return ContrastiveTask(towers(), lr=1e-3)


@pytest.mark.parametrize(("call", "says"), [
    (lambda: ContrastiveTask(towers(), grad_cache_size=0), "grad_cache_size=0"),
    (lambda: ContrastiveTask(towers(), loss_chunk_size=-1), "loss_chunk_size=-1"),
    (lambda: ContrastiveTask(towers(), duplicates="drop"), "duplicates='drop'"),
    (lambda: ContrastiveTask(towers(), hub="audio"), "hub='audio': expected a modality of the model, image, text"),
    (lambda: ContrastiveTask(towers(), lr=-1.0), "lr=-1.0"),
    (lambda: unknown().loss_of(batch(1), 0, 0), "at least 2 pairs, got a batch of 1"),
    (lambda: unknown().loss_of({"pixel_values": batch()["pixel_values"]}, 0, 0), "the batch only has image"),
    (lambda: unknown().loss_of({"images": 1, "labels": 2}, 0, 0), "the batch has images, labels"),
    (lambda: ContrastiveTask(towers("image", "text", "audio"), hub="audio").loss_of(
        {n: x for n, x in batch().items() if n != "input_values"}, 0, 0), "one of them the hub 'audio'"),
])  # fmt: skip
def test_bad_arguments(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def test_the_stand_in_is_what_the_zoo_makes() -> None:
    """Towers stands for zoo.contrast's models: what Contrast uses of one, the other has."""
    from zoo.models.contrast.model import Contrastive, ContrastiveOutput

    for name in ("forward", "loss"):
        assert callable(getattr(Contrastive, name)) and callable(getattr(Towers, name))
    assert {"image_features", "text_features", "audio_features", "logit_scale", "logit_bias"} == set(
        ContrastiveOutput.__dataclass_fields__
    )


def test_equal_captions_are_reported_some_steps_later_on_a_gpu(monkeypatch):
    """The host reads what was found when it has arrived, and at the end of the training what is left."""
    waited = []

    class Event:
        def synchronize(self):
            waited.append(1)

    monkeypatch.setattr(contrastive, "to_host", lambda values: (values, Event()))
    task = ContrastiveTask(zoo.contrast(image="vit_cifar_tiny", text="bert_tiny"))
    equal, other = torch.tensor([[5, 6], [5, 6], [7, 8]]), torch.tensor([[5, 6], [6, 5], [7, 8]])
    task._positives({"input_ids": equal, "captions": ["a", "a", "b"]}, 0)
    for step in range(1, 4):
        task._positives({"input_ids": other}, step)
    assert not waited
    with pytest.warns(UserWarning, match=r"step 1: 1 captions occur more than once in the batch: 'a' \(rows 0, 1\)"):
        task._positives({"input_ids": other}, 4)
    task._warned = False
    task._positives({"input_ids": equal, "captions": ["a", "a", "b"]}, 5)
    with pytest.warns(UserWarning, match="step 6: 1 captions"):
        task.on_train_end()
