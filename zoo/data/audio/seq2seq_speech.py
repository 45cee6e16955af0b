"""Data module of transcribed speech for Whisper: log-mel spectrograms, and the tokens of the transcripts."""

from collections.abc import Mapping
from typing import Any

from zoo.data.audio.spec_augment import SpecAugment
from zoo.data.audio.speech_datamodule import NoiseAugment, SpeechDataModule, TextEncoder
from zoo.data.audio.transcribed import Transcribed
from zoo.data.splits import Splits
from zoo.models.whisper.transcript_tokens import TranscriptTokens
from zoo.nn.losses.cross_entropy import IGNORED
from zoo.preprocessing.whisper import WhisperProcessor
from zoo.utils.errors import DataError


class Seq2SeqSpeechDataModule(SpeechDataModule):
    """Data module of transcribed speech for Whisper; see `Utterances` for its batches, whose `labels` are tokens.

    Args:
        splits: Dataset splits from `load_speech`.
        model: A Whisper; its `preprocess` has the tokenizer.
        spec_augment: Masks on the spectrograms in training; None has none.
        language: Language of the transcripts, for a model of several.
        options: Options of `SpeechDataModule`.

    Attributes:
        max_new_tokens: Number of tokens that the model can generate for a clip.

    Raises: DataError for a clip that is longer than the model takes, and for a transcript that is.
    """

    label_padding = IGNORED

    def __init__(self, splits: Splits[Transcribed], model: Any, batch_size: int = 32, *,
                 spec_augment: SpecAugment | None = None, language: str = "", **options: Any) -> None:  # fmt: skip
        self.spec_augment, self.language = spec_augment, language
        # after the tokens that generation begins with
        self.max_new_tokens = model.config.max_length - 1 - len(TranscriptTokens.of(model, language).prefix)
        super().__init__(splits, model, batch_size, **options)

    def text_encoder(self, model: Any) -> TextEncoder:
        """What encodes the transcripts: the tokenizer of the model."""
        return TranscriptTokens.of(model, self.language)

    def check_clips(self, model: Any, encoder: TextEncoder, part: Transcribed, tempo: float) -> None:
        """Check that the clips, at their slowest tempo, and the transcripts fit the model. Raises: DataError."""
        rate, most = part.sampling_rate, model.preprocess.max_samples
        if (samples := int(part.longest / (1 - tempo))) > most:
            slowest = f" at the slowest tempo ({tempo=:g})" if tempo else ""
            raise DataError(
                f"a clip has up to {samples / rate:.2f} s{slowest}, but the model takes {most / rate:.2f} s: use a "
                f"smaller max_duration=, and on_error=skip to skip longer clips, or a smaller tempo="
            )
        longest = max(part.texts(), key=lambda text: len(encoder.encode(text)))
        if (tokens := len(encoder.encode(longest))) > model.config.max_length:
            raise DataError(
                f"the transcript {longest!r:.80} has {tokens} tokens, but the model writes at most "
                f"{model.config.max_length} (max_length): raise model.max_length= for a new model, or shorten it"
            )

    def make_augment(self, model: Any, noise: float) -> NoiseAugment:
        """What turns a raw batch into one of the model."""
        return SpectrogramBatches(model.preprocess, noise, self.spec_augment)


class SpectrogramBatches(NoiseAugment):
    """Makes Whisper's spectrograms of a batch of waveforms, in training with noise and with SpecAugment.

    Args:
        preprocess: Processor of the model.
        noise: Maximum noise level as a fraction of the clip's RMS level; the level is sampled for each clip.
        spec_augment: Masks in training; None has none.
    """

    def __init__(
        self, preprocess: WhisperProcessor, noise: float = 0.0, spec_augment: SpecAugment | None = None
    ) -> None:
        super().__init__(noise)
        self.preprocess, self.spec_augment = preprocess, spec_augment

    def __call__(self, batch: Mapping[str, Any], *, seed: int, step: int, train: bool) -> dict[str, Any]:
        """Convert a batch of Utterances to input_features [B, F, T], labels [B, L] and index [B]."""
        waves, _ = self.waves(batch, seed, train)
        features = self.preprocess.batch([wave[:count] for wave, count in zip(waves, batch["lengths"])])
        result = features | {name: batch[name] for name in ("labels", "index") if name in batch}
        if train and self.spec_augment is not None:
            hop = int(self.preprocess.sampling_rate * self.preprocess.frame_shift * 0.001)
            masked = self.spec_augment(
                features | {"index": batch["index"], "epoch": batch["epoch"], "frames": batch["samples"] // hop + 1},
                seed=seed, step=step, train=True,
            )  # fmt: skip
            result["input_features"] = masked["input_features"]
        return result
