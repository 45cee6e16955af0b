"""Spectrograms to tokens: patches over frequency and time, which may overlap."""

from torch import Tensor

from zoo.nn.frontends.image import PatchEmbedding


class SpectrogramEmbedding(PatchEmbedding):
    """[B, T, F] (time first, as feature extractors give it) -> tokens [B, prefix + rows * columns, D].

    Rows of patches run along frequency, columns along time, `stride` apart (Gong et al. 2021: 16 x 16, every 10).
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

    def checked(self, pixels: Tensor, sized: bool = True) -> Tensor:
        """[B, T, F] -> [B, 1, F, T], refused where it cannot fit."""
        bins, frames = self.image_size
        if pixels.ndim != 3 or tuple(pixels.shape[1:]) != (frames, bins):
            raise ValueError(
                f"expected spectrograms [B, {frames} frames, {bins} mel bins], given {tuple(pixels.shape)}; "
                "model.preprocess(sounds) makes them, and max_length= and mel_bins= of create_model or load change "
                "what the model takes"
            )
        return pixels.mT[:, None]
