"""Convolutional embedding of spectrograms: Whisper's stem."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.frontends.inputs import check_input_dtype, check_not_empty
from zoo.nn.init import Initializer, trunc_normal_
from zoo.nn.sinusoids import sinusoids

STRIDE = 2  # frames per token


class GELUConv(nn.Conv1d):
    """A convolution before a GELU, whose weights keep the variance of its input (He et al. 2015).

    With the smaller weights of other convolutions the clip would be a twentieth of the positions that are added to it,
    and a model that is trained from scratch does not begin to attend to it.
    """

    def initialize(self, generator_for: Initializer) -> None:
        trunc_normal_(self.weight, (2 / self.weight[0].numel()) ** 0.5, generator_for("weight"))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class ConvSpectrogramEmbedding(nn.Module):
    """Spectrograms [B, F, T] (frequency first) -> tokens [B, T / 2, D] (Radford et al. 2022, section 2.2).

    Two convolutions of 3 frames, each followed by a GELU, the second at a step of 2 frames; then sinusoidal positions,
    a table that is stored with the weights and not trained.
    """

    positions: Tensor

    def __init__(self, bins: int, frames: int, width: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if frames % STRIDE or frames < STRIDE:
            raise ValueError(f"frames={frames}: expected an even number of frames, two for each token")
        self.bins, self.frames, self.dropout = bins, frames, dropout
        self.conv1 = GELUConv(bins, width, 3, padding=1)
        self.conv2 = GELUConv(width, width, 3, stride=STRIDE, padding=1)
        self.register_buffer("positions", torch.empty(frames // STRIDE, width))

    def initialize(self, generator_for: Initializer) -> None:
        self.positions.copy_(sinusoids(len(self.positions), self.positions.shape[1], "halves_minus_one"))

    def forward(self, features: Tensor) -> Tensor:
        self.check(features)
        x = F.gelu(self.conv2(F.gelu(self.conv1(features))))
        x = x.mT + self.positions  # B N D
        return F.dropout(x, self.dropout) if self.training and self.dropout else x

    def check(self, features: Tensor) -> None:
        """Raise ValueError for inputs that are not spectrograms of the model's size."""
        if not isinstance(features, Tensor) or features.ndim != 3 or tuple(features.shape[1:]) != (
            self.bins, self.frames
        ):  # fmt: skip
            found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"expected spectrograms [B, {self.bins} mel bins, {self.frames} frames], got {found}; use "
                "model.preprocess(audio), which pads a clip with silence, or change the input size with frames= and "
                "mel_bins= of create_model"
            )
        check_not_empty(features, "input_features")
        if isinstance(self.conv1, nn.Conv1d):  # optimized models convert their inputs
            check_input_dtype("input_features", features, self.positions)
