"""Which source words the words of a target text attend to: cross-attention of an encoder-decoder, merged into words.

    found = align_words(model, "The dog sleeps.", "Der Hund schläft.")
    plot_alignment([found], path="alignment.png")

Attention weights are not a word alignment, but in trained translation models they resemble one, most of all in the
layers before the last (Garg et al. 2019, https://arxiv.org/abs/1909.02074).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.interpret.capture import capture
from zoo.interpret.plot import COLORS, DPI, save_figure
from zoo.interpret.select_layers import Layers
from zoo.models.eval_mode import eval_mode
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tokenizers import Encoding

INCHES_PER_WORD = 0.3


@dataclass(frozen=True, eq=False)
class Alignment:
    """Attention of target words to source words.

    Attributes:
        source: N words of the source text.
        target: T words of the target text.
        weights: [T, N]; each row sums to 1.
    """

    source: list[str]
    target: list[str]
    weights: Tensor


def align_words(model: Any, source: str, target: str, *, layers: Layers = "decoder.*.cross") -> Alignment:
    """The attention of the words of a target text to those of its source text.

    It is the mean over heads and layers of the cross-attention with which each target token was predicted: the sum over
    the tokens of a source word, and the mean over those of a target word. Special tokens are left out.

    Args:
        model: An encoder-decoder with its tokenizer.
        source: The source text.
        target: The target text, such as the translation that the model writes.
        layers: The layers, as in `zoo.capture`.

    Raises: ValueError for a text without words, for layers without attention weights, and for a tokenizer that does not
        say which tokens belong to a word (Marian's).
    """
    targets = model.preprocess.for_targets()
    batch, labels = model.preprocess(source), targets(target)["input_ids"]
    start = labels.new_full((1, 1), model.config.decoder_start_token_id)
    inputs = batch | {"decoder_input_ids": torch.cat([start, labels[:, :-1]], 1)}
    device = next(model.parameters()).device
    with eval_mode(model), torch.no_grad(), capture(model, layers=layers, reduce=lambda w: w.mean(1)) as maps:
        model(**{name: value.to(device) for name, value in inputs.items() if name in model.inputs})
    weights = torch.stack(list(maps.values())).mean(0)[0].float().cpu()  # [T, N] of tokens
    pairs = [(source, model.preprocess), (target, targets)]
    # truncated, as the model got them
    of_source, of_target = (words_of(text, processor.encode_each([text])[0][0]) for text, processor in pairs)
    columns = torch.stack([weights[:, tokens].sum(1) for _, tokens in of_source], 1)
    rows = torch.stack([columns[tokens].mean(0) for _, tokens in of_target])
    rows = rows / rows.sum(1, keepdim=True).clamp(min=1e-12)
    return Alignment([word for word, _ in of_source], [word for word, _ in of_target], rows)


def words_of(text: str, encoding: "Encoding") -> list[tuple[str, list[int]]]:
    """(word, indices of its tokens) of an encoded text, without special tokens; punctuation is a word if the tokenizer
    separates it. Raises ValueError if there are none, or if the encoding does not know them."""
    if not hasattr(encoding, "word_ids"):
        raise ValueError(
            "the tokenizer does not say which tokens belong to a word: zoo.capture(model, layers='decoder.*.cross') "
            "has the attention of single tokens"
        )
    tokens: dict[int, list[int]] = {}
    for index, word in enumerate(encoding.word_ids):
        if word is not None and not encoding.special_tokens_mask[index]:
            tokens.setdefault(word, []).append(index)
    places = [(encoding.offsets[own[0]][0], encoding.offsets[own[-1]][1], own) for own in tokens.values()]
    if not places:
        raise ValueError(f"{text!r:.60} has no words to align")
    return [(text[start:end].strip(), own) for start, end, own in places]


def plot_alignment(alignments: Sequence[Alignment], path: str | Path | None = None) -> "Figure":
    """Plot alignments side by side: target words down, source words to the right.

    Args:
        alignments: One or several, from `align_words`.
        path: PNG file to write.
    """
    if not alignments:
        raise ValueError("no alignments given: align_words makes one of a source and a target text")
    widths = [max(4, len(one.source)) for one in alignments]
    height = max(max(4, len(one.target)) for one in alignments)
    figure = make_figure(
        INCHES_PER_WORD * sum(widths) + 1.3 * len(alignments) + 0.8, INCHES_PER_WORD * height + 1.5, DPI
    )
    axes = figure.subplots(1, len(alignments), squeeze=False, width_ratios=widths)[0]
    for axis, one in zip(axes, alignments):
        shown = axis.imshow(one.weights, cmap=COLORS, vmin=0, vmax=1, interpolation="nearest")
        axis.set_xticks(range(len(one.source)), [label_text(word, 20) for word in one.source], rotation=90, fontsize=8)
        axis.set_yticks(range(len(one.target)), [label_text(word, 20) for word in one.target], fontsize=8)
        axis.xaxis.tick_top()
    bar = figure.colorbar(shown, ax=axes.tolist(), shrink=0.6, aspect=16, pad=0.02)
    bar.set_label("attention to the source word", fontsize=8)
    return save_figure(figure, path)
