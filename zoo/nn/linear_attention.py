"""Linear attention: phi(q) (phi(k)^T v), normalized. Subclasses define the feature map phi.

A feature is a product factor * exp(exponent). The exponents of keys are shifted by the maximum of each feature over the
keys, and those of a query, which has this maximum added back, by its maximum over the features: the shifts cancel in
the normalization, and the greatest term of each denominator is 1, however large q and k are.

Under a causal mask no shift depends on later keys. Each chunk of tokens attends to the chunks before it by a running
maximum and a running sum of phi(k)^T [v, 1], which are also the cache for decoding. Within a chunk each token attends
to itself, and the late half of every 2, 4, 8, ... tokens to the early half; features without exponents need no halves.
"""

import math
from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.core import Core, CoreSpec, attention, check_positive
from zoo.nn.fused import Fused
from zoo.nn.init import Initializer, orthogonal_gaussian
from zoo.nn.kv_cache import LinearAttentionState, State
from zoo.nn.masks import CAUSAL, AnyMask, Mask, PaddingMask, as_mask
from zoo.nn.position_biases import AnyBias, Bias
from zoo.nn.sdpa import HALF, check_inputs, check_mask, repeat_kv

HALVES = (1, 2, 4, 8, 16, 32)
CHUNK = 2 * HALVES[-1]
CHUNK_HALF = 128  # of products in half precision on a GPU
COMPILE_ENTRIES = 1 << 22  # of q: for fewer, compiling costs seconds and saves microseconds
LOWEST = -1e30  # in place of -inf, whose differences are NaN

Features = tuple[Tensor, Tensor]  # factor and exponent of factor * exp(exponent), each [..., N, F] or [..., N, 1]
Sums = tuple[Tensor, Tensor]  # top [..., 1, F] and total [..., F, E]: phi(k)^T v is exp(top)^T * total


