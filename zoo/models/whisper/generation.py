"""How Whisper begins to write, and its rules: language and task tokens, tokens that are not written, timestamps."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.models.suppress_tokens import SuppressTokens
from zoo.models.whisper.published_tokens import published_settings
from zoo.preprocessing import whisper
from zoo.preprocessing.whisper_languages import LANGUAGES, language_code
from zoo.utils.errors import LoadError, did_you_mean

FILE = "generation_config.json"
TASKS = ("transcribe", "translate")
Languages = str | Sequence[str] | None


@dataclass(frozen=True)
class GenerationSettings:
    """What transformers' generation_config.json says of a Whisper model.

    start: the first token. languages, tasks: {code or name: token}; empty for a model of one language. no_timestamps:
    the token before a text without timestamps; the tokens after it are the times 0.00, 0.02, ... suppress_tokens:
    tokens that are never written; begin_suppress_tokens: not as the first one. max_initial_timestamp_index: the
    greatest first time, in steps of 0.02 s. language, task, return_timestamps: what is used if the caller says nothing.
    previous: the token before the text of earlier audio. alignment_heads: (layer, head) of the cross-attention whose
    maps follow the audio; empty if they are not known.
    """

    start: int | None
    languages: Mapping[str, int]
    tasks: Mapping[str, int]
    no_timestamps: int | None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    max_initial_timestamp_index: int | None = None
    language: str | None = None
    task: str | None = None
    return_timestamps: bool = False
    previous: int | None = None
    alignment_heads: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, model: Any) -> "GenerationSettings":
        """Of the generation_config.json that a model was loaded with; what it lacks is that of the tokenizer, else that
        of the published models with this vocabulary. Raises LoadError for a damaged file."""
        stored = read_file(model.extra_files[FILE]) if FILE in model.extra_files else {}
        values = published_settings(model.config.vocab_size) | tokenizer_settings(model.preprocess) | stored
        if values.get("is_multilingual") is False:
            values |= {"lang_to_id": {}, "task_to_id": {}}
        forced = dict(values.get("forced_decoder_ids") or ())
        tasks = {str(task): int(token) for task, token in (values.get("task_to_id") or {}).items()}
        codes = {name[2:-2]: int(token) for name, token in (values.get("lang_to_id") or {}).items()}
        return cls(
            start=values.get("decoder_start_token_id", model.config.decoder_start_token_id),
            languages=codes,
            tasks=tasks,
            no_timestamps=values.get("no_timestamps_token_id"),
            suppress_tokens=tuple(values.get("suppress_tokens") or ()),
            begin_suppress_tokens=tuple(values.get("begin_suppress_tokens") or ()),
            max_initial_timestamp_index=values.get("max_initial_timestamp_index"),
            language=values.get("language") or next((code for code in codes if codes[code] in forced.values()), None),
            task=values.get("task") or next((task for task in tasks if tasks[task] in forced.values()), None),
            return_timestamps=bool(values.get("return_timestamps")),
            previous=values.get("prev_sot_token_id"),
            alignment_heads=alignment_heads(values.get("alignment_heads") or (), model.config),
        )

    @property
    def no_speech(self) -> int | None:
        """<|nospeech|>, the token before <|notimestamps|> in every vocabulary of Whisper."""
        return None if self.no_timestamps is None else self.no_timestamps - 1

    def language_id(self, language: str) -> int:
        """The token of a language, given as code or name. Raises ValueError for one that the model lacks."""
        if not self.languages:
            raise ValueError(f"language={language!r}: the model knows one language only: omit language=")
        code = language if language in self.languages else language_code(language)
        if code not in self.languages:
            names = ", ".join(self.languages)
            raise ValueError(f"language={language!r}: the model has no token <|{code}|>; its languages are {names}")
        return self.languages[code]

    def task_id(self, task: str) -> int:
        """The token of a task, "transcribe" or "translate" (to English)."""
        if task not in TASKS:
            raise ValueError(f"task={task!r}{did_you_mean(str(task), TASKS)}: expected 'transcribe' or 'translate'")
        if task not in self.tasks:
            raise ValueError(f"task={task!r}: the model has no token <|{task}|>, and transcribes only: omit task=")
        return self.tasks[task]

    def prefix(self, language_ids: Tensor | None, task: str | None, timestamps: bool, rows: int) -> Tensor:
        """The first tokens of the decoder [B, T]: start, language, task, and <|notimestamps|> unless they are written.

        language_ids [B]; None for a model of one language.
        """
        if self.start is None:
            raise ValueError("the model has no decoder_start_token_id: pass decoder_input_ids=, its first tokens")
        if timestamps and self.no_timestamps is None:
            raise ValueError(
                "return_timestamps=True: the model has no tokens for timestamps (<|notimestamps|> is missing in its "
                "generation_config.json and in its tokenizer)"
            )
        columns = [torch.full((rows,), self.start)]
        columns += [] if language_ids is None else [language_ids.cpu()]
        if task is not None or self.tasks:
            columns.append(torch.full((rows,), self.task_id(task or self.task or TASKS[0])))
        if not timestamps and self.no_timestamps is not None:
            columns.append(torch.full((rows,), self.no_timestamps))
        return torch.stack(columns, 1)

    def languages_of(self, language: Languages, rows: int) -> list[str] | None:
        """The language of each row; None if it has to be detected. Raises ValueError for another number of them."""
        language = self.language if language is None else language
        if language is None or isinstance(language, str):
            return None if language is None else [language] * rows
        if len(language) != rows:
            raise ValueError(f"language has {len(language)} names for {rows} clips: expected one for all, or one each")
        return list(language)

    def most_probable_language(self, logits: Tensor) -> Tensor:
        """Logits of the token after the start token [B, V] -> the ids of the language tokens [B]."""
        ids = torch.tensor(list(self.languages.values()), device=logits.device)
        return ids[logits.index_select(1, ids).argmax(1)]

    def processors(self, begin: int, timestamps: bool, vocab_size: int, end: int) -> list[Any]:
        """The processors of scores, for texts whose first `begin` tokens are given, in the order of transformers."""
        found: list[Any] = []
        if first := [token for token in self.begin_suppress_tokens if token < vocab_size]:
            found.append(SuppressTokens(tuple(first), begin))
        if never := [token for token in self.suppress_tokens if 0 <= token < vocab_size]:
            found.append(SuppressTokens(tuple(never)))
        if timestamps and self.no_timestamps is not None:
            found.append(TimestampRules(self.no_timestamps, end, begin, self.max_initial_timestamp_index))
        return found


def read_file(text: str) -> dict[str, Any]:
    """The contents of a generation_config.json, without keys that are null. Raises LoadError if they are damaged."""
    try:
        values = json.loads(text)
        found = {name: value for name, value in values.items() if value is not None}
        for name in ("lang_to_id", "task_to_id"):
            {str(key): int(token) for key, token in found.get(name, {}).items()}
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            [int(token) for token in found.get(name, ())]
    except (ValueError, TypeError, AttributeError) as error:
        raise LoadError(f"{FILE} of the model is damaged: {error}") from None
    return found


def tokenizer_settings(processor: Any) -> dict[str, Any]:
    """What a tokenizer with Whisper's special tokens implies; empty without one."""
    if getattr(processor, "tokenizer", None) is None:
        return {}
    token_id = processor.tokenizer.backend.token_to_id
    if token_id(whisper.START) is None:
        return {}
    tasks = {task: token_id(f"<|{task}|>") for task in TASKS if token_id(f"<|{task}|>") is not None}
    languages = {f"<|{code}|>": token for code in LANGUAGES if (token := token_id(f"<|{code}|>")) is not None}
    found = {"task_to_id": tasks, "lang_to_id": languages, "decoder_start_token_id": token_id(whisper.START)}
    others = {
        "no_timestamps_token_id": token_id(whisper.NO_TIMESTAMPS),
        "prev_sot_token_id": token_id(whisper.PREVIOUS),
    }
    return found | {name: token for name, token in others.items() if token is not None}


