"""Data module of questions: windows of their contexts, with the places of the answer as labels."""

from typing import TYPE_CHECKING, Any

import torch

from zoo.data.datamodule import KeyedDataModule
from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.text.datamodule import TokenDataset
from zoo.data.text.questions import Questions
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.text_windows import encode_windows
from zoo.utils.console import announce

if TYPE_CHECKING:
    from tokenizers import Encoding


class QuestionTokens(TokenDataset):
    """Dataset of the windows of questions with their contexts.

    Batches: those of `TokenDataset`, with `start_positions` and `end_positions` [B], the first and last token of the
    first answer, or 0 in a window that does not hold it; `question` [B], the index of the question; and `offsets`
    [B, N, 2], the characters of the context that a token stands for, -1 for other tokens.
    """

    def __init__(self, part: Questions, preprocess: TextProcessor, doc_stride: int | None = None) -> None:
        ids: list[list[int]] = []
        types: list[list[int]] = []
        labels: list[tuple[int, int]] = []
        question: list[int] = []
        offsets: list[tuple[int, int]] = []
        self.split = 0
        for i, windows in enumerate(encode_windows(preprocess, part.texts, doc_stride)):
            self.split += len(windows) > 1
            for window in windows:
                ids.append(window.ids)
                types.append(window.type_ids)
                labels.append(_positions(window, *part.answers[i][0]) if part.answers[i] else (0, 0))
                question.append(i)
                offsets += [
                    place if text == 1 else (-1, -1) for place, text in zip(window.offsets, window.sequence_ids)
                ]
        super().__init__(ids, pad=preprocess.id("pad") or 0, types=types if preprocess.types else None)
        self.positions, self.question, self.offsets = (torch.tensor(rows) for rows in (labels, question, offsets))

    def __getitems__(self, keys: Keys) -> dict[str, Any]:
        batch = super().__getitems__(keys)
        rows, real = batch["index"], batch["attention_mask"].bool()
        offsets = torch.full((*real.shape, 2), -1)
        places = zip(self.starts[rows].tolist(), self.lengths[rows].tolist())
        offsets[real] = torch.cat([self.offsets[start : start + length] for start, length in places])
        starts, ends = self.positions[rows].unbind(1)
        return batch | {"start_positions": starts, "end_positions": ends, "question": self.question[rows],
                        "offsets": offsets}  # fmt: skip


def _positions(window: "Encoding", text: str, start: int) -> tuple[int, int]:
    """The first and the last token of an answer in a window; (0, 0) if the window does not hold all of it."""
    own = [i for i, part in enumerate(window.sequence_ids) if part == 1]
    end = start + len(text)
    if not own or window.offsets[own[0]][0] > start or window.offsets[own[-1]][1] < end:
        return 0, 0
    within = [i for i in own if window.offsets[i][1] > start and window.offsets[i][0] < end]
    return (within[0], within[-1]) if within else (0, 0)


class QuestionDataModule(KeyedDataModule):
    """Data module of questions with contexts; see `QuestionTokens` for its batches.

    Args:
        splits: Dataset splits from `load_questions`.
        preprocess: Tokenizer of the model, `model.preprocess`; a window has at most its `max_length` tokens.
        batch_size: Windows per optimizer step, summed over all devices and accumulation steps.
        doc_stride: Tokens that a window of a context has in common with the one before it. Default: a quarter of
            `max_length`, as in predictions.
        options: Options of `KeyedDataModule`.

    Raises: ValueError for a question that leaves no room for its context.
    """

    items = "windows"

    def __init__(self, splits: Splits[Questions], preprocess: TextProcessor, batch_size: int = 16, *,
                 doc_stride: int | None = None, group_by_length: bool = True, **options: Any) -> None:  # fmt: skip
        def tokens(part: Questions, training: bool) -> QuestionTokens:
            return QuestionTokens(part, preprocess, doc_stride)

        super().__init__(splits, batch_size, dataset=tokens, group_by_length=group_by_length, **options)
        made = [self.train, self.test, *([] if self.val is self.test else [self.val])]
        if split := sum(part.split for part in made):
            announce(f"{split:,} of {sum(map(len, splits.parts)):,} contexts do not fit into max_length="
                     f"{preprocess.max_length} tokens: they are split into windows that overlap")  # fmt: skip
