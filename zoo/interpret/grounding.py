"""Where in an image the words of its caption come from: cross-attention of a captioner, for each word.

    found = ground_words(model, "image.png", "a red circle above a blue square")
    plot_grounding([found], path="grounding.png")

Attention weights show how values are mixed; they do not explain a caption. Three ways to read them are given, which
agree in a trained model as far as they are right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.interpret.alignment import words_of
from zoo.interpret.attention_maps import rollout
from zoo.interpret.capture import capture
from zoo.interpret.gradient_maps import gradient_maps
from zoo.interpret.plot import COLORS, DPI, load_images, rgb, save_figure
from zoo.models.eval_mode import eval_mode
from zoo.utils.errors import check_choice
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["attention", "rollout", "gradient"]
METHODS: tuple[Method, ...] = ("attention", "rollout", "gradient")
CROSS = "decoder.*.cross"


@dataclass(frozen=True, eq=False)
class Grounding:
    """The words of a caption over the patches of its image.

    Attributes:
        image: uint8 [3, H, W], as the model sees it.
        words: W words of the caption.
        maps: [W, rows, columns]; each map sums to 1, or is zero where nothing speaks for the word.
    """

    image: Tensor
    words: list[str]
    maps: Tensor

    def peak(self, words: Sequence[int]) -> tuple[float, float]:
        """(x, y) in pixels: the center of the patch with the greatest sum over some words, by their indices."""
        rows, columns = self.maps.shape[1:]
        place = int(self.maps[list(words)].sum(0).argmax())
        height, width = self.image.shape[1:]
        return (place % columns + 0.5) * width / columns, (place // columns + 0.5) * height / rows


def ground_words(model: Any, image: Any, text: str, *, method: Method = "attention") -> Grounding:
    """The patches of an image that the words of a text come from, in a model whose decoder attends to its image.

    Args:
        model: A captioner with its processor, such as BLIP.
        image: A PIL image, a path, or uint8 [3, H, W].
        text: The caption, such as the one that the model writes.
        method: "attention": the cross-attention with which the tokens of a word were predicted, mean over heads and
            layers. "rollout": the same, followed through the layers of the encoder to the patches (Abnar and Zuidema
            2020). "gradient": cross-attention weighted by the positive gradients of the scores of these tokens (Chefer
            et al. 2021), one backward pass for each word.

    Raises: ValueError for a text without words, another method, and a model without cross-attention to images.
    """
    check_choice("method", method, METHODS)
    if not hasattr(getattr(getattr(model, "encoder", None), "tokens", None), "grid"):
        raise ValueError(f"{type(model).__name__} has no decoder that attends to the patches of an image: expected a "
                         f"captioner, such as blip")  # fmt: skip
    seen = load_images(model, [image] if not isinstance(image, Tensor) else image)[0]
    tokenizer = model.preprocess.text
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    device = next(model.parameters()).device
    # each row predicts the token of its number
    inputs = torch.tensor([[model.config.decoder_start_token_id, *ids[:-1]]], device=device)
    pixels = model.preprocess.image(to_pil(seen))["pixel_values"].to(device)
    batch = {"pixel_values": pixels, "input_ids": inputs}
    words = words_of(text, tokenizer.encode_each([text])[0][0])
    if method == "gradient":
        rows = [by_gradient(model, batch, ids, tokens) for _, tokens in words]
    else:
        attended = by_attention(model, batch, method)
        rows = [attended[tokens].mean(0) for _, tokens in words]
    grid = model.encoder.tokens.grid
    patches = torch.stack(rows)[:, -grid[0] * grid[1] :].float().cpu()  # without the class token
    maps = patches / patches.sum(1, keepdim=True).clamp(min=1e-12)
    return Grounding(seen, [word for word, _ in words], maps.unflatten(1, grid))


def by_attention(model: Any, batch: dict[str, Tensor], method: Method) -> Tensor:
    """The attention of each token [T, M] to the tokens of the encoder, or by rollout to those of its first layer."""
    layers = [CROSS, "encoder.*.mixer"] if method == "rollout" else [CROSS]
    with eval_mode(model), torch.no_grad(), capture(model, layers=layers) as maps:
        model(**batch)
    cross = torch.stack([w.mean(1)[0] for name, w in maps.items() if name.endswith("cross")]).mean(0)
    if method == "attention":
        return cross
    return cross @ rollout([w for name, w in maps.items() if name.startswith("encoder")])[0]


def by_gradient(model: Any, batch: dict[str, Tensor], ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """The attention [M] of the tokens of a word, weighted by the gradient of their scores."""

    def score(logits: Tensor) -> Tensor:
        return torch.stack([logits[0, i, ids[i]] for i in tokens]).sum()

    maps = gradient_maps(model, score, layers=CROSS, **batch)
    return torch.stack([w[0].mean(0)[list(tokens)].mean(0) for w in maps.values()]).mean(0)


def to_pil(image: Tensor) -> Any:
    """uint8 [C, H, W] -> a PIL image."""
    from PIL import Image

    return Image.fromarray(rgb(image))


def plot_grounding(groundings: Sequence[Grounding], path: str | Path | None = None) -> "Figure":
    """Plot images, one in each row, with the map of each word of its caption over it.

    Args:
        groundings: One or several, from `ground_words`.
        path: PNG file to write.
    """
    if not groundings:
        raise ValueError("no groundings given: ground_words makes one of an image and its caption")
    columns = 1 + max(len(one.words) for one in groundings)
    figure = make_figure(1.15 * columns, 1.4 * len(groundings), DPI)
    axes = figure.subplots(len(groundings), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, one in zip(axes, groundings):
        size = one.image.shape[1:]
        row[0].imshow(rgb(one.image), interpolation="nearest")
        for axis, word, heat in zip(row[1:], one.words, one.maps):
            shown = F.interpolate(heat[None, None], size=size, mode="nearest")[0, 0]
            axis.imshow(one.image.float().mean(0), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.imshow(shown, cmap=COLORS, alpha=0.65, vmin=0, interpolation="nearest")
            axis.set_title(label_text(word, 14), fontsize=8)
    return save_figure(figure, path)
