"""Waveforms for wav2vec 2.0 and HuBERT: resampled, normalized, padded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.preprocessing.audio import AudioProcessor, extractor_values
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.utils.errors import LoadError


@dataclass(frozen=True, kw_only=True)
class WaveformFeatureExtractor(AudioProcessor):
    """Audio clips -> {"input_values": float32 [B, S][, "attention_mask": int64 [B, S]]}; no mask if lengths are equal.

    normalize: whether to scale each clip to mean 0 and variance 1.
    max_length: maximum number of samples of a clip; None for no limit.
    return_attention_mask: written on export for transformers, where only some models take a mask; ours always do.
    vocabulary: the symbols of a CTC model.
    """

    kind: ClassVar[str] = "waveform"
    normalize: bool = True
    max_length: int | None = None
    return_attention_mask: bool = False
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        if isinstance(self.vocabulary, Mapping):
            object.__setattr__(self, "vocabulary", Vocabulary.from_dict(self.vocabulary))
        super().__post_init__()
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(
                f"max_length={self.max_length}: expected a positive number of samples, or None for no limit"
            )

    @property
    def max_samples(self) -> int | None:
        return self.max_length

    def batch(self, waves: list[Tensor]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(wave) for wave in waves])
        values = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(values, waves):
            row[: len(wave)] = normalized(wave) if self.normalize else wave
        if bool((lengths == values.shape[1]).all()):
            return {"input_values": values}
        mask = torch.arange(values.shape[1]) < lengths[:, None]
        return {"input_values": values, "attention_mask": mask.long()}

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        values = super().to_dict()
        if self.vocabulary is not None:
            values["vocabulary"]["tokens"] = list(self.vocabulary.tokens)
        return values

    def fitted_to(self, config: Any) -> "WaveformFeatureExtractor":
        """A copy without the vocabulary if the model has another number of symbols."""
        mismatch = self.vocabulary is not None and len(self.vocabulary) != getattr(config, "vocab_size", None)
        return replace(self, vocabulary=None) if mismatch else self

    def check(self, config: Any) -> None:
        size = getattr(config, "vocab_size", None)
        if self.vocabulary is not None and config.head == "ctc" and len(self.vocabulary) != size:
            raise ValueError(
                f"the vocabulary has {len(self.vocabulary)} symbols, but the model has vocab_size={size}: they "
                f"must be equal"
            )

    @classmethod
    def from_transformers(
        cls, extractor: Mapping[str, Any], vocabulary: Vocabulary | None = None
    ) -> "WaveformFeatureExtractor":
        """From the `preprocessor_config.json` of Wav2Vec2FeatureExtractor."""
        kind, values = extractor_values(extractor, "Wav2Vec2FeatureExtractor")
        if values["feature_size"] != 1:
            raise LoadError(f"transformers' {kind} has feature_size={values['feature_size']}, expected 1 for waveforms")
        return cls(
            sampling_rate=values["sampling_rate"],
            normalize=values["do_normalize"],
            return_attention_mask=values["return_attention_mask"],
            vocabulary=vocabulary,
        )

    def to_transformers(self) -> dict[str, Any]:
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "sampling_rate": self.sampling_rate,
            "do_normalize": self.normalize,
            "return_attention_mask": self.return_attention_mask,
            "feature_size": 1,
            "padding_value": 0.0,
            "padding_side": "right",
        }

    def transformers_files(self) -> dict[str, Any]:
        """{name: contents} of the files that transformers reads: the extractor, and the tokenizer of a CTC model."""
        if self.vocabulary is None:
            return super().transformers_files()
        settings = {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "word_delimiter_token": self.vocabulary.space,
            "pad_token": self.vocabulary.blank,
            "do_lower_case": False,
        }
        for role, token in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")):
            settings[role] = token if token in self.vocabulary.tokens else None
        return super().transformers_files() | {
            "vocab.json": self.vocabulary.to_json(),
            "tokenizer_config.json": settings,
        }


def normalized(wave: Tensor) -> Tensor:
    """Scale a waveform [S] to mean 0 and variance 1, as for wav2vec 2.0; silence stays 0."""
    centered = wave - wave.mean()
    return centered.div_((centered.dot(centered) / len(wave) + 1e-7).sqrt())
