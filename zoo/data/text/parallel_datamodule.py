"""Data module of pairs of source and target texts, tokenized in memory."""

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.text.datamodule import TokenDataset
from zoo.data.text.parallel import ParallelTexts
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.preprocessing.text import TextProcessor, Truncate


class ParallelTokens(Dataset[Any]):
    """Dataset of tokenized source texts with the tokens of their target texts.

    Batches: those of `TokenDataset` for the source texts, with `labels` [B, T], the tokens of the target texts and -100
    for padding, and their numbers `label_lengths` (a list: it stays on the host).
    """

    def __init__(self, sources: TokenDataset, targets: TokenDataset) -> None:
        self.sources, self.targets = sources, targets

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> Tensor:
        """Numbers [N] that order pairs by the length of the source text, and then by that of the target text."""
        return self.sources.lengths * (int(self.targets.lengths.max()) + 1) + self.targets.lengths

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        target = self.targets.__getitems__(keys)
        labels = target["input_ids"].masked_fill(target["attention_mask"] == 0, IGNORED)
        return self.sources.__getitems__(keys) | {"labels": labels, "label_lengths": target["lengths"]}


class ParallelDataModule(KeyedDataModule):
    """Data module of pairs of source and target texts; see `ParallelTokens` for its batches.

    Args:
        splits: Dataset splits from `load_parallel_texts`.
        preprocess: Tokenizer of the model, `model.preprocess`, for source texts; its `for_targets()` for target texts.
        batch_size: Pairs per optimizer step, summed over all devices and accumulation steps.
        max_source_length: Maximum number of tokens of a source text; 0 is that of the tokenizer.
        max_target_length: Maximum number of tokens of a target text; 0 is that of the tokenizer.
        truncate: How to handle longer texts, see `TextProcessor`; None does as the tokenizer.
        options: Options of `KeyedDataModule`.

    Raises: ValueError for a text without tokens, and with truncate="error" for a text that is too long.
    """

    def __init__(self, splits: Splits[ParallelTexts], preprocess: TextProcessor, batch_size: int = 32, *,
                 max_source_length: int = 0, max_target_length: int = 0, truncate: Truncate | None = None,
                 group_by_length: bool = True, **options: Any) -> None:  # fmt: skip
        own = preprocess.for_targets()
        of_targets = replace(own, max_length=max_target_length or own.max_length)
        how = truncate or preprocess.truncate

        def tokens(part: ParallelTexts, training: bool) -> ParallelTokens:
            sources = TokenDataset.of(part.sources, preprocess, max_length=max_source_length, truncate=how,
                                      noun="source text")  # fmt: skip
            return ParallelTokens(sources, TokenDataset.of(part.targets, of_targets, truncate=how, noun="target text"))

        super().__init__(splits, batch_size, dataset=tokens, group_by_length=group_by_length, **options)
