"""Where in an image the words of its caption come from: cross-attention of a captioner, for each word.

    found = ground_words(model, "image.png")                     # the words of the caption that the model writes
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

from zoo.inference.generation.generate import generate
from zoo.interpret.attention_maps import rollout
from zoo.interpret.capture import capture
from zoo.interpret.gradient_maps import gradient_maps
from zoo.interpret.plot import DPI, load_images, rgb, save_figure
from zoo.interpret.select_layers import Layers, find_layers
from zoo.models.eval_mode import eval_mode
from zoo.utils.errors import check_choice
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["attention", "rollout", "gradient"]
METHODS: tuple[Method, ...] = ("attention", "rollout", "gradient")
CROSS = "decoder.*.cross"
WORDS = 12  # of a caption that are plotted
DIMMED = 0.2  # brightness of pixels without attention
LONGEST = 64  # tokens of a caption that the model writes


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


def ground_words(
    model: Any,
    image: Any,
    text: str | Sequence[int] | None = None,
    *,
    method: Method = "attention",
    layers: Layers = CROSS,
) -> Grounding:
    """The patches of an image that the words of a text come from, in a model whose decoder attends to its image.

    Args:
        model: A captioner with its processor, such as BLIP.
        image: A PIL image, a path, or uint8 [3, H, W].
        text: The caption, or its tokens. Default: the one that the model writes, of whose tokens the attention is the
            one that wrote them.
        method: "attention": the cross-attention with which the tokens of a word were predicted, mean over heads and
            layers. "rollout": the same, followed through the layers of the encoder to the patches (Abnar and Zuidema
            2020). "gradient": cross-attention weighted by the positive gradients of the scores of these tokens (Chefer
            et al. 2021).
        layers: The layers of cross-attention, as in `zoo.capture`. Default: all.

    Raises: ValueError for a text without words, another method, and a model without cross-attention to images.
    """
    check_choice("method", method, METHODS)
    seen = seen_by(model, image)
    if text is None:
        text = write_caption(model, seen)
    ids = token_ids(model, text) if isinstance(text, str) else list(text)
    if not (words := words_of_tokens(model, ids)):
        raise ValueError(f"the caption {text!r:.60} has no words: expected one such as 'a red circle'")
    batch = pixels_of(model, seen)
    # each row predicts the token of its number
    start = [model.config.decoder_start_token_id, *ids[:-1]]
    batch["input_ids"] = torch.tensor([start], device=batch["pixel_values"].device)
    if method == "gradient":
        rows = by_gradient(model, batch, ids, [tokens for _, tokens in words], layers)
    else:
        attended = by_attention(model, batch, method, layers)
        rows = torch.stack([attended[tokens].mean(0) for _, tokens in words])
    grid = model.encoder.tokens.grid
    patches = rows[:, -grid[0] * grid[1] :].float().cpu()  # without the class token
    maps = patches / patches.sum(1, keepdim=True).clamp(min=1e-12)
    return Grounding(seen, [word for word, _ in words], maps.unflatten(1, grid))


def seen_by(model: Any, image: Any) -> Tensor:
    """An image as the model sees it, uint8 [3, H, W].

    Raises: ValueError for a model without cross-attention to images.
    """
    if not has_cross_attention(model):
        raise ValueError(f"{type(model).__name__} has no decoder that attends to the patches of an image: expected a "
                         f"captioner, such as blip")  # fmt: skip
    return load_images(model, [image] if not isinstance(image, Tensor) else image)[0]


def has_cross_attention(model: Any) -> bool:
    """Whether a model has a decoder that attends to the patches of an image."""
    return hasattr(getattr(getattr(model, "encoder", None), "tokens", None), "grid")


def pixels_of(model: Any, image: Tensor) -> dict[str, Tensor]:
    """The model's input of an image, uint8 [3, H, W]."""
    pixels: Tensor = model.preprocess.image(to_pil(image))["pixel_values"]
    return {"pixel_values": pixels.to(next(model.parameters()).device)}


def token_ids(model: Any, text: str) -> list[int]:
    """The tokens of a caption, without the special ones around it."""
    found: list[int] = model.preprocess.text.backend.encode(text, add_special_tokens=False).ids
    return found


