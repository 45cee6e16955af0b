"""Waveforms for wav2vec 2.0 and HuBERT: resampled, normalized, padded."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.preprocessing.audio import Listening, _extractor
from zoo.preprocessing.ctc_vocabulary import Vocabulary
from zoo.utils.errors import LoadError


@dataclass(frozen=True, kw_only=True)
class WaveformPreprocess(Listening):
    """Sounds -> {"input_values": float32 [B, S][, "attention_mask": int64 [B, S]]}; no mask where all are equally long.

    normalise: whether each clip is brought to mean 0 and variance 1, over its own samples.
    longest: the most samples of a clip; None takes any.
    masked: what transformers' extractor is told on export, whether its model takes a mask; ours do.
    vocabulary: the symbols of a CTC model.
    """

    kind: ClassVar[str] = "waveform"
    normalise: bool = True
    longest: int | None = None
    masked: bool = False
    vocabulary: Vocabulary | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest is not None and self.longest < 1:
            raise ValueError(f"longest={self.longest}: expected a number of samples, or None")
        if isinstance(self.vocabulary, Mapping):
            object.__setattr__(self, "vocabulary", Vocabulary.from_dict(self.vocabulary))

    @property
    def limit(self) -> int | None:
        return self.longest

    def batch(self, waves: list[Tensor]) -> dict[str, Tensor]:
        lengths = torch.tensor([len(wave) for wave in waves])
        values = torch.zeros(len(waves), int(lengths.max()))
        for row, wave in zip(values, waves):
            row[: len(wave)] = normalised(wave) if self.normalise else wave
        if bool((lengths == values.shape[1]).all()):
            return {"input_values": values}
        mask = torch.arange(values.shape[1]) < lengths[:, None]
        return {"input_values": values, "attention_mask": mask.long()}

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        values = super().to_dict()
        if self.vocabulary is not None:
            values["vocabulary"]["tokens"] = list(self.vocabulary.tokens)
        return values

    def fitted_to(self, config: Any) -> "WaveformPreprocess":
        """Without the vocabulary where the model has another number of symbols."""
        amiss = self.vocabulary is not None and len(self.vocabulary) != getattr(config, "vocab_size", None)
        return replace(self, vocabulary=None) if amiss else self

    def check(self, config: Any) -> None:
        size = getattr(config, "vocab_size", None)
        if self.vocabulary is not None and config.head == "ctc" and len(self.vocabulary) != size:
            raise ValueError(f"the vocabulary has {len(self.vocabulary)} symbols, but the model has vocab_size={size}")

    @classmethod
    def from_transformers(
        cls, extractor: Mapping[str, Any], vocabulary: Vocabulary | None = None
    ) -> "WaveformPreprocess":
        """From the `preprocessor_config.json` of Wav2Vec2FeatureExtractor."""
        kind, values = _extractor(extractor, "Wav2Vec2FeatureExtractor")
        if values["feature_size"] != 1:
            raise LoadError(f"transformers' {kind} with feature_size={values['feature_size']}: a waveform has 1")
        return cls(
            rate=values["sampling_rate"],
            normalise=values["do_normalize"],
            masked=values["return_attention_mask"],
            vocabulary=vocabulary,
        )

    def to_transformers(self) -> dict[str, Any]:
        return {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "sampling_rate": self.rate,
            "do_normalize": self.normalise,
            "return_attention_mask": self.masked,
            "feature_size": 1,
            "padding_value": 0.0,
            "padding_side": "right",
        }

    def transformers_files(self) -> dict[str, Any]:
        """{file name: contents}: the extractor, and the tokenizer of a CTC model."""
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


def normalised(wave: Tensor) -> Tensor:
    """[S] with mean 0 and variance 1, as wav2vec 2.0 hears it; silence stays 0."""
    centred = wave - wave.mean()
    return centred.div_((centred.dot(centred) / len(wave) + 1e-7).sqrt())
