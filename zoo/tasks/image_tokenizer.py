"""Training of image tokenizers: discrete variational autoencoders and VQ-VAE."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.image import PeakSignalNoiseRatio

from zoo.models.dvae.model import DiscreteVAE, DiscreteVAEConfig, DiscreteVAEOutput
from zoo.models.dvae.vector_quantizer import CodeStatistics
from zoo.preprocessing.image import ImageProcessor
from zoo.tasks.base import as_batch_dict
from zoo.tasks.classification import Augmentation
from zoo.tasks.codebook_usage import CodebookUsage
from zoo.tasks.config import ImageTokenizerSettings, OptimSettings
from zoo.tasks.evaluated import EvaluatedTask
from zoo.tasks.schedule import cosine_between
from zoo.utils.keyed_random import seed_for


class ImageTokenizerTask(EvaluatedTask):
    """Train a `DiscreteVAE` to reconstruct images from their tokens.

        task = ImageTokenizerTask(zoo.create_model("dvae_small"), lr=1e-3)
        L.Trainer(max_steps=2000).fit(task, loader)

    Batches: `pixel_values` [B, C, H, W], or pairs (images, labels) whose labels are not used. Logs `train_loss`, `lr`,
    `val_loss` (of the reconstruction), `val_psnr` (peak signal-to-noise ratio of the 8-bit images, in decibels, from
    the mean squared error of all of them), `val_codebook_use` (fraction of the codes in the tokens of the validation
    images), `val_perplexity` (of the frequencies of the codes) and the same for the test set. The step with the highest
    `val_psnr` is the best.

    The temperature of the Gumbel-softmax falls from that of the model's config to `final_temperature` with a cosine, a
    function of the step alone (Ramesh et al. 2021). A codebook of moving averages is updated once for each optimizer
    step with the vectors of its whole batch, however it is split over devices and accumulation steps.

    Args:
        model: The tokenizer. Its `preprocess`, or its default one, turns pixels back into 8-bit images.
        lr: Peak learning rate; overrides the one in `optim`.
        objective: Weights of the terms of the loss, and the schedule of the temperature.
        augment: Turns a raw batch into a training or test batch; None uses batches as they are.
        optim, ema, seed: See Task.
    """

    monitor = "val_psnr"
    mode = "max"

    def __init__(self, model: DiscreteVAE, lr: float | None = None, *, objective: ImageTokenizerSettings | None = None,
                 augment: Augmentation | None = None, optim: OptimSettings | None = None, ema: float = 0.0,
                 seed: int = 0):  # fmt: skip
        if not isinstance(model, DiscreteVAE) or model.head is None:
            raise ValueError(f"ImageTokenizerTask trains a DiscreteVAE with its decoder, got {type(model).__name__} "
                             f"with head={getattr(getattr(model, 'config', None), 'head', None)!r}: create it by "
                             f"zoo.create_model('dvae_small')")  # fmt: skip
        optim = optim or OptimSettings()
        super().__init__(model, optim=optim if lr is None else replace(optim, lr=lr), ema=ema, seed=seed)
        self.objective, self.augment = objective or ImageTokenizerSettings(), augment
        self.processor: ImageProcessor = model.preprocess or model.default_preprocess()
        self.metrics: dict[str, Metric] = {}  # a plain dict: metrics are not part of the state dict
        self.total_steps = 0.0  # of the fit; a pass before one, which measures the speed, has the last temperature
        self._statistics: CodeStatistics | None = None  # of the codes in the micro-batches of this step

    @property
    def validation_metrics(self) -> dict[str, str]:
        """As in Task."""
        return super().validation_metrics | {"val_codebook_use": "max", "val_perplexity": "max"}

    def temperature(self, step: int) -> float:
        """Temperature of the Gumbel-softmax at an optimizer step, from 0."""
        return cosine_between(
            step, self.objective.anneal * self.total_steps, self._config.temperature, self.objective.final_temperature
        )

    def on_fit_start(self) -> None:
        """As in Task; the schedule of the temperature gets its length."""
        super().on_fit_start()
        self.total_steps, self._statistics = float(self.trainer.estimated_stepping_batches), None

    @property
    def _config(self) -> DiscreteVAEConfig:
        model: Any = self.model
        return model.config

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean loss of the images of a micro-batch."""
        pixels = self._pixels(batch, step, train=True)
        output: DiscreteVAEOutput = self.model(pixel_values=pixels, temperature=self.temperature(step))
        self._add_statistics(output)
        losses = self._losses(output)
        return self.mean_loss(losses.sum(), len(losses))

    def _losses(self, output: DiscreteVAEOutput) -> Tensor:
        """The loss of each image, [B]. The divergence of its tokens is per value of the image, as the reconstruction
        is, so that kl_weight=1 gives the evidence lower bound of the logit-Laplace distribution."""
        o, losses = self.objective, output.reconstruction
        if output.kl is not None:
            losses = losses + o.kl_weight * output.kl / output.pixel_values[0].numel()
        if output.commitment is not None:
            losses = losses + o.commitment_weight * output.commitment
        return losses if output.codebook is None else losses + output.codebook

    def _add_statistics(self, output: DiscreteVAEOutput) -> None:
        quantizer: Any = self.model.quantizer
        if output.vectors is not None:
            ids = output.ids.unflatten(1, output.vectors.shape[2:])
            self._statistics = quantizer.statistics(output.vectors, ids).plus(self._statistics)

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """As in Task, which finds out whether the step is skipped; if it is not, the codebook is updated."""
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        found, self._statistics = self._statistics, None
        if found is None or not self._finite:
            return
        key = torch.Generator().manual_seed(seed_for(self.seed, self.trainer.global_step))
        quantizer: Any = self.model.quantizer
        quantizer.update(found, dead_codes=self.objective.dead_codes, generator=key, group=self._group)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Tokens [B, N]."""
        evaluated: Any = self.evaluated
        return evaluated.tokenize(self._pixels(as_batch_dict(batch), 0, train=False))

    def _pixels(self, batch: Mapping[str, Any], step: int, *, train: bool) -> Tensor:
        if self.augment is not None:
            batch = self.augment(batch, seed=self.seed, step=step, train=train)
        return batch["pixel_values"]

    def _evaluate(self, batch: Mapping[str, Any], stage: str) -> None:
        pixels = self._pixels(batch, 0, train=False)
        output: DiscreteVAEOutput = self.evaluated(pixel_values=pixels)
        if f"{stage}_loss" not in self.metrics:
            metrics: dict[str, Metric] = {"loss": MeanMetric(), "psnr": PeakSignalNoiseRatio(data_range=255.0)}
            metrics["usage"] = CodebookUsage(self._config.vocab_size)
            self.metrics |= {f"{stage}_{name}": metric.to(self.device) for name, metric in metrics.items()}
        self.metrics[f"{stage}_loss"].update(output.reconstruction)
        images = [self.processor.to_images(x).float() for x in (output.pixel_values, pixels)]
        self.metrics[f"{stage}_psnr"].update(*images)
        self.metrics[f"{stage}_usage"].update(output.ids)
