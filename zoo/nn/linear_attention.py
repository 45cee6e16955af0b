"""Linear attention: phi(q) (phi(k)^T v), normalized. Subclasses define the feature map phi.

A feature is a plain number, or a product factor * exp(exponent). The exponents of keys are shifted by the maximum of
each feature over the keys, and those of a query, which has this maximum added back, by its maximum over the features:
the shifts cancel in the normalization, and the greatest term of each denominator is 1, however large q and k are.

Long sequences are computed in segments of tokens, whose temporaries stay in the cache of a CPU; under a causal mask a
segment continues from the sums of those before, which are also the cache for decoding (see `linear_chunks.py`).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.nn.core import CoreSpec, attention, check_positive
from zoo.nn.exporting import is_exporting
from zoo.nn.fused import Fused
from zoo.nn.init import Initializer, orthogonal_gaussian
from zoo.nn.kv_cache import LinearAttentionState, State, own_memory
from zoo.nn.linear_chunks import Features, add, causal_exponents, causal_sums, read, segments, summarize
from zoo.nn.masks import AnyMask
from zoo.nn.position_biases import AnyBias
from zoo.nn.recurrent_core import RecurrentCore
from zoo.nn.sdpa import HALF, repeat_kv

CHUNK_HALF = 128  # of products in half precision on a GPU
COMPILE_ENTRIES = 1 << 22  # of q: for fewer, compiling costs seconds and saves microseconds


@attention("linear")
class LinearAttention(RecurrentCore):
    """Katharopoulos et al. 2020: phi(x) = elu(x) + 1, and at least exp(-40), so that no denominator is zero.

    The attention weights are never computed, so attention dropout drops a value for all queries of a head at once, with
    the same expectation.
    """

    def phi(self, x: Tensor) -> Tensor | Features:
        """Feature map [B, H, N, P] -> [B, H, N, F]: features, or (factor, exponent) where exponents may be large."""
        return positive(x)

    def num_features(self) -> int:
        return self.spec.head_dim

    def features(self, x: Tensor, keep: Tensor | None = None) -> Tensor | Features:
        """phi of queries or of keys; keep [B, 1, M, 1] is False at padding, which has the features zero."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # sums over a sequence: not in half precision
        phi = self.phi(x.contiguous())  # else each product keeps a copy of its own for the gradient
        if keep is None:
            return phi
        if isinstance(phi, Tensor):
            return phi.masked_fill(~keep, 0.0)
        return phi[0], phi[1].masked_fill(~keep, -torch.inf)

    def weights(self, q: Tensor, k: Tensor, mask: AnyMask = None, bias: AnyBias = None) -> Tensor:
        """Attention weights [B, H, N, M]: the outputs for the unit vectors as values."""
        return self.attend(q, k, torch.eye(k.shape[2], dtype=q.dtype, device=q.device)[None, None], mask, bias)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: AnyMask, bias: AnyBias, state: State | None = None
    ) -> Tensor:
        """Outputs for values v [B, H, M, E], without dropout. With a state, k and v are those of new tokens."""
        assert state is None or isinstance(state, LinearAttentionState)
        causal, keep = self.parse_mask(mask, bias, q.shape[2], k.shape[2] + (0 if state is None else state.length))
        self.check_decoding(causal, state)
        if not q.shape[2] or not k.shape[2]:  # no queries, or nothing to attend to
            return v.new_zeros(*q.shape[:3], v.shape[-1])
        keep = None if keep is None else keep[:, :, -k.shape[2] :]
        k, v = repeat_kv(k, q.shape[1]), v.expand(q.shape[0], q.shape[1], -1, -1)
        if state is None and self.products_in_half(q) and (not causal or q.shape[2] == k.shape[2]):
            attention = fused_half_attention if q.numel() >= COMPILE_ENTRIES else half_attention
            return attention(q, k, v, keep, causal)
        early = k.shape[2] - q.shape[2] if causal else k.shape[2]  # keys that all queries see
        kept = state is not None
        if state is None:
            like = q.new_empty(0, dtype=torch.promote_types(v.dtype, q.dtype))
            state = LinearAttentionState(q.shape[0], q.shape[1], self.num_features(), v.shape[-1], like)
        entries = q.shape[0] * q.shape[1] * self.num_features()
        if early:
            seen = [x if x is None or not causal else x[:, :, :early] for x in (k, v, keep)]
            for k_part, v_part, keep_part in segments(entries, *seen):
                self.add_keys(k_part, v_part, keep_part, state)
        new = [x if x is None or not early else x[:, :, early:] for x in (k, v, keep)] if causal else [None] * 3
        outputs = []
        for q_part, k_part, v_part, keep_part in segments(entries, q, *new):
            y = self.continued(q_part, k_part, v_part, keep_part, state) if causal else self.read_sums(q_part, state)
            outputs.append(y.to(v.dtype))
        state.length += q.shape[2]
        if kept:
            state.top, state.sum = own_memory(state.top), own_memory(state.sum)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)

    def add_keys(self, k: Tensor, v: Tensor, keep: Tensor | None, state: LinearAttentionState) -> None:
        """Add keys and values that all later queries see to the sums."""
        phi, values = self.features(k, keep), with_ones(v, state)
        if isinstance(phi, Tensor):
            state.sum = state.sum + phi.mT @ values
        else:
            state.top, state.sum = add((state.top, state.sum), summarize(phi, values))

    def read_sums(self, q: Tensor, state: LinearAttentionState) -> Tensor:
        """Outputs of queries that see all keys of the sums."""
        phi = self.features(q)
        y = phi @ state.sum if isinstance(phi, Tensor) else read(phi, (state.top, state.sum))
        return normalize(y[..., :-1], y[..., -1:])

    def continued(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None, state: LinearAttentionState) -> Tensor:
        """Outputs of new tokens, each of which sees those before and the sums, to which they are added."""
        if q.shape[2] == 1:  # decoding
            self.add_keys(k, v, keep, state)
            return self.read_sums(q, state)
        phi_q, phi_k = self.features(q), self.features(k, keep)
        if isinstance(phi_q, Tensor) or isinstance(phi_k, Tensor):
            assert isinstance(phi_q, Tensor) and isinstance(phi_k, Tensor)
            y, total, state.sum = causal_sums(phi_q, phi_k, v.to(phi_k.dtype).contiguous(), state.sum)
            return normalize(y, total)
        y, (state.top, state.sum) = causal_exponents(phi_q, phi_k, with_ones(v, state), (state.top, state.sum))
        return normalize(y[..., :-1], y[..., -1:])

    def products_in_half(self, q: Tensor) -> bool:
        """Whether products are in half precision, with sums over chunks of tokens in float32: on GPUs, for features
        that are positive and have no exponents."""
        return q.is_cuda and q.dtype in HALF and type(self).phi is LinearAttention.phi

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        return LinearAttentionState(batch, self.spec.heads, self.num_features(), self.spec.head_dim, like)


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
        return None, exponent


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


def with_ones(v: Tensor, state: LinearAttentionState) -> Tensor:
    """[B, H, M, P] -> [B, H, M, P + 1]: the ones accumulate the denominator."""
    return F.pad(v.to(state.sum.dtype), (0, 1), value=1.0)


def normalize(y: Tensor, total: Tensor) -> Tensor:
    """Numerator [B, H, N, P] divided by denominator [B, H, N, 1], zeros where all keys are masked."""
    return y * total.masked_fill(total == 0, 1.0).reciprocal()


class Positive(torch.autograd.Function):
    """`positive`, whose gradient needs no tensor but its result, which the products keep anyway."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.maximum(x + 1, x.clamp(-40.0, 0.0).exp_())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0].clamp(max=1.0)


def positive(x: Tensor) -> Tensor:
    """elu(x) + 1, at least exp(-40)."""
    if is_exporting():
        return torch.maximum(x + 1, x.clamp(-40.0, 0.0).exp())
    y: Tensor = Positive.apply(x)
    return y


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
