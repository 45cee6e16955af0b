"""Speech recognition with an encoder-decoder: sequence to sequence, with CTC on the encoder beside it."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from zoo.models.encoder_decoder import EncoderDecoder, Side
from zoo.nn.heads import LMHead
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.nn.losses.ctc import ctc_loss
from zoo.nn.padding import places_real_first
from zoo.parallel.fsdp import keeps_whole
from zoo.tasks.seq2seq import Seq2SeqTask


class Seq2SeqSpeechTask(Seq2SeqTask):
    """Train an encoder-decoder to write the text of audio clips; see `Seq2SeqTask`.

        L.Trainer(max_steps=1000).fit(Seq2SeqSpeechTask(model, lr=1e-3, ctc_weight=0.3), loader)

    Args:
        model: See Seq2SeqTask.
        lr: Peak learning rate; overrides the one in `optim`.
        ctc_weight: Weight w of a CTC loss in `(1 - w) loss + w ctc_loss`, 0 for none: the output layer reads the states
            of the encoder, too, and what it reads has to spell the labels in their order, with the end token as blank.
            The encoder finds earlier which of its frames belong to which tokens; the files of the model do not change.
        options: Further arguments of Seq2SeqTask.

    Source: Watanabe et al. 2017, https://doi.org/10.1109/JSTSP.2017.2763455, where CTC has an output layer of its own.
    Raises: ValueError for a model whose output layer cannot read the states of its encoder, or without an end token,
        and for a plan that divides this layer or the tokens.
    """

    def __init__(self, model: nn.Module, lr: float | None = None, *, ctc_weight: float = 0.0, **options: Any):
        super().__init__(model, lr, **options)
        if not 0.0 <= ctc_weight < 1.0:
            raise ValueError(f"ctc_weight={ctc_weight}: expected at least 0 and less than 1")
        encoder = getattr(model, "encoder", None)  # a recurrent one has states of another width
        if ctc_weight and not (isinstance(encoder, Side) and isinstance(model.head, LMHead)):
            raise ValueError(f"ctc_weight={ctc_weight}: the output layer of {type(model).__name__} cannot read the "
                             "states of an encoder; expected a Transformer of the zoo with an encoder, a decoder and "
                             "head='lm'")  # fmt: skip
        if ctc_weight and model.config.eos_token_id is None:  # type: ignore[union-attr]
            raise ValueError(f"ctc_weight={ctc_weight}: the model has no eos_token_id, which is the blank of CTC")
        self.ctc_weight = ctc_weight

    def configure_model(self) -> None:
        """As in Task."""
        super().configure_model()
        divided = self.device_mesh is not None and (self.slices is not None or not keeps_whole(self.model))
        if self.ctc_weight and divided:
            raise ValueError(f"ctc_weight={self.ctc_weight} reads the output layer twice, and this plan divides it or "
                             "the tokens: use plan.data and plan.shard alone, or ctc_weight=0")  # fmt: skip

    def loss_of(self, batch: Mapping[str, Any], step: int, micro: int) -> Tensor:
        """Mean loss over the target tokens of a micro-batch."""
        if not self.ctc_weight:
            return super().loss_of(batch, step, micro)
        batch = self._prepare(batch, step, train=True)
        blocks = cast(EncoderDecoder, self.model).encoder.blocks
        states: list[Tensor] = []
        hook = blocks.register_forward_hook(lambda module, inputs, output: states.append(output))
        try:
            total, count = self._totals(batch)
        finally:
            hook.remove()
        total = (1 - self.ctc_weight) * total + self.ctc_weight * self._ctc_total(states[0], batch)
        return self.mean_loss(total, count)

    def _ctc_total(self, states: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Sum of the CTC losses of the texts, of the states of the encoder [B, N, D]."""
        model: Any = self.model
        end = model.config.eos_token_id
        blank = end[0] if isinstance(end, tuple) else end
        labels = batch["labels"].long()
        real = (labels != IGNORED) & (labels != blank)
        texts = torch.full_like(labels, blank).scatter(1, places_real_first(real), labels.where(real, blank))
        mask = batch.get("attention_mask")
        frames = torch.full((len(labels),), states.shape[1]) if mask is None else mask.sum(1)
        if isinstance(model, FSDPModule):  # its forward has ended
            model.unshard()
        losses = ctc_loss(model.head(states), frames, texts, real.sum(1), blank=blank, reduction="none")
        return losses.sum()