def alignment_heads(found: Any, config: Any) -> tuple[tuple[int, int], ...]:
    """(layer, head) pairs as a generation_config.json has them. Raises LoadError for those that the model lacks."""
    own = config.side("decoder")
    try:
        heads = tuple((int(layer), int(head)) for layer, head in found)
    except (TypeError, ValueError):
        raise LoadError(
            f"{FILE} of the model has alignment_heads={found!r:.200}, expected [layer, head] pairs"
        ) from None
    if any(not (0 <= layer < own["depth"] and 0 <= head < own["heads"]) for layer, head in heads):
        raise LoadError(
            f"{FILE} of the model has alignment_heads={found!r:.200}, but its decoder has {own['depth']} layers of "
            f"{own['heads']} heads"
        )
    return heads


# --- Processors of scores: (tokens so far [rows, T], scores [rows, V]) -> scores --------------------------------------


@dataclass(frozen=True)
class TimestampRules:
    """The rules of Whisper's timestamps (Radford et al. 2022, section 4.5; ApplyTimestampRules of OpenAI's code).

    A text begins with a timestamp. They stand in pairs, but for the one before the end; a time is not less than the one
    before it; and where all timestamps together are more probable than each other token, one is written.
    no_timestamps: the id before the one of 0.00. end: the token that ends a text. begin: the number of given tokens.
    max_initial: the greatest index of the first timestamp.
    """

    no_timestamps: int
    end: int
    begin: int
    max_initial: int | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        zero, never = self.no_timestamps + 1, -torch.inf
        new = ids[:, self.begin :]
        vocabulary = torch.arange(scores.shape[1], device=scores.device)
        is_time, hidden = vocabulary >= zero, vocabulary == self.no_timestamps
        if new.shape[1] == 0:
            hidden = hidden | ~is_time
            if self.max_initial is not None:
                hidden = hidden | (vocabulary > zero + self.max_initial)
            return scores.masked_fill(hidden, never)
        times = new >= zero
        last = times[:, -1:]
        before = times[:, -2:-1] if new.shape[1] > 1 else torch.ones_like(last)
        hidden = hidden | (last & before & is_time)
        hidden = hidden | (last & ~before & (vocabulary < self.end))
        place = (times * torch.arange(new.shape[1], device=new.device)).amax(1, keepdim=True)
        least = new.gather(1, place) + (~last | before).long()  # not the same time again, but for the second of a pair
        hidden = hidden | (times.any(1, keepdim=True) & is_time & (vocabulary < least))
        scores = scores.masked_fill(hidden, never)
        log_probs = scores.float().log_softmax(-1)
        some_time = log_probs[:, zero:].logsumexp(-1, keepdim=True)
        return scores.masked_fill((some_time > log_probs[:, :zero].amax(-1, keepdim=True)) & ~is_time, never)
