"""The data options of the recipes. Torch-free: `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Any, Literal

from zoo.data.augment_config import AugmentSettings, SpectrogramAugmentSettings


def _at_least(settings: Any, least: int, *names: str) -> None:
    """Raises ValueError for a setting below `least`; one that the settings do not have passes."""
    for name in names:
        if getattr(settings, name, least) < least:
            raise ValueError(f"{name}={getattr(settings, name)}: expected {least} or more")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the images come from and how they are fed.

    Attributes:
        name: `auto` (CIFAR-10, and the synthetic set where it cannot be had), `cifar10`, `synthetic`, or a folder
            with one sub-folder per class.
        data_dir: Folder that holds `cifar10/{train,test}.parquet`; without it `ZOO_DATA_DIR`, then the hub.
        on_error: What a broken image does: `raise` names it and ends, `skip` names it and goes on without it.
        batch_size: Images per optimizer step, over all devices and accumulation steps.
        num_workers: Loader processes; 0 gathers batches from one tensor in memory, which is the fastest for small images.
        max_train_samples: Use only so many training images (a seeded, class-balanced choice); 0 takes all.
        max_test_samples: The same for the test images.
        size: Height and width that images of a user's folder are resized to.
        augment: Augmentation of the training images.
    """

    name: str = "auto"
    data_dir: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    batch_size: int = 128
    num_workers: int = 0
    max_train_samples: int = 0
    max_test_samples: int = 0
    size: int = 32
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'raise' or 'skip'")
        _at_least(self, 0, "num_workers", "max_train_samples", "max_test_samples")
        _at_least(self, 1, "batch_size", "size")


@dataclass(frozen=True, kw_only=True)
class FeedSettings:
    """How items are fed.

    Attributes:
        data_dir: Folder that holds `sst2/` and `tinyshakespeare/`; without it `ZOO_DATA_DIR`, then the hub.
        batch_size: Texts per optimizer step, over all devices and accumulation steps.
        num_workers: Loader processes; 0 gathers batches from memory, which is the fastest.
    """

    data_dir: str | None = None
    batch_size: int = 32
    num_workers: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 0, "num_workers", "max_train_samples", "max_test_samples")
        _at_least(self, 1, "batch_size")
        _at_least(self, 3, "max_length")


@dataclass(frozen=True, kw_only=True)
class TextDataSettings(FeedSettings):
    """Labeled texts.

    Attributes:
        name: `synthetic` (sentences made by the program; so does `auto`), `sst2`, a table (.csv .tsv .jsonl .json
            .parquet), a folder with train and, if there are such, validation and test tables, or `org/name` on the hub,
            `org/name:config` for one of its configurations (`nyu-mll/glue:sst2`).
        text: Column of the texts; two with a comma between them are pairs (`premise,hypothesis`).
        label: Column of the labels; several with commas, of zeros and ones, are several labels a row.
        problem_type: `single_label_classification`, `multi_label_classification` or `regression`; `auto` looks at the
            labels.
        validation: A table to validate on; else the data's own validation part, else `trainer.val_fraction` of the training.
        test: A table to test on; else the data's own test part, else a tenth of the training.
        on_error: What a row without a text or a label does: `raise` names it and ends, `skip` goes on without it.
        max_train_samples: Use only so many training texts (a seeded, class-balanced choice); 0 takes all.
        max_test_samples: The same for the test texts.
        max_length: Tokens that a text may have.
        truncate: What happens to a longer one: `warn` cuts it and says so, `cut` cuts it, `error` ends.
        group_by_length: Put texts of like length into a batch.
    """

    name: str = "auto"
    text: str = ""
    label: str = ""
    problem_type: Literal["auto", "single_label_classification", "multi_label_classification", "regression"] = "auto"
    validation: str | None = None
    test: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    max_train_samples: int = 0
    max_test_samples: int = 0
    max_length: int = 256
    truncate: Literal["warn", "cut", "error"] = "warn"
    group_by_length: bool = True


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(FeedSettings):
    """Plain text to learn a language from.

    Attributes:
        name: `synthetic` (made by the program; so does `auto`), `tinyshakespeare`, `sst2` (its training sentences),
            a text file, a folder of .txt files, or a table with a column of texts.
        text: Column of the texts in a table.
    """

    name: str = "auto"
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class StreamSettings(CorpusSettings):
    """One long text, cut into pieces as long as the model's `max_length`.

    Attributes:
        tokens: `characters`, or `bpe` learned from the text (its size: `vocab_size=`).
    """

    tokens: Literal["characters", "bpe"] = "characters"


