"""From hidden states to answers."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.block_config import BlockConfig
from zoo.nn.context import Context
from zoo.nn.init import Initializer, trunc_normal_
from zoo.nn.mlp import MLP, activation

PoolingMode = Literal["cls", "mean", "cls_mean"]
TokenPoolingMode = Literal["cls", "mean", "last"]


class PoolingHead(nn.Module):
    """Hidden states [B, N, D] -> features [B, F].

    how: "cls", the first token; "mean", over the tokens behind the prefix; "cls_mean", both side by side (F = 2 D);
    "prefix", the mean of the prefix. norm: a norm that stands after pooling.
    """

    def __init__(self, how: PoolingMode | Literal["prefix"], prefix: int, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.how, self.prefix, self.norm = how, prefix, norm

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "cls":
            x = x[:, 0]
        elif self.how == "mean":
            x = x[:, self.prefix :].mean(1)
        elif self.how == "prefix":
            x = x[:, : self.prefix].mean(1)
        else:
            x = torch.cat([x[:, 0], x[:, self.prefix :].mean(1)], -1)
        return x if self.norm is None else self.norm(x)

    def extra_repr(self) -> str:
        return f"{self.how!r}"


class ClassificationHead(PoolingHead):
    """Class scores [B, C] from pooled features."""

    def __init__(
        self,
        how: PoolingMode | Literal["prefix"],
        prefix: int,
        features: int,
        classes: int,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__(how, prefix, norm)
        self.proj = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(super().forward(x))


class AttentionPooling(nn.Module):
    """Features [B, D] by a learned query that attends to all tokens, and an MLP behind it (SigLIP's head; Lee et al.
    2019 call it PMA); with `classes`, their scores [B, C]."""

    def __init__(self, spec: BlockConfig, classes: int | None = None) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(spec.width))
        self.mixer = spec.attend(0, 1, "softmax", cross=True)
        self.norm = spec.make_norm()
        self.mlp = MLP(spec.width, spec.mlp_dim or 4 * spec.width, spec.act, spec.gated_mlp, spec.bias)
        self.proj = None if classes is None else nn.Linear(spec.width, classes)

    def initialize(self, draw: Initializer) -> None:
        trunc_normal_(self.probe, len(self.probe) ** -0.5, draw("probe"))

    def forward(self, x: Tensor) -> Tensor:
        query = self.probe.to(x.dtype).repeat(len(x), 1, 1)
        y = self.mixer(query, Context(), memory=x)[:, 0]
        y = y + self.mlp(self.norm(y))
        return y if self.proj is None else self.proj(y)


class DistilledClassificationHead(nn.Module):
    """DeiT's two heads, on the class and the distillation token; their mean answers (Touvron et al. 2021)."""

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
    """Hidden states [B, N, D] of text -> features [B, D], of real tokens only.

    how: "cls", the first token; "mean"; "last". dense: a linear map and this activation behind it (BERT's pooler).
    normalize: features of length 1 (embedding models).
    """

    def __init__(
        self,
        how: TokenPoolingMode,
        width: int,
        dense: str | None = None,
        norm: nn.Module | None = None,
        *,
        dense_bias: bool = True,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.how, self.normalize = how, normalize
        self.dense = None if dense is None else nn.Linear(width, width, dense_bias)
        self.act = None if dense is None else activation(dense)
        self.norm = norm

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep [B, N] is True or 1 for real tokens."""
        x = transform(self.pool(x, keep), self.dense, self.act, self.norm)
        return F.normalize(x, dim=-1) if self.normalize else x

    def pool(self, x: Tensor, keep: Tensor | None) -> Tensor:
        if keep is None:
            return {"cls": x[:, 0], "last": x[:, -1]}.get(self.how, x.mean(1))
        keep = keep.long()
        if self.how == "mean":
            return (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        place = keep.argmax(1) if self.how == "cls" else keep.shape[1] - 1 - keep.flip(1).argmax(1)
        return x[torch.arange(len(x), device=x.device), place]

    def extra_repr(self) -> str:
        return f"{self.how!r}"


class TokenPooling(nn.Module):
    """Hidden states [B, N, D] -> features [B, D] of the token at a given place; with `classes`, their scores [B, C]."""

    def __init__(self, width: int, classes: int | None = None) -> None:
        super().__init__()
        self.proj = None if classes is None else nn.Linear(width, classes)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """place [B]."""
        x = x[torch.arange(len(x), device=x.device), place]
        return x if self.proj is None else self.proj(x)


class TextClassificationHead(TextPooling):
    """Class scores [B, C] from pooled features, with dropout before the last map."""

    def __init__(
        self,
        how: TokenPoolingMode,
        width: int,
        classes: int,
        *,
        dense: str | None = None,
        norm: nn.Module | None = None,
        dense_bias: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__(how, width, dense, norm, dense_bias=dense_bias)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(width, classes, bias)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.proj(self.dropout(super().forward(x, keep)))


class TokenClassificationHead(nn.Module):
    """Scores per token: [B, N, C] for token classification, [B, N, 2] (start, end) for question answering.

    dense, norm: a linear map, this activation and a norm before the last map (ModernBERT).
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
        return self.proj(self.dropout(transform(x, self.dense, self.act, self.norm)))


def transform(x: Tensor, dense: nn.Module | None, act: Callable | None, norm: nn.Module | None) -> Tensor:
    """norm(act(dense(x))), as far as there are such."""
    if dense is not None and act is not None:
        x = act(dense(x))
    return x if norm is None else norm(x)


def rescale(proj: nn.Linear, mean: float, std: float) -> None:
    """Make a last map that answers y answer y * std + mean, in place. Raises ValueError for a mean without a bias."""
    if proj.bias is None and mean:
        raise ValueError(f"a head without a bias cannot answer around {mean}")
    with torch.no_grad():
        proj.weight.mul_(std)
        if proj.bias is not None:
            proj.bias.mul_(std).add_(mean)


class LMHead(nn.Module):
    """Scores of the next token [B, N, V]; `tied` is the word table that serves as the map, where one does."""

    def __init__(self, width: int, vocab_size: int, tied: nn.Embedding | None = None, bias: bool = False) -> None:
        super().__init__()
        self.proj = nn.Linear(width, vocab_size, bias)
        if tied is not None:
            self.proj.weight = tied.weight

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.proj(x)


class MaskedLMHead(LMHead):
    """BERT's masked-language-model head: dense, activation, norm, then the tied word table with a bias. [B, N, V]."""

    def __init__(
        self,
        width: int,
        vocab_size: int,
        norm: nn.Module,
        *,
        act: str = "gelu",
        tied: nn.Embedding | None = None,
        dense_bias: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__(width, vocab_size, tied, bias)
        self.dense = nn.Linear(width, width, dense_bias)
        self.act, self.norm = activation(act), norm

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.proj(self.norm(self.act(self.dense(x))))


class WeightedLayerSum(nn.Module):
    """A head that may read a mixture of hidden states, by learned weights whose softmax sums to 1 (Yang et al. 2021).

    layers: how many of them; None for the last alone.
    """

    def __init__(self, layers: int | None) -> None:
        super().__init__()
        self.mix = None if layers is None else nn.Parameter(torch.empty(layers))

    def initialize(self, draw: Initializer) -> None:
        if self.mix is not None:
            nn.init.constant_(self.mix, 1 / len(self.mix))

    def mixed(self, x: Tensor) -> Tensor:
        """[B, N, D], or [layers, B, N, D] where layers are mixed -> [B, N, D]."""
        return x if self.mix is None else torch.einsum("l,lbnd->bnd", self.mix.softmax(0), x)


class AudioClassificationHead(WeightedLayerSum):
    """Class scores [B, C] from the mean of the real frames, through an inner width and no activation."""

    def __init__(self, width: int, inner: int, classes: int, layers: int | None = None) -> None:
        super().__init__(layers)
        self.dense = nn.Linear(width, inner)
        self.proj = nn.Linear(inner, classes)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x: see `mixed`; keep [B, N] is True or 1 for real frames."""
        x = self.mixed(x)
        if keep is None:
            mean = x.mean(1)
        else:
            mean = (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        return self.proj(self.dense(mean))


class FrameClassificationHead(WeightedLayerSum):
    """Scores [B, N, C] for each frame: of classes (who speaks when), or of the symbols of a CTC model."""

    def __init__(self, width: int, classes: int, layers: int | None = None, dropout: float = 0.0) -> None:
        super().__init__(layers)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(width, classes)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x: see `mixed`."""
        return self.proj(self.dropout(self.mixed(x)))
