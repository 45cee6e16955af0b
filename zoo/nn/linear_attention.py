"""Attention in linear time: phi(q) (phi(k)^T v), normalized. Subclasses choose the feature map phi.

Causal kinds go through the sequence in chunks: inside a chunk as a small masked matrix, between chunks by the running
sum of phi(k)^T [v, 1], which is also all that decoding has to remember.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.core import Core, CoreSpec
from zoo.nn.init import Initializer, orthogonal_gaussian
from zoo.nn.kv_cache import LinearAttentionState, State
from zoo.nn.masks import CAUSAL, Mask, PaddingMask, as_mask
from zoo.nn.position_biases import Bias
from zoo.nn.sdpa import share
from zoo.nn.sparse_attention import positive

CHUNK = 64


class LinearAttention(Core):
    """Katharopoulos et al. 2020: phi(x) = elu(x) + 1.

    Weights that are never formed cannot be dropped one by one: attention dropout drops a key's value for all queries of
    a head at once, with the same expectation.
    """

    kind = "linear"

    def phi(self, x: Tensor, keep: Tensor | None, keys: bool, causal: bool) -> Tensor:
        """[B, H, N, P] -> non-negative features [B, H, N, F]; keep [B, 1, N, 1] is False for padding."""
        return F.elu(x) + 1

    def num_features(self) -> int:
        return self.spec.head_dim

    def features(self, q: Tensor, k: Tensor, keep: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(q.dtype, torch.float32)  # sums over a whole sequence: not in half precision
        k = share(k, q.shape[1]).to(dtype)
        phi_q, phi_k = self.phi(q.to(dtype), None, False, causal), self.phi(k, keep, True, causal)
        return phi_q, phi_k if keep is None else phi_k * keep

    def read(self, mask: Mask | Tensor | None, bias: Bias | Tensor | None, queries: int, keys: int) -> tuple:
        """What this kind can honor: a causal mask and hidden keys. -> (causal, keep [B, 1, M, 1] or None)."""
        if bias is not None:
            raise ValueError(
                f"{self.kind} attention has no scores that a bias could be added to. Use an attention kind with scores "
                "(softmax, additive, local, ...) or positions that are added to x or rotate q and k"
            )
        keep, causal = None, False
        for part in as_mask(mask).parts():
            if part == CAUSAL:
                causal = True
            elif isinstance(part, PaddingMask):
                keep = part.keep.bool() if keep is None else keep & part.keep.bool()
            elif not part.hides_nothing(queries, keys):
                raise ValueError(
                    f"{self.kind} attention never forms its weights, so it cannot hide single pairs as {part} asks. "
                    "It honors causal masks and padding; for a pattern use attention='local', 'longformer' ..."
                )
        if causal and queries > keys:
            raise ValueError(f"a causal mask over {keys} keys leaves the first of {queries} queries nothing to see")
        return causal, None if keep is None else keep[:, None, :, None]

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | Tensor | None = None,
        bias: Bias | Tensor | None = None,
    ) -> Tensor:
        causal, keep = self.read(mask, bias, q.shape[2], k.shape[2])
        phi_q, phi_k = self.features(q, k, keep, causal)
        v = share(v, q.shape[1])
        if self.dropout:
            v = v * F.dropout(torch.ones_like(v[..., :1]), self.dropout)
        values = with_ones(v, phi_k)
        if not causal:
            return divided(phi_q @ (phi_k.mT @ values), v.dtype)
        early = k.shape[2] - q.shape[2]  # keys before the first query: seen by all
        start = phi_k[:, :, :early].mT @ values[:, :, :early]
        y, _ = chunked(phi_q, phi_k[:, :, early:], values[:, :, early:], start)
        return divided(y, v.dtype)

    def weights(
        self, q: Tensor, k: Tensor, mask: Mask | Tensor | None = None, bias: Bias | Tensor | None = None
    ) -> Tensor:
        causal, keep = self.read(mask, bias, q.shape[2], k.shape[2])
        phi_q, phi_k = self.features(q, k, keep, causal)
        products = phi_q @ phi_k.mT  # B H N M
        if causal:
            products = products * CAUSAL.dense(q.shape[2], k.shape[2], q.device)
        return (products / guarded(products.sum(-1, keepdim=True))).to(q.dtype)

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
        causal, keep = self.read(mask, bias, q.shape[2], state.length + k.shape[2])
        if not causal:
            raise ValueError("decoding goes from left to right: it needs a causal mask")
        if keep is not None:
            keep = keep[:, :, -k.shape[2] :]
        phi_q, phi_k = self.features(q, k, keep, causal=True)
        y, state.sum = chunked(phi_q, phi_k, with_ones(share(v, q.shape[1]), phi_k), state.sum)
        state.length += q.shape[2]
        return divided(y, v.dtype)


class Projected(LinearAttention):
    """Feature maps of `features` random projections w . x, orthogonal in blocks of the head dimension."""

    projection: Tensor

    def __init__(self, spec: CoreSpec, features: int = 256) -> None:
        super().__init__(spec)
        positive(features=features)
        self.register_buffer("projection", torch.empty(features, spec.head_dim))

    def initialize(self, draw: Initializer) -> None:
        orthogonal_gaussian(self.projection, draw("projection"))


class Performer(Projected):
    """FAVOR+ (Choromanski et al. 2021): positive orthogonal random features, an unbiased estimate of exp(q . k).

    phi(x) = exp(w . x - |x|^2 / 2) for `features` rows w that are orthogonal in blocks of the head dimension. Factors
    that cancel in the normalization keep the exponentials in range: per query its largest feature; for keys the largest
    of all, but none under a causal mask, where it would let the future show through rounding.
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