@dataclass(frozen=True, kw_only=True)
class LinesSettings(CorpusSettings):
    """Texts of their own, a line or a row each.

    Attributes:
        max_length: Tokens that a piece may have; longer texts are cut into several.
        group_by_length: Put pieces of like length into a batch.
    """

    max_length: int = 128
    group_by_length: bool = True


@dataclass(frozen=True, kw_only=True)
class AudioSourceSettings:
    """Sounds, and how they are fed.

    Attributes:
        data_dir: Folder that holds `fsdd/`; without it `ZOO_DATA_DIR`.
        audio: Column of the sounds in a table: bytes, paths, or both as `datasets` writes them.
        sampling_rate: Samples per second that the model hears; 0 takes the model's or, for a fresh one, that of the files.
        resample: Convert files of another rate instead of refusing them.
        speaker: Column that says who speaks, for `held_out_speaker`.
        held_out_speaker: Test on this speaker alone, and train on all others.
        on_error: What a broken file, or a row that lacks something, does: `raise` names it and ends, `skip` names it
            and goes on without it.
        batch_size: Sounds per optimizer step, over all devices and accumulation steps.
        num_workers: Loader processes; 0 gathers batches from memory, which is the fastest.
        max_train_samples: Use only so many training sounds (a seeded choice); 0 takes all.
        max_test_samples: The same for the test sounds.
    """

    data_dir: str | None = None
    audio: str = ""
    sampling_rate: int = 0
    resample: bool = False
    speaker: str = "speaker"
    held_out_speaker: str = ""
    on_error: Literal["raise", "skip"] = "raise"
    batch_size: int = 32
    num_workers: int = 0
    max_train_samples: int = 0
    max_test_samples: int = 0

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'raise' or 'skip'")
        _at_least(self, 0, "num_workers", "max_train_samples", "max_test_samples", "sampling_rate")
        _at_least(self, 1, "batch_size")
        if 0 < self.sampling_rate < 1000:
            raise ValueError(f"sampling_rate={self.sampling_rate}: expected samples per second, such as 16000")