@attention("linear")
class LinearAttention(Core):
    """Katharopoulos et al. 2020: phi(x) = elu(x) + 1, and at least exp(-40), so that no denominator is zero.

    The attention weights are never computed, so attention dropout drops a value for all queries of a head at once, with
    the same expectation.
    """

    def phi(self, x: Tensor) -> Tensor | Features:
        """Feature map [B, H, N, P] -> [B, H, N, F]: features, or (factor, exponent) where exponents may be large."""
        return positive(x)

    def num_features(self) -> int:
        return self.spec.head_dim

    def features(self, x: Tensor, keep: Tensor | None = None) -> Features:
        """phi of queries or of keys; keep [B, 1, M, 1] is False at padding, which has the features zero."""
        phi = self.phi(x.to(torch.promote_types(x.dtype, torch.float32)))  # sums over a sequence: not in half precision
        factor, exponent = phi if isinstance(phi, tuple) else (phi, torch.zeros_like(phi[..., :1]))
        return factor, exponent if keep is None else exponent.masked_fill(~keep, -torch.inf)

    def parse_mask(self, mask: AnyMask, bias: AnyBias, queries: int, keys: int) -> tuple:
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

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        check_inputs(q, k, v)
        check_mask(as_mask(mask), q, k)
        v = repeat_kv(v, q.shape[1])
        if self.dropout:
            v = v * F.dropout(torch.ones_like(v[..., :1]), self.dropout)
        return self.attend(q, k, v, mask, bias)

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        """Attention weights [B, H, N, M]: the outputs for the unit vectors as values."""
        return self.attend(q, k, torch.eye(k.shape[2], dtype=q.dtype, device=q.device)[None, None], mask, bias)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask, bias: AnyBias, state: LinearAttentionState | None = None
    ) -> Tensor:
        """Outputs for values v [B, H, M, E], without dropout. With a state, k and v are those of new tokens."""
        causal, keep = self.parse_mask(mask, bias, q.shape[2], k.shape[2] + (0 if state is None else state.length))
        if state is not None and not causal:
            raise ValueError("decoding needs a causal mask: pass mask=zoo.nn.CAUSAL")
        if not q.shape[2] or not k.shape[2]:  # no queries, or nothing to attend to
            return v.new_zeros(*q.shape[:3], v.shape[-1])
        keep = None if keep is None else keep[:, :, -k.shape[2] :]
        if state is None and self.products_in_half(q) and (not causal or q.shape[2] == k.shape[2]):
            attention = fused_half_attention if q.numel() >= COMPILE_ENTRIES else half_attention
            return attention(q, repeat_kv(k, q.shape[1]), v, keep, causal)
        phi_q, phi_k = self.features(q), self.features(repeat_kv(k, q.shape[1]), keep)
        values = F.pad(v.to(phi_q[0].dtype), (0, 1), value=1.0)  # B H M P+1: the ones accumulate the denominator
        if not causal:
            return normalize(read(phi_q, summarize(phi_k, values))[0], v.dtype)
        early = k.shape[2] - q.shape[2]  # keys before the first query are visible to all queries
        if state is None:
            state = LinearAttentionState(q.shape[0], q.shape[1], self.num_features(), v.shape[-1], values)
        start = state.top, state.sum
        if early:
            start = summarize(each(phi_k, lambda t: t[:, :, :early]), values[:, :, :early])
        phi_k, values = each(phi_k, lambda t: t[:, :, early:]), values[:, :, early:]
        y, (state.top, state.sum) = causal_attention(phi_q, phi_k, values, start)
        state.length += q.shape[2]
        return normalize(y, v.dtype)

    def products_in_half(self, q: Tensor) -> bool:
        """Whether products are in half precision, with sums over chunks of tokens in float32: on GPUs, for features
        that are positive and have no exponents."""
        return q.is_cuda and q.dtype in HALF and type(self).phi is LinearAttention.phi

    def maps(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        return self.weights(q, k, mask, bias)

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        return LinearAttentionState(batch, self.spec.heads, self.num_features(), self.spec.head_dim, like)

    def decode(
        self, q: Tensor, k: Tensor, v: Tensor, state: State, mask: Mask | None = None, bias: Bias | None = None
    ) -> Tensor:
        assert isinstance(state, LinearAttentionState)
        return self.attend(q, k, repeat_kv(v, q.shape[1]), mask, bias, state)


class RandomProjection(LinearAttention):
    """Base class of feature maps by `features` random projections w . x, orthogonal in blocks of the head size."""

    projection: Tensor

    def __init__(self, spec: CoreSpec, features: int = 256) -> None:
        super().__init__(spec)
        check_positive(features=features)
        self.register_buffer("projection", torch.empty(features, spec.head_dim))

    def initialize(self, generator_for: Initializer) -> None:
        orthogonal_gaussian(self.projection, generator_for("projection"))


@attention("performer")
class Performer(RandomProjection):
    """FAVOR+ (Choromanski et al. 2021): positive orthogonal random features, an unbiased estimate of exp(q . k).

    phi(x) = exp(w . x - |x|^2 / 2) for `features` rows w that are orthogonal in blocks of the head dimension.
    """

    def num_features(self) -> int:
        return self.projection.shape[0]

    def phi(self, x: Tensor) -> Features:
        x = x * math.sqrt(self.scale)
        exponent = x @ self.projection.to(x.dtype).mT - x.square().sum(-1, keepdim=True) / 2  # B H N F
        return torch.ones_like(x[..., :1]), exponent


@attention("rfa")
class RandomFeatureAttention(RandomProjection):
    """Random Feature Attention (Peng et al. 2021): phi(x) = [sin(w . x), cos(w . x)] of q and k on the unit sphere.

    Estimates softmax attention at temperature 1 between unit vectors. For those, exp(q . k) is proportional to the
    Gaussian kernel, which sines and cosines of Gaussian projections approximate (Rahimi and Recht 2007).
    """

    def num_features(self) -> int:
        return 2 * self.projection.shape[0]

    def phi(self, x: Tensor) -> Tensor:
        z = F.normalize(x, dim=-1) @ self.projection.to(x.dtype).mT
        return torch.cat([z.sin(), z.cos()], -1) / math.sqrt(self.projection.shape[0])


def normalize(y: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, H, N, P + 1] -> [B, H, N, P]: numerator divided by denominator, zeros where all keys are masked."""
    total = y[..., -1:]
    return (y[..., :-1] / total.masked_fill(total == 0, 1.0)).to(dtype)


def each(phi: Features, function: Callable[[Tensor], Tensor]) -> Features:
    """`function` of the factor and of the exponent."""
    return function(phi[0]), function(phi[1])


def shifted_keys(phi: Features) -> tuple[Tensor, Tensor]:
    """(phi / exp(top), top): top is the maximum of each exponent over the keys."""
    top = phi[1].amax(-2, keepdim=True).detach().clamp(min=LOWEST)
    return phi[0] * (phi[1] - top).exp(), top


def shifted_queries(phi: Features, top: Tensor) -> tuple[Tensor, Tensor]:
    """(phi * exp(top - peak), peak): peak is the maximum of each query's exponents."""
    exponent = phi[1] + top
    peak = exponent.amax(-1, keepdim=True).detach()
    return phi[0] * (exponent - peak).exp(), peak


def summarize(phi: Features, v: Tensor) -> Sums:
    """The sum of phi(k)^T v over the keys."""
    keys, top = shifted_keys(phi)
    return top, keys.mT @ v


def add(a: Sums, b: Sums) -> Sums:
    """The sum over the keys of both."""
    top = torch.maximum(a[0], b[0])
    return top, a[1] * (a[0] - top).exp().mT + b[1] * (b[0] - top).exp().mT


def read(phi: Features, sums: Sums) -> tuple[Tensor, Tensor]:
    """(y / exp(peak), peak) of queries that attend to all keys of the sums."""
    queries, peak = shifted_queries(phi, sums[0])
    return queries @ sums[1], peak


def causal_attention(q: Features, k: Features, v: Tensor, start: Sums) -> tuple[Tensor, Sums]:
    """Causal linear attention of N tokens, which also attend to all earlier keys, those of `start`.

    v: [B, H, N, E]. Returns (y [B, H, N, E] up to one factor for each query, the sums after the last token).
    """
    length = v.shape[2]
    one_chunk = q[1].shape[-1] == 1 and torch.compiler.is_exporting()  # for graphs of any length
    size = length if one_chunk else next((half for half in HALVES if half >= length), CHUNK)

    def chunks(x: Tensor, fill: float = 0.0) -> Tensor:
        return F.pad(x, (0, 0, 0, -length % size), value=fill).unflatten(2, (-1, size))  # B H C c F

    q, k, v = each(q, chunks), (chunks(k[0]), chunks(k[1], -torch.inf)), chunks(v)
    sums = summarize(k, v)
    before = list(accumulate(zip(sums[0].unbind(2), sums[1].unbind(2), strict=True), add, initial=start))
    top, total = (torch.stack(t, 2) for t in zip(*before[:-1], strict=True))
    if q[1].shape[-1] == 1:  # features without exponents
        within = [within_chunk(q, k, v)]
    else:
        within = [itself(q, k, v)] + [early_half(q, k, v, half) for half in HALVES if half < size]
    parts = [read(q, (top, total)), *within]
    peak = torch.stack([peak for _, peak in parts]).amax(0)
    y = torch.stack([y * (own - peak).exp() for y, own in parts]).sum(0)
    return y.flatten(2, 3)[:, :, :length], before[-1]


def positive(x: Tensor) -> Tensor:
    """elu(x) + 1, at least exp(-40)."""
    return torch.where(x > 0, x + 1, x.clamp(-40.0, 0.0).exp())


def half_attention(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, causal: bool) -> Tensor:
    """Linear attention in the dtype of v [B, H, M, P], which is half precision; sums over chunks are in float32.

    q [B, H, N, P], k [B, H, M, P]; their features are computed in float32, then rounded. keep [B, 1, M, 1] is False at
    padding.
    """
    length, half = q.shape[2], v.dtype
    q, k = positive(q.float()), positive(k.float())
    k = (k if keep is None else k.masked_fill(~keep, 0.0)).to(half)
    v = v.expand(*k.shape[:3], -1)
    q, k, v = (F.pad(x, (0, 0, 0, -x.shape[2] % CHUNK_HALF)).unflatten(2, (-1, CHUNK_HALF)) for x in (q.to(half), k, v))
    sums = (k.mT @ v).float(), k.sum(-2, keepdim=True, dtype=torch.float32)  # B H C F P and B H C 1 F
    if not causal:
        values, total = (x.sum(2, keepdim=True) for x in sums)
        y, norm = (q @ values.to(half)).float(), (q.float() * total).sum(-1, keepdim=True)
    else:
        before = [F.pad(x.cumsum(2)[:, :, :-1], (0, 0, 0, 0, 1, 0)) for x in sums]
        scores = (q @ k.mT).tril()
        y = (q @ before[0].to(half)).float() + scores @ v
        norm = (q.float() * before[1]).sum(-1, keepdim=True) + scores.sum(-1, keepdim=True, dtype=torch.float32)
    return (y / norm.masked_fill(norm == 0, 1.0)).to(half).flatten(2, 3)[:, :, :length]


fused_half_attention = Fused(half_attention)


def within_chunk(q: Features, k: Features, v: Tensor) -> tuple[Tensor, Tensor]:
    """`read` for queries that attend to the keys of their chunk up to their own; for features without exponents."""
    return (q[0] @ (k[0] * k[1].exp()).mT).tril() @ v, q[1]


def itself(q: Features, k: Features, v: Tensor) -> tuple[Tensor, Tensor]:
    """`read` for queries that attend to the key at the same position."""
    exponent = q[1] + k[1]
    peak = exponent.amax(-1, keepdim=True).detach().clamp(min=LOWEST)
    return (q[0] * k[0] * (exponent - peak).exp()).sum(-1, keepdim=True) * v, peak


def early_half(q: Features, k: Features, v: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """`read` for the late half of every `2 * half` tokens, which attends to the early half."""

    def side(late: int) -> Callable[[Tensor], Tensor]:
        return lambda t: t.unflatten(3, (-1, 2, half)).select(4, late)  # B H C b h F

    keys, top = shifted_keys(each(k, side(0)))
    queries, peak = shifted_queries(each(q, side(1)), top)
    y = queries @ keys.mT @ side(0)(v)
    blank = (0, 0, 0, 0, 1, 0)  # the early half attends to nothing
    y, peak = F.pad(y[:, :, :, :, None], blank), F.pad(peak[:, :, :, :, None], blank, value=LOWEST)
    return y.flatten(3, 5), peak.flatten(3, 5)
