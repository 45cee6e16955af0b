"""Patch embedding of spectrograms, over frequency and time, with overlapping patches."""

from torch import Tensor

from zoo.nn.frontends.image import PatchEmbedding
from zoo.nn.frontends.inputs import check_input_dtype


class SpectrogramEmbedding(PatchEmbedding):
    """Spectrograms [B, T, F] (time first) -> tokens [B, prefix + rows * columns, D].

    Rows of patches run along frequency and columns along time, at a step of `stride` (Gong
    et al. 2021: 16 x 16 at a step of 10).
    """

    def __init__(
        self,
        bins: int,
        frames: int,
        patch_size: tuple[int, int],
        stride: tuple[int, int],
        width: int,
        *,
        class_token: bool = True,
        distilled: bool = False,
    ) -> None:
        super().__init__(
            (bins, frames), patch_size, 1, width, stride=stride, class_token=class_token, distilled=distilled
        )

    def check_pixels(self, pixels: Tensor, sized: bool = True) -> Tensor:
        """Check the shape; [B, T, F] -> [B, 1, F, T]."""
        bins, frames = self.image_size
        if pixels.ndim != 3 or tuple(pixels.shape[1:]) != (frames, bins):
            raise ValueError(
                f"expected spectrograms [B, {frames} frames, {bins} mel bins], got {tuple(pixels.shape)}; use "
                "model.preprocess(audio), or change the input size with max_length= and mel_bins= of create_model or "
                "load"
            )
        check_input_dtype("input_values", pixels, self.positions)
        return pixels.mT[:, None]
