"""Data options of the recipes. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zoo.data.augment_config import AugmentSettings, SpectrogramAugmentSettings
from zoo.data.base_config import BaseDataSettings, GroupSettings, ItemDataSettings, LabelSettings, ShardSettings


@dataclass(frozen=True, kw_only=True)
class DataSettings(ShardSettings, LabelSettings):
    """Labeled images for classification.

    Attributes:
        name: Dataset: `auto` (CIFAR-10, or the synthetic dataset if CIFAR-10 is not available), `cifar10`, `synthetic`,
            a folder with one sub-folder per class, a folder with train and test tables, a table (.csv .tsv .jsonl
            .json .parquet), a folder of WebDataset shards (.tar) or of several parquet files, which are read piece by
            piece, or `name` or `org/name` on the Hugging Face Hub (`org/name:config` for one of its configurations).
        image: Column of the images or image files in a table, member of the images in shards.
        label: Column of the labels in a table, member or JSON key of the labels in shards.
        data_dir: Folder that contains `cifar10/{train,test}.parquet`. Default: `ZOO_DATA_DIR`, then the Hugging Face
            Hub.
        size: Height and width in pixels of the images. Default: what the model takes, `model.image_size`, which it must
            equal.
        statistics: Mean and standard deviation that images are normalized with: `data` (of the training images) or
            `model` (saved with the weights). `auto` is `model` with `model.source=`, else `data`.
        cache_decoded: Keep decoded images in the user's cache, so that the next start reads them from there. They are
            decoded again after any change of the files. Images of shards are never kept.
        on_device: Copy the training images to the device once, and gather batches there. `auto` does so on a GPU if
            they have the size of the model, at most 2 GB and a tenth of the free memory. The batches are the same.
        augment: Augmentation of the training images.
    """

    preferred: ClassVar[str] = "cifar10"
    image: str = ""
    label: str = ""
    batch_size: int = 128
    size: int | None = None
    statistics: Literal["auto", "data", "model"] = "auto"
    cache_decoded: bool = True
    on_device: bool | Literal["auto"] = "auto"
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            self._at_least(1, "size")


@dataclass(frozen=True, kw_only=True)
class TextDataSettings(LabelSettings):
    """Labeled texts for classification or regression.

    Attributes:
        name: Dataset: `synthetic` (generated sentences; also `auto`), `sst2`, a table (.csv .tsv .jsonl .json
            .parquet .txt), a folder with a train table and optional validation and test tables, or `name` or
            `org/name` on the Hugging Face Hub (`org/name:config` for one of its configurations, e.g.
            `nyu-mll/glue:sst2`).
        data_dir: Folder that contains `sst2/`. Default: `ZOO_DATA_DIR`, then the Hugging Face Hub.
        text: Column of the texts. Two columns separated by a comma are text pairs (`premise,hypothesis`).
        label: Column of the labels. Several comma-separated columns of zeros and ones are multi-label targets, several
            columns of other numbers a regression of all of them; empty cells are left out of the loss.
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`. `auto` infers it from
            the labels.
        validation: Table to validate on. Default: the validation split of the dataset, or else the fraction
            `trainer.val_fraction` of the training texts.
        test: Table to test on. Default: the test split of the dataset, or else 10 % of the training texts.
        max_length: Maximum number of tokens per text.
        truncate: How to handle longer texts: `warn` truncates with a warning, `cut` truncates silently, `error` raises.
        group_by_length: Group texts of similar length into the same batch.
    """

    text: str = ""
    label: str = ""
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    validation: str | None = None
    test: str | None = None
    max_length: int = 256
    truncate: Literal["warn", "cut", "error"] = "warn"
    group_by_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(3, "max_length")


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(BaseDataSettings):
    """Plain text for language modeling.

    Attributes:
        name: Dataset: `synthetic` (generated text; also `auto`), `tinyshakespeare`, `sst2` (its training sentences), a
            text file, a folder of .txt files, a table with a text column, or a hub dataset, `org/name` or
            `org/name:config` (its training texts).
        data_dir: Folder that contains `sst2/` and `tinyshakespeare/`. Default: `ZOO_DATA_DIR`, for `sst2` then the
            Hugging Face Hub.
        text: Column of the texts in a table.
    """

    text: str = ""


@dataclass(frozen=True, kw_only=True)
class StreamSettings(ShardSettings, CorpusSettings):
    """Text as one token stream, split into blocks of the model's `max_length`.

    Attributes:
        name: Dataset: `synthetic` (generated text; also `auto`), `tinyshakespeare`, `sst2` (its training sentences), a
            text file, a folder of .txt files, a folder of .txt, .jsonl or .parquet files larger than memory (see
            `streaming`), a table with a text column, or a hub dataset, `org/name` or `org/name:config` (its training
            texts).
        tokens: Tokenizer: `characters`, or `bpe` trained on the text (size: `vocab_size=`).
        streaming: Read a folder of texts piece by piece: it is tokenized once, to a file that is mapped into memory.
            `auto` does so for .jsonl and .parquet files, folders with `train` and `val` or `test`, and more than 1 GB.
        packing: Of texts that are read piece by piece: `documents` packs them into rows and keeps attention within
            each, `concatenate` lets it reach over their ends.
        shuffle_window: Number of rows that are shuffled together where texts are read piece by piece; 0 is 8,192.
    """

    tokens: Literal["characters", "bpe"] = "characters"
    streaming: bool | Literal["auto"] = "auto"
    packing: Literal["documents", "concatenate"] = "documents"


@dataclass(frozen=True, kw_only=True)
class LinesSettings(CorpusSettings):
    """Text as separate sequences, one per line, table row or record.

    Attributes:
        name: Dataset: `synthetic` (generated text, for models of proteins generated sequences; also `auto`),
            `tinyshakespeare`, `sst2` (its training sentences), a text file, a folder of .txt files, a FASTA file or a
            folder of them, a table with a text column, or a hub dataset, `org/name` or `org/name:config` (its training
            texts).
        max_length: Maximum number of tokens per sequence. Longer texts are split into several sequences.
        group_by_length: Group sequences of similar length into the same batch.
    """

    max_length: int = 128
    group_by_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(3, "max_length")


@dataclass(frozen=True, kw_only=True)
class AudioSourceSettings(ItemDataSettings):
    """Options shared by all audio datasets.

    Attributes:
        data_dir: Folder that contains `fsdd/`. Default: `ZOO_DATA_DIR`.
        audio: Column of the audio in a table: encoded bytes, file paths, or both as written by `datasets`.
        sampling_rate: Sampling rate in Hz of the model input. 0 uses the model's, or for a new model that of the files.
        resample: Resample files with a different sampling rate instead of raising an error.
        speaker: Column of the speaker names, used by `held_out_speaker`.
        held_out_speaker: Test on this speaker only and train on all others.
    """

    audio: str = ""
    sampling_rate: int = 0
    resample: bool = False
    speaker: str = "speaker"
    held_out_speaker: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(0, "sampling_rate")
        if 0 < self.sampling_rate < 1000:
            raise ValueError(f"sampling_rate={self.sampling_rate}: expected a sampling rate in Hz, such as 16000")


@dataclass(frozen=True, kw_only=True)
class LabeledAudioSettings(AudioSourceSettings, LabelSettings):
    """Labeled audio clips, for any task.

    Attributes:
        label: Column of the labels in a table.
        max_duration: Length of the model's input window in seconds. 0 uses the longest training clip, at most 10
            seconds.
        augment: Augmentation of the training clips.
    """

    label: str = ""
    max_duration: float = 0.0
    augment: SpectrogramAugmentSettings = field(default_factory=SpectrogramAugmentSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_duration < 0:
            raise ValueError(f"max_duration={self.max_duration}: expected a duration in seconds, or 0")


@dataclass(frozen=True, kw_only=True)
class AudioDataSettings(ShardSettings, LabeledAudioSettings):
    """Labeled audio clips for classification.

    Attributes:
        name: Dataset: `synthetic` (synthesized clips; also `auto`), `fsdd` (spoken digits), a folder with one
            sub-folder per class (directly, then split 9:1, or inside train/ and test/), a folder with train and test
            tables, a table (.parquet .csv .tsv .jsonl), a folder of WebDataset shards (.tar) or of several parquet
            files, which are read piece by piece, or `name` or `org/name` on the Hugging Face Hub (`org/name:config` for
            one of its configurations).
        audio: Column of the audio in a table: encoded bytes, file paths, or both as written by `datasets`; member of
            the audio in shards.
        label: Column of the labels in a table, member or JSON key of the labels in shards.
    """


@dataclass(frozen=True, kw_only=True)
class SpeechSettings(AudioSourceSettings, GroupSettings):
    """Transcribed speech for speech recognition.

    Attributes:
        name: Dataset: `synthetic_speech` (letters spelled as synthesized tones; also `synthetic` and `auto`),
            `synthetic_phrases` (phrases in synthesized speech), `fsdd` (sequences of spoken digits), a folder with
            train and test tables or with metadata.csv, a table (.parquet .csv .tsv .jsonl), or `name` or `org/name` on
            the Hugging Face Hub (`org/name:config` for one of its configurations).
        max_train_samples: Maximum number of training clips, the first ones; with `fsdd` the number of sequences in each
            epoch. 0 uses all clips, or makes as many sequences as there are clips.
        max_test_samples: Maximum number of test clips, the first ones; with `fsdd` the number of test sequences. 0 uses
            all clips, or makes 300 sequences.
        text: Column of the transcripts in a table.
        max_duration: Maximum length of a clip in seconds. Longer clips raise an error, or are skipped with
            `on_error=skip`; sequences of digits are shortened to it.
        digits: Maximum number of digits per sequence (`fsdd` only); the minimum is 1.
        pause: Maximum pause between two words in seconds (`fsdd` and `synthetic_phrases` only).
        tempo: Maximum speed perturbation in training, as a fraction: 0.1 plays clips at 0.9 to 1.1 times their speed,
            which also changes the pitch.
        noise: Maximum level of the noise added in training, as a fraction of the clip's RMS level.
        group_by_length: Group clips of similar length into the same batch.
    """

    synthetic: ClassVar[str] = "synthetic_speech"
    text: str = ""
    max_duration: float = 20.0
    digits: int = 5
    pause: float = 0.15
    tempo: float = 0.1
    noise: float = 0.05
    group_by_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_duration <= 0:
            raise ValueError(f"max_duration={self.max_duration}: expected a duration in seconds above 0")
        self._at_least(1, "digits")
        self._at_least(0, "pause", "noise")
        if not 0.0 <= self.tempo < 0.9:
            raise ValueError(f"tempo={self.tempo}: expected a fraction of at least 0 and less than 0.9")


@dataclass(frozen=True, kw_only=True)
class SpecAugmentSettings:
    """SpecAugment in training: masks on the spectrograms.

    Attributes:
        freq_masks: Number of frequency masks; 0 disables them.
        freq_width: Maximum width of a frequency mask in mel bins.
        time_masks: Number of time masks; 0 disables them.
        time_width: Maximum width of a time mask in frames.
    """

    freq_masks: int = 2
    freq_width: int = 4
    time_masks: int = 2
    time_width: int = 8

    def __post_init__(self) -> None:
        for name in ("freq_masks", "freq_width", "time_masks", "time_width"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class Seq2SeqSpeechSettings(SpeechSettings):
    """Transcribed speech for sequence-to-sequence models.

    Attributes:
        name: Dataset: `synthetic_phrases` (phrases in synthesized speech; also `synthetic` and `auto`),
            `synthetic_speech` (letters spelled as synthesized tones), `fsdd` (sequences of spoken digits), a folder
            with train and test tables or with metadata.csv, a table (.parquet .csv .tsv .jsonl), or `name` or
            `org/name` on the Hugging Face Hub (`org/name:config` for one of its configurations).
        language: Language of the transcripts as a code or name, such as `en`; for pretrained models of several
            languages only.
        augment: SpecAugment in training.
    """

    synthetic: ClassVar[str] = "synthetic_phrases"
    language: str = ""
    augment: SpecAugmentSettings = field(default_factory=SpecAugmentSettings)


def no_augment() -> AugmentSettings:
    """Default augmentation of image-caption pairs: no crop and no flip, because captions may mention positions."""
    return AugmentSettings(crop=0, flip=0.0)


@dataclass(frozen=True, kw_only=True)
class CaptionedImageSettings(ItemDataSettings):
    """Images with captions, for any task.

    Attributes:
        data_dir: Folder that contains `emoji/`. Default: `ZOO_DATA_DIR`.
        images: Column of the images or image files.
        captions: Column of the captions. A list in one row, or several rows with the same image file, give an image
            several captions: training samples one of them per epoch, evaluation uses the first.
        test: Table (or shards) to test on. Default: the test split of the dataset, or else 10 % of the training pairs.
        batch_size: Pairs per optimizer step, summed over all devices.
        max_length: Maximum number of tokens per caption. Longer captions are truncated with a warning.
        cache_decoded: Keep decoded images in the user's cache, so that the next start reads them from there. They are
            decoded again after any change of the files.
        augment: Augmentation of the training images. An image whose captions mention left or right is never flipped.
    """

    smallest_batch: ClassVar[int] = 2  # the contrastive loss compares pairs
    images: str = ""
    captions: str = ""
    test: str | None = None
    batch_size: int = 128
    max_length: int = 64
    cache_decoded: bool = True
    augment: AugmentSettings = field(default_factory=no_augment)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(3, "max_length")
        if self.augment.mixes:
            raise ValueError("mixup and cutmix blend two images, which no caption describes: set mixup=0 cutmix=0")


@dataclass(frozen=True, kw_only=True)
class PairDataSettings(ShardSettings, CaptionedImageSettings):
    """Images with captions.

    Attributes:
        name: Dataset: `synthetic` (generated scenes; also `auto`), `emoji`, a table of images or image files with
            captions (.csv .tsv .jsonl .json .parquet), a folder with such tables or with captions.csv, a folder of
            WebDataset shards (.tar) or of several parquet files, which are read piece by piece, shards by name
            (`shards/{000..009}.tar`), or `name` or `org/name` on the Hugging Face Hub (`org/name:config` for one of its
            configurations).
        images: Column of the images or image files, member of the images in shards.
        captions: Column of the captions, member or JSON key of the captions in shards. A list in one row, or several
            rows with the same image file, give an image several captions: training samples one of them per epoch,
            evaluation uses the first.
    """


@dataclass(frozen=True, kw_only=True)
class AudioPairSettings(LabeledAudioSettings):
    """Audio clips with captions, either given in a table or made from class labels.

    Attributes:
        name: Dataset: `synthetic` (synthesized clips; also `auto`), `fsdd` (spoken digits), a folder with captions.csv
            or with one sub-folder per class, a table (.parquet .csv .tsv .jsonl), or `name` or `org/name` on the
            Hugging Face Hub (`org/name:config` for one of its configurations).
        captions: Column of the captions in a table. Without it, captions are made from the class labels; a table
            without labels has them in a column of a common name, such as `caption`.
        sentences: Caption templates for class labels; `{}` is replaced by the class name. Training samples one per clip
            and epoch; for zero-shot classification their embeddings are averaged.
        held_out_classes: Classes that are excluded from training and used to test zero-shot classification, e.g.
            `[three, seven]`.
        max_length: Maximum number of tokens per caption. Longer captions are truncated with a warning.
    """

    smallest_batch: ClassVar[int] = 2
    captions: str = ""
    sentences: list[str] = field(default_factory=lambda: ["the sound of {}", "{}", "one can hear {}"])
    held_out_classes: list[str] = field(default_factory=list)
    max_length: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(3, "max_length")
        if not self.sentences or any("{}" not in template for template in self.sentences):
            raise ValueError(f"sentences={self.sentences}: expected templates with {{}} for the class name")
