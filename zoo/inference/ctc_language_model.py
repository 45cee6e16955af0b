"""A text decoder of the zoo as language model in the beam of CTC decoding (shallow fusion).

The order of the texts is by log P(text | audio) + lm_weight * log P(text) + word_bonus * words, as in Hannun et al.
2014 (https://arxiv.org/abs/1408.2873). The language model scores whole texts, in batches: those that a space has just
extended, and all in the beam at the end. A text is scored once; its cost is a forward pass over all of its tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch

from zoo.inference.probabilities import require_model, run
from zoo.models.base import Model
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.preprocessing.text import TextProcessor, encode_batch

MAX_SCORES = 1 << 25  # numbers in the scores of a batch


class LanguageModelScorer:
    """Scores texts of a CTC vocabulary with a decoder; `beam` takes it as `scorer`.

    model: a decoder with head="lm" and its tokenizer. A vocabulary of capitals alone is scored in lower case if the
    tokenizer has these letters. weight: of the log probability of a text. word_bonus: added for each word, since a
    language model prefers short texts.

    Raises ValueError if it is another model, or its tokenizer is missing or cannot write the vocabulary.
    """

    def __init__(self, model: Model, vocabulary: Vocabulary, *, weight: float = 0.5, word_bonus: float = 1.5) -> None:
        self.model, self.processor = model, checked_processor(model)
        self.vocabulary, self.weight, self.word_bonus = vocabulary, weight, word_bonus
        self.space = vocabulary.tokens.index(vocabulary.space) if vocabulary.space in vocabulary.tokens else None
        symbols = sorted({vocabulary.decode([i]) for i in range(len(vocabulary))} - {""})
        lower = [symbol.lower() for symbol in symbols]
        self.lowercase = symbols != lower and not any(map(str.islower, symbols)) and not self._missing(lower)
        if missing := [] if self.lowercase else self._missing(symbols):
            shown = ", ".join(map(repr, missing[:5])) + ", ..." * (len(missing) > 5)
            raise ValueError(
                f"the language model is for another vocabulary: its tokenizer has no tokens for {len(missing)} of the "
                f"{len(symbols)} symbols of the speech model ({shown}): take one that was trained on texts in the "
                f"same language and spelling"
            )
        self._scores: dict[str, float] = {"": 0.0}

    def __call__(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """weight * log P(text) + word_bonus * words of texts as symbols."""
        return self.of_texts([self.vocabulary.decode(ids) for ids in texts])

    def of_texts(self, texts: Sequence[str]) -> list[float]:
        """weight * log P(text) + word_bonus * words."""
        new = list(dict.fromkeys(text for text in texts if text not in self._scores))
        if new:
            self._scores.update(zip(new, self.log_probabilities(new)))
        return [self.weight * self._scores[text] + self.word_bonus * len(text.split()) for text in texts]

    def log_probabilities(self, texts: Sequence[str]) -> list[float]:
        """log P(text), natural, over the tokens after the token that begins texts; without one, after the first.

        Each token of a text longer than the model takes has at least half of that length before it.
        """
        written = [text.lower() for text in texts] if self.lowercase else list(texts)
        begin = self._first_token()
        rows = []
        for encoding in encode_batch(self.processor.backend, written, add_special_tokens=False):
            rows.append([*([] if begin is None else [begin]), *encoding.ids])
        limit = self.model.config.max_length
        found = [0.0] * len(rows)
        windows = [(row, *window) for row, ids in enumerate(rows) for window in _windows(ids, limit)]
        windows.sort(key=lambda window: len(window[1]))  # little padding
        while windows:
            size = max(1, MAX_SCORES // (len(windows[-1][1]) * self.model.config.vocab_size))
            batch, windows = windows[-size:], windows[:-size]
            for (row, *_), log_p in zip(batch, self._window_scores([(ids, first) for _, ids, first in batch])):
                found[row] += log_p
        return found

    def _window_scores(self, windows: Sequence[tuple[list[int], int]]) -> list[float]:
        """The sum over the tokens of each window (ids, index of the first one that counts)."""
        longest = max(len(ids) for ids, _ in windows)
        batch = {
            "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in windows]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in windows]),
        }
        log_p = run(self.model, batch)[:, :-1].log_softmax(-1)
        chosen = log_p.gather(2, batch["input_ids"][:, 1:, None])[:, :, 0].double()  # of the tokens from the second on
        return [float(row[first - 1 : len(ids) - 1].sum()) for row, (ids, first) in zip(chosen, windows)]

    def _first_token(self) -> int | None:
        """The token that begins texts: bos, or the end of the text before."""
        config = self.model.config
        of_tokenizer = (self.processor.id(role) for role in ("bos", "eos"))
        of_config = (getattr(config, f"{role}_token_id", None) for role in ("bos", "eos"))
        known = (i for i in (*of_tokenizer, *of_config) if isinstance(i, int) and 0 <= i < config.vocab_size)
        return next(known, None)

    def _missing(self, symbols: Sequence[str]) -> list[str]:
        """The symbols that the tokenizer cannot write."""
        return [symbol for symbol in symbols if not _writes(self.processor, symbol)]


def _writes(processor: TextProcessor, symbol: str) -> bool:
    try:
        ids = processor.backend.encode(symbol, add_special_tokens=False).ids
    except Exception:  # the library has no class of its own: the symbol is unknown, and there is no token for that
        return False
    return bool(ids) and processor.id("unk") not in ids


def checked_processor(model: Any) -> TextProcessor:
    """The tokenizer of a language model. Raises ValueError if it is not one, or has none that fits."""
    require_model(model, "language_model")
    if model.config.head != "lm":
        raise ValueError(f"language_model: expected a decoder with head='lm', but it has head={model.config.head!r}")
    if not isinstance(model.preprocess, TextProcessor):
        raise ValueError(
            "language_model: the model has no tokenizer, so it cannot score texts: load a folder that has one, or set "
            "language_model.preprocess = zoo.preprocessing.text.TextProcessor(...)"
        )
    model.preprocess.check(model.config)
    return model.preprocess


def _windows(ids: list[int], limit: int) -> list[tuple[list[int], int]]:
    """Windows of up to `limit` ids, and the index of the first id in each that the one before has not."""
    windows, done = [], 1
    while done < len(ids):
        start = 0 if done == 1 else done - limit // 2
        windows.append((ids[start : start + limit], done - start))
        done = start + limit
    return windows