@dataclass(frozen=True, kw_only=True)
class AudioDataSettings(AudioSourceSettings):
    """Sounds of named classes.

    Attributes:
        name: `synthetic` (synthesized by the program; so does `auto`), `fsdd` (spoken digits), a folder with a
            sub-folder for each class (inside train/ and test/, or to be split 9 : 1), a folder with train and test
            tables, a table (.parquet .csv .tsv .jsonl), or `org/name` on the hub.
        label: Column of the labels in a table.
        max_duration: Length of sound that the model hears at a time; 0 takes the longest training clip, and 10 at most.
        augment: Augmentation of the training sounds.
    """

    name: str = "auto"
    label: str = ""
    max_duration: float = 0.0
    augment: SpectrogramAugmentSettings = field(default_factory=SpectrogramAugmentSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_duration < 0:
            raise ValueError(f"max_duration={self.max_duration}: expected a length of sound, or 0")


@dataclass(frozen=True, kw_only=True)
class SpeechSettings(AudioSourceSettings):
    """Sounds and what is said in them.

    Attributes:
        name: `synthetic` (letters spelled in tones, synthesized by the program; so does `auto`), `fsdd` (strings of
            spoken digits), a folder with train and test tables or with metadata.csv, a table (.parquet .csv .tsv
            .jsonl), or `org/name` on the hub.
        text: Column of the transcripts in a table.
        max_duration: Seconds of the longest clip that is taken; longer ones are an error, or left out by `on_error=skip`.
        digits: The most digits of a string (`fsdd`); each has at least one.
        pause: The longest pause between two digits, in seconds.
        tempo: Greatest change of speed in training, pitch included: 0.1 plays a clip at 0.9 to 1.1 of its speed.
        noise: The strongest noise in training, as a share of the clip's loudness.
        group_by_length: Put clips of like length into a batch.
    """

    name: str = "auto"
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
            raise ValueError(f"max_duration={self.max_duration}: expected seconds above 0")
        if self.digits < 1:
            raise ValueError(f"digits={self.digits}: expected at least 1")
        for name in ("pause", "noise"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0.0 <= self.tempo < 0.9:
            raise ValueError(f"tempo={self.tempo}: expected a share of at least 0 and less than 0.9")


def no_augment() -> AugmentSettings:
    """What pairs begin with: nothing that moves or mirrors, since captions may speak of places."""
    return AugmentSettings(crop=0, flip=0.0)


@dataclass(frozen=True, kw_only=True)
class PairDataSettings:
    """Pictures with captions.

    Attributes:
        name: `synthetic` (scenes made by the program; so does `auto`), `emoji`, a table of files or pictures and captions
            (.csv .tsv .jsonl .json .parquet), a folder with such tables or with captions.csv, webdataset shards
            (`shards/{000..009}.tar`), or `org/name` on the hub.
        data_dir: Folder that holds `emoji/`; without it `ZOO_DATA_DIR`.
        images: Column of the pictures, or of their files.
        captions: Column of the captions; a list in a row, or rows that repeat a picture, are several captions of it.
            Training draws one of them, what is tested is the first.
        test: A table (or shards) to test on; else the data's own test part, else a tenth of the training.
        on_error: What missing or broken pictures do: `raise` lists them and ends, `skip` lists them and goes on without.
        batch_size: Pairs per optimizer step, over all devices.
        num_workers: Loader processes; 0 gathers batches from memory, which is the fastest.
        max_train_samples: Use only so many training pairs (a seeded choice); 0 takes all.
        max_test_samples: The same for the test pairs.
        max_length: Tokens that a caption may have; longer ones are cut, and it is said.
        augment: Augmentation of the training pictures. A picture whose captions speak of left or right is never
            mirrored.
    """

    name: str = "auto"
    data_dir: str | None = None
    images: str = ""
    captions: str = ""
    test: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    batch_size: int = 128
    num_workers: int = 0
    max_train_samples: int = 0
    max_test_samples: int = 0
    max_length: int = 64
    augment: AugmentSettings = field(default_factory=no_augment)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'raise' or 'skip'")
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size}: a pair is told from the others in its batch: at least 2")
        _at_least(self, 0, "num_workers", "max_train_samples", "max_test_samples")
        _at_least(self, 3, "max_length")
        if self.augment.mixes:
            raise ValueError("mixup and cutmix make a picture of two, and no caption says both: set mixup=0 cutmix=0")


@dataclass(frozen=True, kw_only=True)
class AudioPairSettings(AudioDataSettings):
    """Sounds with captions: written ones, or sentences about the classes that sounds are of.

    Attributes:
        name: `synthetic` (synthesized by the program; so does `auto`), `fsdd` (spoken digits), a folder with
            captions.csv or with a sub-folder for each class, a table (.parquet .csv .tsv .jsonl), or `org/name` on the
            hub.
        captions: Column of the captions in a table; without one, sentences are made of the labels.
        sentences: What is said of a sound of a class, `{}` standing for its name. Training draws one for each sound
            and epoch; a prompt is the mean over all of them.
        held_out_classes: Classes whose sounds and names are kept out of training, and tested on: `[three, seven]`.
        max_length: Tokens that a caption may have; longer ones are cut, and it is said.
    """

    captions: str = ""
    sentences: list[str] = field(default_factory=lambda: ["the sound of {}", "{}", "one can hear {}"])
    held_out_classes: list[str] = field(default_factory=list)
    max_length: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size}: a pair is told from the others in its batch: at least 2")
        if not self.sentences or any("{}" not in one for one in self.sentences):
            raise ValueError(f"sentences={self.sentences}: expected at least one, each with {{}} for the class's name")
