"""Data module of sentences with tags: their tokens in windows, with a label at the first token of each word."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.text.datamodule import TokenDataset
from zoo.data.text.tagged import TaggedSentences
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.text_windows import encode_windows, owned_tokens
from zoo.utils.console import announce

if TYPE_CHECKING:
    from tokenizers import Encoding


@dataclass
class _Windows:
    """The windows of sentences, as rows. lost: words without a token."""

    ids: list[list[int]] = field(default_factory=list)
    types: list[list[int]] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    sentences: list[int] = field(default_factory=list)
    split: int = 0
    lost: list[str] = field(default_factory=list)

    def add(self, sentence: int, words: Sequence[str], tags: Sequence[int], windows: "Sequence[Encoding]") -> None:
        """Add the windows of a sentence; each word has its label in one of them."""
        self.split += len(windows) > 1
        word, end, labeled = -1, -1, set()
        ends = []
        for text in words:
            end += 1 + len(text)
            ends.append(end)
        for window, owned in zip(windows, owned_tokens(windows)):
            labels = [IGNORED] * len(window)
            for i in owned:
                start, stop = window.offsets[i]
                while word + 1 < len(words) and ends[word + 1] <= start:
                    word += 1
                at = word + 1  # the first word that ends after the start of the token
                if at < len(words) and stop > ends[at] - len(words[at]) and at not in labeled:
                    labels[i] = tags[at]
                    labeled.add(at)
            self.ids.append(window.ids)
            self.types.append(window.type_ids)
            self.labels.append(labels)
            self.sentences.append(sentence)
        self.lost += [text for at, text in enumerate(words) if at not in labeled]


class TaggedTokens(TokenDataset):
    """Dataset of the tokens of sentences with tags; a sentence that is too long is several rows.

    Batches: those of `TokenDataset`, with `labels` [B, N]: the tag at the first token of each word, -100 elsewhere; and
    `sentence` [B], the index of the sentence that a row is from.
    """

    def __init__(self, part: TaggedSentences, preprocess: TextProcessor) -> None:
        rows = _Windows()
        for i, windows in enumerate(encode_windows(preprocess, part.texts)):
            rows.add(i, part.words[i], part.tags[i], windows)
        super().__init__(rows.ids, pad=preprocess.id("pad") or 0, types=rows.types if preprocess.types else None)
        self.token_labels = torch.tensor([label for row in rows.labels for label in row])
        self.sentences = torch.tensor(rows.sentences)
        self.split, self.lost = rows.split, rows.lost

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        batch = super().__getitems__(keys)
        real = batch["attention_mask"].bool()
        labels = torch.full(real.shape, IGNORED)
        rows = batch["index"].tolist()
        parts = [self.token_labels[start : start + length] for start, length in
                 zip(self.starts[rows].tolist(), self.lengths[rows].tolist())]  # fmt: skip
        labels[real] = torch.cat(parts)
        return batch | {"labels": labels, "sentence": self.sentences[batch["index"]]}


class TokenClassificationDataModule(KeyedDataModule):
    """Data module of sentences with tags; see `TaggedTokens` for its batches.

    Sentences with more than `preprocess.max_length` tokens are split into windows that overlap, as at prediction; each
    word has its label in the window that sees it with the most context. How many there are is printed.

    Args:
        splits: Dataset splits from `load_tagged`.
        preprocess: Tokenizer of the model, `model.preprocess`.
        batch_size: Windows per optimizer step, summed over all devices and accumulation steps.
        options: Options of `KeyedDataModule`.

    Raises: ValueError for a maximum length without room for a text.
    """

    items = "windows"

    def __init__(self, splits: Splits[TaggedSentences], preprocess: TextProcessor, batch_size: int = 32, *,
                 group_by_length: bool = True, **options: Any) -> None:  # fmt: skip
        super().__init__(splits, batch_size, dataset=lambda part, training: TaggedTokens(part, preprocess),
                         group_by_length=group_by_length, **options)  # fmt: skip
        made = [self.train, self.test, *([] if self.val is self.test else [self.val])]
        if split := sum(part.split for part in made):
            announce(f"{split:,} of {sum(map(len, splits.parts)):,} sentences have more than max_length="
                     f"{preprocess.max_length} tokens: they are split into windows that overlap")  # fmt: skip
        if lost := [word for part in made for word in part.lost]:
            announce(f"{len(lost):,} words have no token of their own, such as {lost[0]!r}: they are neither learned "
                     f"nor scored")  # fmt: skip
