"""Which times of a clip the tokens of its transcript attend to: the cross-attention of Whisper.

found = align_audio(model, "talk.wav", "three green boxes")
plot_audio_alignment([found], path="alignment.png")
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
from zoo.models.whisper.transcript_tokens import TranscriptTokens
from zoo.preprocessing.audio import name_of
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, INCHES_PER_TOKEN, SPECTROGRAM = 4.6, 0.22, 1.3  # inches of a clip, of a token, height of a spectrogram


@dataclass(frozen=True, eq=False)
class AudioAlignment:
    """Attention of the tokens of a transcript to the times of a clip.

    Attributes:
        tokens: T tokens of the transcript.
        weights: [T, N], of N positions of the encoder from the start to the end of the clip, without the silence that
            pads it; each row sums to at most 1.
        spectrogram: [F, 2 N], two frames for each position, fewer at the end of the model's input.
        seconds: Length of the clip.
    """

    tokens: list[str]
    weights: Tensor
    spectrogram: Tensor
    seconds: float

    @property
    def centers(self) -> Tensor:
        """The mean time in seconds that each token attends to [T]."""
        steps = self.weights.shape[1]
        times = (torch.arange(steps) + 0.5) * self.seconds / steps
        return (self.weights * times).sum(1) / self.weights.sum(1).clamp(min=1e-12)


def align_audio(
    model: Any,
    audio: Any,
    text: str,
    *,
    sampling_rate: int | None = None,
    language: str = "",
    layers: Layers = "decoder.*.cross",
) -> AudioAlignment:
    """The attention of the tokens of a transcript to the times of its clip.

    It is the mean over heads and layers of the cross-attention with which each token was predicted. Special tokens are
    left out.

    Args:
        model: A Whisper with its tokenizer.
        audio: One clip, as `model.preprocess` takes it.
        text: The transcript, such as the one that the model writes.
        sampling_rate: Of samples without one.
        language: Code or name, for a model of several languages.
        layers: The layers, as in `zoo.capture`.

    Raises: ValueError for a text without tokens, and for layers without attention weights; AudioError as in
        `model.preprocess`.
    """
    processor, encoder = model.preprocess, TranscriptTokens.of(model, language)
    wave = processor.load(audio, name_of(audio, 0), sampling_rate)
    features = processor((wave, processor.sampling_rate))["input_features"]
    labels = encoder.encode(text)[: model.config.max_length]  # of a longer text, the tokens that the model reads
    first, last = len(encoder.prefix), len(labels) - 1
    if first == last:
        raise ValueError(f"{text!r:.60} has no tokens to align")
    ids = torch.tensor([[encoder.start, *labels[:-1]]], device=model.device)
    with eval_mode(model), torch.no_grad(), capture(model, layers=layers, reduce=lambda w: w.mean(1)) as maps:
        model(input_features=features.to(model.device, model.dtype), decoder_input_ids=ids)
    weights = torch.stack(list(maps.values())).mean(0)[0].float().cpu()  # [tokens, positions]
    share = len(wave) / processor.max_samples
    steps = max(1, min(weights.shape[1], round(share * weights.shape[1])))
    decode = processor.text_processor.decode
    tokens = [decode([label]).strip() or " " for label in labels[first:last]]
    return AudioAlignment(tokens, weights[first:last, :steps], features[0, :, : 2 * steps],
                          len(wave) / processor.sampling_rate)  # fmt: skip


def plot_audio_alignment(alignments: Sequence[AudioAlignment], path: str | Path | None = None) -> "Figure":
    """Plot alignments side by side: spectrograms, and below them the attention of the tokens to their times.

    Args:
        alignments: One or several, from `align_audio`.
        path: PNG file to write.
    """
    if not alignments:
        raise ValueError("no alignments given: align_audio makes one of a clip and its transcript")
    height = INCHES_PER_TOKEN * max(max(5, len(one.tokens)) for one in alignments)
    figure = make_figure(WIDE * len(alignments) + 0.8, SPECTROGRAM + height + 0.9, DPI)
    axes = figure.subplots(2, len(alignments), squeeze=False, height_ratios=[SPECTROGRAM, height])
    for above, below, one in zip(axes[0], axes[1], alignments):
        extent = (0.0, one.seconds)
        shape: dict[str, Any] = dict(aspect="auto", interpolation="nearest")
        above.imshow(one.spectrogram, cmap="magma", origin="lower", extent=(*extent, 0, len(one.spectrogram)), **shape)
        above.set(xticks=[], yticks=[])
        above.set_ylabel("mel bins", fontsize=8)
        most = max(float(one.weights.max()), 1e-6)
        shown = below.imshow(one.weights, cmap=COLORS, vmin=0, vmax=most, extent=(*extent, len(one.tokens), 0), **shape)
        below.set_yticks([i + 0.5 for i in range(len(one.tokens))], [label_text(token, 16) for token in one.tokens])
        below.tick_params(labelsize=8)
        below.set_xlabel("seconds", fontsize=8)
    bar = figure.colorbar(shown, ax=axes[1].tolist(), shrink=0.8, aspect=12, pad=0.02)
    bar.set_ticks([0, most], labels=["0", "most"], fontsize=7)
    bar.set_label("attention", fontsize=8)
    return save_figure(figure, path)
