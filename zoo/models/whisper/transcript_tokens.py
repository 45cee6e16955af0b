"""The tokens of transcripts that Whisper is trained to write."""

from dataclasses import dataclass
from typing import Any

import torch

from zoo.models.whisper.generation import GenerationSettings
from zoo.preprocessing.text import TextProcessor


@dataclass(frozen=True)
class TranscriptTokens:
    """Encodes transcripts as Whisper writes them: tokens of the language and the task, if any, the text, the end token.

    start: the first token that the decoder reads. prefix: the tokens between it and the text. end: the end token.
    """

    tokenizer: TextProcessor
    start: int
    prefix: tuple[int, ...]
    end: int

    @classmethod
    def of(cls, model: Any, language: str = "") -> "TranscriptTokens":
        """Those of a model with a tokenizer. language: code or name; empty for a model of one language.

        Raises ValueError for a model of several languages without a language, and for a language that it lacks.
        """
        settings = GenerationSettings.of(model)
        chosen = settings.languages_of(language or None, 1)
        if settings.languages and chosen is None:
            raise ValueError("the model writes several languages: give language= of the transcripts, such as "
                             "language=en")  # fmt: skip
        ids = torch.tensor([settings.language_id(one) for one in chosen]) if chosen else None
        start, *prefix = settings.prefix(ids, None, False, 1)[0].tolist()
        end = model.config.eos_token_id
        return cls(model.preprocess.text_processor, start, tuple(prefix), end[0] if isinstance(end, tuple) else end)

    def encode(self, text: str) -> list[int]:
        """The tokens after the start token."""
        return [*self.prefix, *self.tokenizer.backend.encode(text, add_special_tokens=False).ids, self.end]
