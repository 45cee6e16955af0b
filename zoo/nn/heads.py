"""Heads and pooling: from hidden states to features, class scores and token scores."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.init import Initializer, trunc_normal_
from zoo.nn.mlp import MLP, activation
from zoo.nn.sdpa import soft_capped

PoolingMode = Literal["cls", "mean", "cls_mean"]
TokenPoolingMode = Literal["cls", "mean", "last"]


class PoolingHead(nn.Module):
    """Hidden states [B, N, D] -> features [B, F].

    mode: "cls", the first token; "mean", over the tokens after the prefix; "cls_mean", both concatenated (F = 2 D);
    "prefix", the mean of the prefix tokens. norm: applied after pooling.
    """

    def __init__(self, mode: PoolingMode | Literal["prefix"], prefix: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.mode, self.prefix, self.norm = mode, prefix, norm

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "cls":
            x = x[:, 0]
        elif self.mode == "mean":
            x = x[:, self.prefix :].mean(1)
        elif self.mode == "prefix":
            x = x[:, : self.prefix].mean(1)
        else:
            x = torch.cat([x[:, 0], x[:, self.prefix :].mean(1)], -1)
        return x if self.norm is None else self.norm(x)

    def extra_repr(self) -> str:
        return f"{self.mode!r}"


class ClassificationHead(PoolingHead):
    """Class scores [B, C] from pooled features."""

    def __init__(
        self,
        mode: PoolingMode | Literal["prefix"],
        prefix: int,
        features: int,
        classes: int,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__(mode, prefix, norm)
        self.proj = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(super().forward(x))


class AttentionPooling(nn.Module):
    """Attention pooling: features [B, D] from a learned query that attends to all tokens, followed by an MLP (SigLIP's
    head; PMA in Lee et al. 2019). With `classes`, class scores [B, C]."""

    init_falls_with_width = ("probe",)

    def __init__(self, spec: BlockConfig, classes: int | None = None) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(spec.width))
        self.mixer = spec.attend(0, 1, "softmax", cross=True)
        self.norm = spec.make_norm()
        self.mlp = MLP(spec.width, spec.mlp_dim or 4 * spec.width, spec.act, spec.gated_mlp, spec.bias)
        self.proj = None if classes is None else nn.Linear(spec.width, classes)

    def initialize(self, generator_for: Initializer) -> None:
        trunc_normal_(self.probe, len(self.probe) ** -0.5, generator_for("probe"))

    def forward(self, x: Tensor) -> Tensor:
        query = self.probe.to(x.dtype).repeat(x.shape[0], 1, 1)
        y = self.mixer(query, Context(), memory=x)[:, 0]
        y = y + self.mlp(self.norm(y))
        return y if self.proj is None else self.proj(y)


class DistilledClassificationHead(nn.Module):
    """DeiT's two heads, on the class and the distillation token; returns their mean (Touvron et al. 2021)."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.proj = nn.Linear(features, classes)
        self.proj_dist = nn.Linear(features, classes)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of the class head and of the distillation head, each [B, C], for a distillation loss."""
        return self.proj(x[:, 0]), self.proj_dist(x[:, 1])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.both(x)
        return (first + second) / 2


class DistilledPooling(nn.Module):
    """Features [B, D] of a distilled model: the mean of its two tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0] + x[:, 1]) / 2