def write_caption(model: Any, image: Tensor) -> list[int]:
    """The tokens of the caption that the model writes by greedy decoding, without the start and the end token."""
    c = model.config
    ends = {c.pad_token_id, *(c.eos_token_id if isinstance(c.eos_token_id, tuple) else (c.eos_token_id,))}
    pixels: dict[str, Any] = dict(pixels_of(model, image))
    written = generate(model, **pixels, num_beams=1, max_new_tokens=min(LONGEST, c.max_length - 1))
    ids: list[int] = written[0, 1:].tolist()
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]


def words_of_tokens(model: Any, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """(word, indices of its tokens) of a caption, split where its text has spaces."""
    found: list[tuple[str, list[int]]] = []
    before = ""
    for i in range(len(ids)):
        text = model.preprocess.text.decode(ids[: i + 1])
        piece = text[len(before) :]
        if not found or piece[:1].isspace():
            found.append(("", []))
        found[-1] = (found[-1][0] + piece, [*found[-1][1], i])
        before = text
    return [(word.strip(), tokens) for word, tokens in found if word.strip()]


def by_attention(model: Any, batch: dict[str, Tensor], method: Method, layers: Layers) -> Tensor:
    """The attention of each token [T, M] to the tokens of the encoder, or by rollout to those of its first layer."""
    inner = {name for name, _ in find_layers(model, "encoder.*.mixer").found} if method == "rollout" else set()
    cross = [name for name, _ in find_layers(model, layers).found]
    with eval_mode(model), torch.no_grad(), capture(model, layers=[*cross, *inner]) as maps:
        model(**batch)
    found = torch.stack([maps[name].mean(1)[0] for name in cross]).mean(0)
    if method == "attention":
        return found
    return found @ rollout([w for name, w in maps.items() if name in inner])[0]


def by_gradient(
    model: Any, batch: dict[str, Tensor], ids: Sequence[int], words: Sequence[Sequence[int]], layers: Layers
) -> Tensor:
    """The attention [W, M] of the tokens of each word, weighted by the gradient of their scores."""

    def score(logits: Tensor) -> Tensor:
        return torch.stack([logits[row, i, ids[i]] for row, tokens in enumerate(words) for i in tokens]).sum()

    rows = {name: x.expand(len(words), *x.shape[1:]) for name, x in batch.items()}  # one for each word
    maps = torch.stack([w.mean(1) for w in gradient_maps(model, score, layers=layers, **rows).values()]).mean(0)
    return torch.stack([maps[row, list(tokens)].mean(0) for row, tokens in enumerate(words)])


def to_pil(image: Tensor) -> Any:
    """uint8 [C, H, W] -> a PIL image."""
    from PIL import Image

    return Image.fromarray(rgb(image))


def plot_grounding(
    groundings: Sequence[Grounding],
    path: str | Path | None = None,
    *,
    references: Sequence[Sequence[str]] | None = None,
) -> "Figure":
    """Plot images, one in each row, with the map of each word of its caption over it.

    The image is bright where the attention is; a circle marks its maximum. Captions of more than 12 words are cut.

    Args:
        groundings: One or several, from `ground_words`.
        path: PNG file to write.
        references: The right captions of each image: one that is none of them is marked.
    """
    if not groundings:
        raise ValueError("no groundings given: ground_words makes one of an image and its caption")
    columns = 1 + max(min(len(one.words), WORDS) for one in groundings)
    figure = make_figure(max(1.15 * columns, 4.2), 1.4 * len(groundings) + 0.45, DPI)
    axes = figure.subplots(len(groundings), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for number, (row, one) in enumerate(zip(axes, groundings)):
        image = torch.as_tensor(rgb(one.image)).float() / 255  # [H, W, 3]
        right = references is None or " ".join(one.words) in references[number]
        row[0].imshow(image, interpolation="nearest")
        row[0].set_title("image" if right else "wrong caption", fontsize=9, color="black" if right else "firebrick")
        for column, (axis, word, heat) in enumerate(zip(row[1:], one.words, one.maps)):
            heat = heat / heat.max().clamp(min=1e-12)
            light = F.interpolate(heat[None, None], size=image.shape[:2], mode="nearest")[0, 0, :, :, None]
            axis.imshow(image * light + (1 - light) * DIMMED * image, interpolation="nearest")
            x, y = one.peak([column])
            axis.plot(x - 0.5, y - 0.5, "o", markersize=8, markerfacecolor="none", markeredgecolor="magenta")
            axis.set_title(label_text(word, 14), fontsize=9)
    figure.suptitle("Bright: where each word attends to; circle: its maximum", fontsize=9)
    return save_figure(figure, path)
