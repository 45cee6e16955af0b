"""The task of image tokenizers: its metrics, the temperature of a step, one update of the codebook for each step."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import zoo
from zoo.tasks import CodebookUsage, ImageTokenizerTask, NonFiniteLoss
from zoo.tasks.config import ImageTokenizerSettings

TINY: dict[str, Any] = dict(image_size=16, widths=(8, 12), depth=1, vocab_size=11, code_width=6)


def colors(n: int = 32) -> Tensor:
    """Images of two colors, left and right."""
    pair = torch.rand(n, 3, 1, 2, generator=torch.Generator().manual_seed(0))
    return (2 * pair - 1).repeat_interleave(8, 3).expand(-1, -1, 16, -1).contiguous()


def fit(task: ImageTokenizerTask, steps: int, batch: int = 8, accumulate: int = 1) -> dict[str, float]:
    items = [{"pixel_values": image} for image in colors()]
    loader: Any = DataLoader(items, batch_size=batch // accumulate)  # type: ignore[arg-type]
    trainer = L.Trainer(max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                        accelerator="cpu", log_every_n_steps=1000, accumulate_grad_batches=accumulate)  # fmt: skip
    trainer.fit(task, loader, loader)
    trainer.test(task, loader, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test_")}


@pytest.mark.parametrize("quantizer", ["vq", "gumbel"])
def test_it_learns_and_its_figures_are_those_of_the_images(quantizer: str) -> None:
    model = zoo.create_model("dvae_tiny", seed=0, quantizer=quantizer, straight_through=True, **TINY)
    task = ImageTokenizerTask(model, lr=1e-2, objective=ImageTokenizerSettings(kl_weight=0.0))
    before = ImageTokenizerTask(zoo.create_model("dvae_tiny", seed=0, quantizer=quantizer, **TINY), lr=1e-9)
    first, found = fit(before, 1), fit(task, 40)
    assert found["test_psnr"] > first["test_psnr"] + 0.5 and found.keys() == first.keys()
    assert {name.replace("test_", "val_") for name in found} == set(task.validation_metrics)
    with torch.no_grad():
        model.eval()
        ids = model.tokenize(colors())
        images = [model.preprocess.to_images(x).float() for x in (model.decode(ids), colors())]
    error = (images[0] - images[1]).square().mean()
    assert found["test_psnr"] == pytest.approx(10 * torch.log10(255**2 / error).item(), abs=1e-3)
    assert found["test_codebook_use"] == pytest.approx(len(ids.unique()) / 11)
    assert 1 <= found["test_perplexity"] <= len(ids.unique()) + 1e-6
    assert torch.equal(task.predict_step({"pixel_values": colors()}, 0), ids)


def test_the_codebook_is_updated_once_for_each_step_with_its_whole_batch() -> None:
    books = []
    for accumulate in (1, 4):
        model = zoo.create_model("vqvae_tiny", seed=0, **TINY)
        fit(ImageTokenizerTask(model, lr=1e-3), 3, accumulate=accumulate)
        assert model.quantizer is not None
        books.append(model.quantizer)
    assert books[0].counts.sum() == pytest.approx(8 * 16 * (1 - model.config.ema_decay**3), rel=1e-4)
    torch.testing.assert_close(books[0].counts, books[1].counts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(books[0].weight, books[1].weight, rtol=1e-3, atol=1e-3)


def test_a_step_that_is_not_finite_leaves_the_codebook_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the failing batch is saved
    model = zoo.create_model("vqvae_tiny", seed=0, **TINY)

    def spoil(batch: Any, *, seed: int, step: int, train: bool) -> dict[str, Tensor]:
        return {"pixel_values": batch["pixel_values"] * (float("nan") if train and step == 1 else 1.0)}

    with pytest.raises(NonFiniteLoss):
        fit(ImageTokenizerTask(model, lr=1e-3, augment=spoil), 3)
    assert all(x.isfinite().all() for x in model.state_dict().values())


def test_the_temperature_is_a_function_of_the_step() -> None:
    task = ImageTokenizerTask(
        zoo.create_model("dvae_tiny", seed=0, temperature=2.0, **TINY),
        objective=ImageTokenizerSettings(final_temperature=0.5, anneal=0.5),
    )
    task.total_steps = 100.0
    assert [round(task.temperature(step), 4) for step in (0, 25, 50, 99)] == [2.0, 1.25, 0.5, 0.5]
    seen: list[float] = []

    class Watched(type(task.model)):  # type: ignore[misc]
        def forward(self, pixel_values: Tensor, temperature: float | None = None) -> Any:
            seen.extend([] if temperature is None else [temperature])
            return super().forward(pixel_values, temperature)

    task.model.__class__ = Watched
    fit(task, 4)
    assert seen == pytest.approx([2.0, 1.25, 0.5, 0.5])


def test_the_use_of_a_codebook() -> None:
    usage = CodebookUsage(8)
    usage.update(torch.tensor([[0, 0], [1, 1]]))
    usage.update(torch.tensor([2, 2, 3, 3]))
    found = usage.compute()
    assert float(found["codebook_use"]) == 0.5 and float(found["perplexity"]) == pytest.approx(4.0)


def test_what_is_refused() -> None:
    for model in (
        zoo.create_model("vit_cifar_tiny", depth=1, seed=0),
        zoo.create_model("dvae_tiny", head=None, seed=0),
    ):
        with pytest.raises(ValueError, match="trains a DiscreteVAE with its decoder"):
            ImageTokenizerTask(model)
    with pytest.raises(ValueError, match="final_temperature=0"):
        ImageTokenizerSettings(final_temperature=0.0)
