"""A short convolution over the tokens: what a model needs to see the token before, without attention."""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.context import Context
from zoo.nn.core import check_positive
from zoo.nn.kv_cache import LayerState, RecurrentState, State
from zoo.nn.mixers.base import Mixer, MixerConfig, mixer
from zoo.nn.mixers.causal_conv import causal_conv
from zoo.nn.mixers.directions import padding_behind
from zoo.nn.mixers.recurrences import kept_tokens


@mixer("short_conv")
class ShortConvolution(Mixer):
    """`out(conv(input(x)))`, with a filter of `kernel` tokens for each channel (Fu et al. 2023, H3,
    https://arxiv.org/abs/2212.14052; Arora et al. 2023, https://arxiv.org/abs/2312.04927).

    A causal one sees the token itself and the kernel - 1 before it, another one the tokens around it. It knows nothing
    of tokens farther away: combine it with attention or another mixer, `mixer=["short_conv", "attention"]`.

    Raises: ValueError for a kernel below 2, and for an even one without causality, which has no middle.
    """

    def __init__(self, spec: MixerConfig, kernel: int = 3) -> None:
        super().__init__(spec)
        check_positive(kernel=kernel)
        if kernel < 2 or not (spec.causal or kernel % 2):
            odd = "" if spec.causal else " and odd in a model that is not causal"
            raise ValueError(f"short_conv: kernel={kernel}: expected at least 2{odd}")
        self.kernel, bias = kernel, spec.block.bias
        self.masks_padding = not spec.causal  # causal rows arrive with their padding behind the real tokens
        self.input = nn.Linear(spec.width, spec.width, bias)
        self.conv = nn.Conv1d(spec.width, spec.width, kernel, groups=spec.width, bias=False)
        self.out = nn.Linear(spec.width, spec.width, bias)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x, keep = self.input(x), None if self.spec.causal else kept_tokens(context, x.shape[1])
        if keep is not None:
            return self.out(padding_behind(lambda rows: self.convolve(rows, None), x, keep))
        return self.out(self.convolve(x, state))

    def convolve(self, x: Tensor, state: LayerState | None) -> Tensor:
        """The convolution of rows without padding, or with padding behind the real tokens."""
        cache = None if state is None else state.mixer
        assert cache is None or isinstance(cache, RecurrentState)
        after = 0 if self.spec.causal else self.kernel // 2  # tokens after each one that it sees
        x = F.pad(x, (0, 0, 0, after))
        y, tokens = causal_conv(self.conv, x, None if cache is None else cache["tokens"])
        if cache is not None:
            cache.update(tokens=tokens)
        return y[:, after:]

    def new_state(self, batch: int, capacity: int, like: Tensor) -> State:
        """The last kernel - 1 tokens, at first zeros."""
        return RecurrentState(tokens=like.new_zeros(batch, self.kernel - 1, self.spec.width))
