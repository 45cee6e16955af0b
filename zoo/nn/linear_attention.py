"""Linear attention: phi(q) (phi(k)^T v), normalized. Subclasses define the feature map phi.

Causal attention processes the sequence in chunks: by a masked matrix within a chunk, and between chunks by the running
sum of phi(k)^T [v, 1], which is also the cache for decoding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.core import Core, CoreSpec, attention
from zoo.nn.init import Initializer, orthogonal_gaussian
from zoo.nn.kv_cache import LinearAttentionState, State
from zoo.nn.masks import CAUSAL, Mask, PaddingMask, as_mask
from zoo.nn.position_biases import Bias
from zoo.nn.sdpa import repeat_kv
from zoo.nn.sparse_attention import positive

CHUNK = 64


@attention("linear")
class LinearAttention(Core):
    """Katharopoulos et al. 2020: phi(x) = elu(x) + 1.

    The attention weights are never computed, so attention dropout drops a value for all queries of a head at once, with
    the same expectation.
    """

    kind = "linear"

    def phi(self, x: Tensor, keep: Tensor | None, keys: bool, causal: bool) -> Tensor:
        """Feature map: [B, H, N, P] -> non-negative features [B, H, N, F]. keep [B, 1, N, 1]: False at padding."""
        return F.elu(x) + 1

    def num_features(self) -> int:
        return self.spec.head_dim

    def features(self, q: Tensor, k: Tensor, keep: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(q.dtype, torch.float32)  # sums over a whole sequence: not in half precision
        k = repeat_kv(k, q.shape[1]).to(dtype)
        phi_q, phi_k = self.phi(q.to(dtype), None, False, causal), self.phi(k, keep, True, causal)
        return phi_q, phi_k if keep is None else phi_k * keep

    def parse_mask(self, mask: Mask | Tensor | None, bias: Bias | Tensor | None, queries: int, keys: int) -> tuple:
        """Split a mask into (causal, keep [B, 1, M, 1] or None). Raises ValueError for other masks and for biases."""
        if bias is not None:
            raise ValueError(
                f"{self.kind} attention has no scores and does not support a bias: use an attention kind with scores "
                "(softmax, additive, local, ...), or absolute or rotary positions"
            )
        keep, causal = None, False
        for part in as_mask(mask).parts():
            if part == CAUSAL:
                causal = True
            elif isinstance(part, PaddingMask):
                keep = part.keep.bool() if keep is None else keep & part.keep.bool()
            elif not part.hides_nothing(queries, keys):
                raise ValueError(
                    f"{self.kind} attention does not compute weights and cannot apply the mask {part}: it supports "
                    "causal masks and padding; for sparse patterns use attention='local', 'longformer', ..."
                )
        if causal and queries > keys:
            raise ValueError(
                f"a causal mask with {queries} queries and {keys} keys masks all keys of the first queries"
            )
        return causal, None if keep is None else keep[:, None, :, None]

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
    ) -> Tensor:
        causal, keep = self.parse_mask(mask, bias, q.shape[2], k.shape[2])
        phi_q, phi_k = self.features(q, k, keep, causal)
        v = repeat_kv(v, q.shape[1])
        if self.dropout:
            v = v * F.dropout(torch.ones_like(v[..., :1]), self.dropout)
        values = append_ones(v, phi_k)
        if not causal:
            return normalize(phi_q @ (phi_k.mT @ values), v.dtype)
        early = k.shape[2] - q.shape[2]  # keys before the first query are visible to all queries
        start = phi_k[:, :, :early].mT @ values[:, :, :early]
        y, _ = chunked_causal_sum(phi_q, phi_k[:, :, early:], values[:, :, early:], start)
        return normalize(y, v.dtype)

    def weights(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        causal, keep = self.parse_mask(mask, bias, q.shape[2], k.shape[2])
        phi_q, phi_k = self.features(q, k, keep, causal)
        products = phi_q @ phi_k.mT  # B H N M
        if causal:
            products = products * CAUSAL.dense(q.shape[2], k.shape[2], q.device)
        return (products / nonzero(products.sum(-1, keepdim=True))).to(q.dtype)

    def maps(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        return self.weights(q, k, mask, bias)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        return LinearAttentionState(batch, self.spec.heads, self.num_features(), self.spec.head_dim, like)

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Mask | None = None, bias: Bias | None = None
    ) -> Tensor:
        assert isinstance(state, LinearAttentionState)
        causal, keep = self.parse_mask(mask, bias, q.shape[2], state.length + k.shape[2])
        if not causal:
            raise ValueError("decoding needs a causal mask: pass mask=zoo.nn.CAUSAL")
        if keep is not None:
            keep = keep[:, :, -k.shape[2] :]
        phi_q, phi_k = self.features(q, k, keep, causal=True)
        y, state.sum = chunked_causal_sum(phi_q, phi_k, append_ones(repeat_kv(v, q.shape[1]), phi_k), state.sum)
        state.length += q.shape[2]
        return normalize(y, v.dtype)


class RandomProjection(LinearAttention):
    """Base class of feature maps by `features` random projections w . x, orthogonal in blocks of the head size."""

    projection: Tensor

    def __init__(self, spec: CoreSpec, features: int = 256) -> None:
        super().__init__(spec)
        positive(features=features)
        self.register_buffer("projection", torch.empty(features, spec.head_dim))

    def initialize(self, generator_for: Initializer) -> None:
        orthogonal_gaussian(self.projection, generator_for("projection"))


@attention("performer")
class Performer(RandomProjection):
    """FAVOR+ (Choromanski et al. 2021): positive orthogonal random features, an unbiased estimate of exp(q . k).

    phi(x) = exp(w . x - |x|^2 / 2) for `features` rows w that are orthogonal in blocks of the head dimension. For
    stability the exponents are shifted by a maximum that cancels in the normalization: per query, and over all keys.
    Under a causal mask keys are not shifted, because the maximum would leak later tokens through rounding.
    """

    kind = "performer"

    def num_features(self) -> int:
        return self.projection.shape[0]

    def phi(self, x: Tensor, keep: Tensor | None, keys: bool, causal: bool) -> Tensor:
        x = x * math.sqrt(self.scale)
        z = x @ self.projection.to(x.dtype).mT - x.square().sum(-1, keepdim=True) / 2  # B H N F
        if not keys:
            return (z - z.amax(-1, keepdim=True).detach()).exp()
        if keep is not None:
            z = z.masked_fill(~keep, -torch.inf)
        if causal:
            return z.exp()
        return (z - z.amax((-2, -1), keepdim=True).detach().clamp(min=-1e30)).exp()


@attention("rfa")
class RandomFeatureAttention(RandomProjection):
    """Random Feature Attention (Peng et al. 2021): phi(x) = [sin(w . x), cos(w . x)] of q and k on the unit sphere.

    Estimates softmax attention at temperature 1 between unit vectors. For those, exp(q . k) is proportional to the
    Gaussian kernel, which sines and cosines of Gaussian projections approximate (Rahimi and Recht 2007).
    """

    kind = "rfa"

    def num_features(self) -> int:
        return 2 * self.projection.shape[0]

    def phi(self, x: Tensor, keep: Tensor | None, keys: bool, causal: bool) -> Tensor:
        z = F.normalize(x, dim=-1) @ self.projection.to(x.dtype).mT
        return torch.cat([z.sin(), z.cos()], -1) / math.sqrt(self.projection.shape[0])


def append_ones(v: Tensor, like: Tensor) -> Tensor:
    """[B, H, M, P] -> [B, H, M, P + 1]: the column of ones accumulates the denominator."""
    return F.pad(v.to(like.dtype), (0, 1), value=1.0)


def normalize(y: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, H, N, P + 1] -> [B, H, N, P]: numerator divided by denominator."""
    return (y[..., :-1] / nonzero(y[..., -1:])).to(dtype)


def nonzero(total: Tensor) -> Tensor:
    """Replace 0 by 1, so that fully masked rows give zeros instead of NaN."""
    return torch.where(total == 0, torch.ones_like(total), total)


def chunked_causal_sum(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Causal linear attention in chunks: sum over j <= i of (q_i . k_j) v_j, plus q_i start. All of one length N.

    q, k: [B, H, N, F]; v: [B, H, N, E]; start: [B, H, F, E]. Returns ([B, H, N, E], the sum after the last token).
    """
    length = q.shape[2]
    size = min(CHUNK, length)
    q, k, v = (
        F.pad(x, (0, 0, 0, -length % size)).unflatten(2, (-1, size)) for x in (q, k, v)
    )  # B H C c F: zero keys contribute nothing
    sums = k.mT @ v  # B H C F E
    before = torch.cat([start[:, :, None], sums], 2).cumsum(2)  # the sums before each chunk, and the total
    y = (q @ k.mT).tril() @ v + q @ before[:, :, :-1]
    return y.flatten(2, 3)[:, :, :length], before[:, :, -1]