class RandomFeatureAttention(Projected):
    """Random Feature Attention (Peng et al. 2021): phi(x) = [sin(w . x), cos(w . x)] of q and k on the unit sphere.

    An estimate of softmax attention at temperature 1 between unit vectors: there exp(q . k) is, up to a factor, the
    Gaussian kernel, which sines and cosines of Gaussian projections estimate (Rahimi and Recht 2007).
    """

    kind = "rfa"

    def num_features(self) -> int:
        return 2 * self.projection.shape[0]

    def phi(self, x: Tensor, keep: Tensor | None, keys: bool, causal: bool) -> Tensor:
        z = F.normalize(x, dim=-1) @ self.projection.to(x.dtype).mT
        return torch.cat([z.sin(), z.cos()], -1) / math.sqrt(self.projection.shape[0])


def with_ones(v: Tensor, like: Tensor) -> Tensor:
    """[B, H, M, P] -> [B, H, M, P + 1]: the column of ones sums up the denominator along with the numerator."""
    return F.pad(v.to(like.dtype), (0, 1), value=1.0)


def divided(y: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, H, N, P + 1] -> [B, H, N, P]: numerator over denominator."""
    return (y[..., :-1] / guarded(y[..., -1:])).to(dtype)


def guarded(total: Tensor) -> Tensor:
    """A row that sees no key has the sum 0 and gets zeros, not NaN."""
    return torch.where(total == 0, torch.ones_like(total), total)


def chunked(q: Tensor, k: Tensor, v: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """sum over j <= i of (q_i . k_j) v_j, and what precedes: q_i start. All of one length N.

    q, k: [B, H, N, F]; v: [B, H, N, E]; start: [B, H, F, E]. Returns ([B, H, N, E], the sum after the last token).
    """
    length = q.shape[2]
    size = min(CHUNK, length)
    q, k, v = (
        F.pad(x, (0, 0, 0, -length % size)).unflatten(2, (-1, size)) for x in (q, k, v)
    )  # B H C c F: zero keys add nothing
    sums = k.mT @ v  # B H C F E
    before = torch.cat([start[:, :, None], sums], 2).cumsum(2)  # what each chunk finds, and the end
    y = (q @ k.mT).tril() @ v + q @ before[:, :, :-1]
    return y.flatten(2, 3)[:, :, :length], before[:, :, -1]
