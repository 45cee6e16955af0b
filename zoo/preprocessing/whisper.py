"""The processor of Whisper: audio to log-mel spectrograms, and token ids to text."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from zoo.preprocessing import filter_banks
from zoo.preprocessing.audio import name_of
from zoo.preprocessing.spectrogram import SpectrogramFeatureExtractor
from zoo.preprocessing.text import TextProcessor
from zoo.utils.errors import LoadError

START, PREVIOUS, END = "<|startoftranscript|>", "<|startofprev|>", "<|endoftext|>"
NO_TIMESTAMPS = "<|notimestamps|>"
TIMESTAMP = re.compile(r"<\|\d+\.\d+\|>")


@dataclass(frozen=True, kw_only=True)
class WhisperProcessor(SpectrogramFeatureExtractor):
    """Audio clips -> {"input_features": float32 [B, bins, frames]}; `decode` makes texts of token ids.

    A clip is padded with silence to `frames`, which are 30 s of the published models.
    tokenizer: of the transcriptions, None for a model without one. It makes the labels of training:
    `model.preprocess.tokenizer(texts)`.
    """

    kind: ClassVar[str] = "whisper"
    feature_type: Literal["kaldi", "log_mel", "whisper"] = "whisper"
    num_mel_bins: int = 80
    frames: int = 3000
    low_freq: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    tokenizer: TextProcessor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.tokenizer, Mapping):
            raise ValueError("tokenizer is a dict: expected a TextProcessor; WhisperProcessor.from_dict reads a dict")
        super().__post_init__()
        if self.feature_type != "whisper":
            raise ValueError(f"feature_type={self.feature_type!r}: WhisperProcessor has feature_type='whisper'")

    def long_features(self, clip: Any, *, index: int = 0) -> Tensor:
        """The spectrogram [bins, T] of a clip of any length, which is not padded, scaled by the maximum of all of it.

        index: of the clip in its batch, for messages. Raises AudioError as a call of the processor.
        """
        wave = self.load(clip, name_of(clip, index), None)
        return filter_banks.long_whisper_log_mel(
            wave, self.sampling_rate, num_mel_bins=self.num_mel_bins, fft=self._fft, hop=self._hop
        )

    @property
    def time_step(self) -> float:
        """Seconds between two timestamps: the two frames of one position of the encoder."""
        return 2 * self._hop / self.sampling_rate

    def decode(self, ids: Tensor | Sequence[int], *, skip_special: bool = True, timestamps: bool = False) -> str:
        """The text of token ids [N], without special tokens, timestamps, and an earlier text that was its prompt.

        skip_special=False keeps the special tokens, timestamps=True those of times, as in "<|0.00|> Hello<|1.20|>".
        Raises ValueError without a tokenizer.
        """
        numbers = [int(i) for i in ids]
        if skip_special:
            numbers = self._without_prompt(numbers)
        text = self.text_processor.decode(numbers, skip_special=skip_special)
        return text if timestamps else TIMESTAMP.sub("", text)

    def encode(self, text: str) -> list[int]:
        """The ids of a transcription, with the special tokens around it. Raises ValueError without a tokenizer."""
        return self.text_processor.encode(text)

    @property
    def text_processor(self) -> TextProcessor:
        """The tokenizer. Raises ValueError if there is none."""
        if self.tokenizer is None:
            raise ValueError(
                "the model has no tokenizer, so its tokens cannot be decoded: set model.preprocess = dataclasses."
                "replace(model.preprocess, tokenizer=...) with that of the folder of a Whisper model with the same "
                "vocabulary"
            )
        return self.tokenizer

    def _without_prompt(self, ids: list[int]) -> list[int]:
        """The ids from the start token on, if they begin with an earlier text."""
        backend = self.text_processor.backend
        if not ids or ids[0] != backend.token_to_id(PREVIOUS):
            return ids
        start = backend.token_to_id(START)
        return ids[ids.index(start) :] if start in ids else []

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of the special tokens and timestamps. Raises ValueError without a tokenizer."""
        return frozenset(self.text_processor.backend.get_added_tokens_decoder())

    @cached_property
    def language_tokens(self) -> dict[str, int]:
        """{language code: id} of the language tokens of the tokenizer, {"en": 50259, ...}."""
        found = self.text_processor.backend.get_added_tokens_decoder()
        names = {re.fullmatch(r"<\|([a-z]{2,3})\|>", token.content): index for index, token in found.items()}
        return {match[1]: index for match, index in names.items() if match}

    # --- files --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, without the contents of tokenizer.json (`files`)."""
        values = {name: value for name, value in asdict(self).items() if name != "tokenizer"}
        return {"kind": self.kind} | values | {"tokenizer": self.tokenizer and self.tokenizer.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], files: Mapping[str, str] | None = None) -> Self:
        """The inverse of `to_dict` and `files`. An unknown or missing key raises LoadError."""
        tokenizer = values.get("tokenizer")
        if not isinstance(tokenizer, Mapping | None):
            raise LoadError(f"preprocess has tokenizer={tokenizer!r:.200}, expected null or an object {{...}}")
        made = None if tokenizer is None else TextProcessor.from_dict(tokenizer, files or {})
        return super().from_dict({**values, "tokenizer": made} if "tokenizer" in values else values)

    def files(self) -> dict[str, str]:
        """{name: contents} of the files saved beside config.json: tokenizer.json."""
        return {} if self.tokenizer is None else self.tokenizer.files()

    def to_transformers(self) -> dict[str, Any]:
        """`preprocessor_config.json`. Raises ValueError if transformers cannot express these settings."""
        if self.tokenizer is not None:
            return replace(self, tokenizer=None).to_transformers() | {"processor_class": "WhisperProcessor"}
        return super().to_transformers()

    def transformers_files(self) -> dict[str, Any]:
        """{name: contents} of the files that transformers' WhisperProcessor reads."""
        files = super().transformers_files()
        if self.tokenizer is None:
            return files
        own = self.tokenizer.transformers_files()
        own["tokenizer_config.json"] |= {"tokenizer_class": "WhisperTokenizer"} | self._prefix_settings()
        return files | own

    def _prefix_settings(self) -> dict[str, Any]:
        """What transformers' tokenizer puts before a text, as its settings: it does not follow tokenizer.json."""
        tokenizer = self.text_processor
        before = tokenizer.backend.encode("a").tokens
        before = before[: next((i for i, token in enumerate(before) if not token.startswith("<|")), 0)]
        codes = {f"<|{code}|>": code for code in self.language_tokens}
        tasks = [token[2:-2] for token in before if token in ("<|transcribe|>", "<|translate|>")]
        return {
            "language": next((codes[token] for token in before if token in codes), None),
            "task": tasks[0] if tasks else None,
            "predict_timestamps": NO_TIMESTAMPS not in before,
        }

    def check(self, config: Any) -> None:
        super().check(config)
        if self.tokenizer is not None:
            self.tokenizer.check(config)