class TextPooling(nn.Module):
    """Pooling of text: hidden states [B, N, D] -> features [B, D], over real tokens only.

    mode: "cls", the first token; "mean"; "last". dense: activation of a linear layer after pooling (BERT's pooler),
    None for no such layer. normalize: L2-normalize the features (embedding models).
    """

    def __init__(
        self,
        mode: TokenPoolingMode,
        width: int,
        dense: str | None = None,
        norm: nn.Module | None = None,
        *,
        dense_bias: bool = True,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.mode, self.normalize = mode, normalize
        self.dense = None if dense is None else nn.Linear(width, width, dense_bias)
        self.act = None if dense is None else activation(dense)
        self.norm = norm

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep [B, N]: True or 1 for real tokens."""
        x = dense_act_norm(self.pool(x, keep), self.dense, self.act, self.norm)
        return F.normalize(x, dim=-1) if self.normalize else x

    def pool(self, x: Tensor, keep: Tensor | None) -> Tensor:
        if keep is None:
            return {"cls": x[:, 0], "last": x[:, -1]}.get(self.mode, x.mean(1))
        keep = keep.long()
        if self.mode == "mean":
            return (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        index = keep.argmax(1) if self.mode == "cls" else keep.shape[1] - 1 - keep.flip(1).argmax(1)
        return x[torch.arange(x.shape[0], device=x.device), index]

    def extra_repr(self) -> str:
        return f"{self.mode!r}"


class TokenPooling(nn.Module):
    """Features [B, D] of the token at a given position; with `classes`, class scores [B, C]."""

    def __init__(self, width: int, classes: int | None = None) -> None:
        super().__init__()
        self.proj = None if classes is None else nn.Linear(width, classes)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """index [B]: position of the token in each row."""
        x = x[torch.arange(x.shape[0], device=x.device), index]
        return x if self.proj is None else self.proj(x)


class TextClassificationHead(TextPooling):
    """Class scores [B, C] from pooled features, with dropout before the output layer."""

    def __init__(
        self,
        mode: TokenPoolingMode,
        width: int,
        classes: int,
        *,
        dense: str | None = None,
        norm: nn.Module | None = None,
        dense_bias: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__(mode, width, dense, norm, dense_bias=dense_bias)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(width, classes, bias)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.proj(self.dropout(super().forward(x, keep)))


class TokenClassificationHead(nn.Module):
    """Scores per token: [B, N, C] for token classification, [B, N, 2] (start, end) for question answering.

    dense, norm: activation of a linear layer before the output layer, and a norm after it (ModernBERT).
    """

    def __init__(
        self,
        width: int,
        classes: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        dense: str | None = None,
        norm: nn.Module | None = None,
        dense_bias: bool = True,
    ) -> None:
        super().__init__()
        self.dense = None if dense is None else nn.Linear(width, width, dense_bias)
        self.act = None if dense is None else activation(dense)
        self.norm = norm
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(width, classes, bias)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.proj(self.dropout(dense_act_norm(x, self.dense, self.act, self.norm)))


def dense_act_norm(x: Tensor, dense: nn.Module | None, act: Callable | None, norm: nn.Module | None) -> Tensor:
    """norm(act(dense(x))), skipping those that are None."""
    if dense is not None and act is not None:
        x = act(dense(x))
    return x if norm is None else norm(x)


def rescale_output(proj: nn.Linear, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
    """Rescale an output layer in place from y to y * std + mean, numbers or one for each output.

    Raises ValueError for a mean without a bias.
    """
    if proj.bias is None and torch.tensor(mean).any():
        raise ValueError(f"the head has no bias, so its outputs cannot be shifted by the mean {mean}")
    for parameter, shift in ((proj.weight, 0.0), (proj.bias, mean)):
        if parameter is not None:
            _rescale(parameter, std, shift)


@torch.no_grad()
def _rescale(parameter: Tensor, factor: float | Sequence[float], shift: float | Sequence[float]) -> None:
    """parameter [C, ...] * factor + shift in place, numbers or one for each output; of a sharded one the own part."""
    own: Any = parameter
    numbers = []
    for values in (factor, shift):
        x = torch.tensor(values, dtype=torch.float64).to(parameter.device, parameter.dtype)
        numbers.append(x.view(-1, *[1] * (parameter.ndim - 1)).expand(parameter.shape))
    if hasattr(own, "device_mesh"):  # DTensor itself multiplies no shards of fewer rows than processes
        from torch.distributed.tensor import DTensor

        mesh, placements = own.device_mesh, own.placements
        whole = [DTensor.from_local(x.contiguous(), mesh, run_check=False) for x in numbers]
        numbers, own = [x.redistribute(mesh, placements).to_local() for x in whole], own.to_local()
    own.mul_(numbers[0]).add_(numbers[1])


class LMHead(nn.Module):
    """Language-model head: scores of the next token [B, N, V].

    tied: an embedding whose weight it shares. fixed_bias: it has a bias that is not trained (BART, Marian). scale: a
    factor of the inputs, and so of the scores (T5, Granite). softcap: a smooth bound c of the scores, c tanh(y / c)
    (Gemma 2).
    """

    def __init__(
        self,
        width: int,
        vocab_size: int,
        tied: nn.Embedding | None = None,
        bias: bool = False,
        *,
        fixed_bias: bool = False,
        scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.softcap = scale, softcap
        self.proj = nn.Linear(width, vocab_size, bias)
        if fixed_bias:
            del self.proj.bias
            self.proj.register_buffer("bias", torch.empty(vocab_size))
        if tied is not None:
            self.proj.weight = tied.weight

    def features(self, x: Tensor) -> Tensor:
        """The inputs [..., D] of the output layer `proj`."""
        return x if self.scale == 1 else x * self.scale

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return soft_capped(self.proj(self.features(x)), self.softcap)


class MaskedLMHead(LMHead):
    """BERT's masked-language-model head: dense, activation, norm, output layer with a bias. Scores [B, N, V]."""

    def __init__(
        self,
        width: int,
        vocab_size: int,
        norm: nn.Module,
        *,
        act: str = "gelu",
        tied: nn.Embedding | None = None,
        dense_bias: bool = True,
    ) -> None:
        super().__init__(width, vocab_size, tied, bias=True)
        self.dense = nn.Linear(width, width, dense_bias)
        self.act, self.norm = activation(act), norm

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.dense(x)))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.proj(self.norm(self.act(self.dense(x))))


class WeightedLayerSum(nn.Module):
    """Base class of heads on a learned weighted sum of the hidden states of all layers (SUPERB, Yang et al. 2021).

    layers: number of hidden states; None for the last one alone.
    """

    def __init__(self, layers: int | None) -> None:
        super().__init__()
        self.mix = None if layers is None else nn.Parameter(torch.empty(layers))

    def initialize(self, generator_for: Initializer) -> None:
        if self.mix is not None:
            nn.init.constant_(self.mix, 1 / len(self.mix))

    def weighted_sum(self, x: Tensor) -> Tensor:
        """[B, N, D], or [layers, B, N, D] for a weighted sum -> [B, N, D]."""
        return x if self.mix is None else torch.einsum("l,lbnd->bnd", self.mix.softmax(0), x)


class AudioClassificationHead(WeightedLayerSum):
    """Class scores [B, C] from the mean over real frames, after a linear projection."""

    def __init__(self, width: int, inner: int, classes: int, layers: int | None = None) -> None:
        super().__init__(layers)
        self.dense = nn.Linear(width, inner)
        self.proj = nn.Linear(inner, classes)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x: see `weighted_sum`; keep [B, N]: True or 1 for real frames."""
        x = self.weighted_sum(x)
        if keep is None:
            mean = x.mean(1)
        else:
            mean = (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        return self.proj(self.dense(mean))


class FrameClassificationHead(WeightedLayerSum):
    """Scores [B, N, C] for each frame: of classes (speaker diarization), or of the symbols of a CTC model."""

    def __init__(self, width: int, classes: int, layers: int | None = None, dropout: float = 0.0) -> None:
        super().__init__(layers)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(width, classes)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x: see `weighted_sum`."""
        return self.proj(self.dropout(self.weighted_sum(x)))
