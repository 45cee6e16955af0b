"""The data options of the recipes. Torch-free: `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Training-time augmentation of images; every image draws for itself, every batch is one tensor.

    Attributes:
        crop: Padding in pixels around the image before a random crop of the original size; 0 switches it off.
        flip: Probability of a left-right flip.
        policy: Colour and geometry policy, or none.
        operations: Operations per image of `policy=randaugment`.
        magnitude: Strength of `policy=randaugment`, 0 to 30.
        erasing: Probability of random erasing.
        mixup: Alpha of the Beta distribution of MixUp; 0 switches it off.
        cutmix: Alpha of the Beta distribution of CutMix; 0 switches it off. With both, each image takes one of them.
        mix_probability: Share of images that are mixed when `mixup` or `cutmix` is on.
    """

    crop: int = 4
    flip: float = 0.5
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    operations: int = 2
    magnitude: int = 9
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise ValueError(f"crop={self.crop}: expected a padding of 0 pixels or more")
        for name in ("flip", "erasing", "mix_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a probability from 0 to 1")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected the alpha of a Beta distribution, or 0")
        if self.policy not in ("none", "randaugment", "trivialaugment"):
            raise ValueError(f"policy={self.policy!r}: expected 'none', 'randaugment' or 'trivialaugment'")
        if not 0 <= self.magnitude <= 30:
            raise ValueError(f"magnitude={self.magnitude}: expected 0 (nothing) to 30 (strongest)")
        if self.operations < 1:
            raise ValueError(f"operations={self.operations}: expected 1 or more; policy=none switches them off")

    @property
    def mixes(self) -> bool:
        """Whether labels become soft targets."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the images come from and how they are fed.

    Attributes:
        name: `auto` (CIFAR-10, and the embedded set where it cannot be had), `cifar10`, `embedded`, or a folder
            with one sub-folder per class.
        data_dir: Folder that holds `cifar10/{train,test}.parquet`; without it `ZOO_DATA_DIR`, then the hub.
        on_error: What a broken image does: `stop` names it and ends, `skip` names it and goes on without it.
        batch_size: Images per optimizer step, over all devices and accumulation steps.
        workers: Loader processes; 0 gathers batches from one tensor in memory, which is the fastest for small images.
        train_size: Use only so many training images (a seeded, class-balanced choice); 0 takes all.
        test_size: The same for the test images.
        size: Height and width that images of a user's folder are resized to.
        augment: Augmentation of the training images.
    """

    name: str = "auto"
    data_dir: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    batch_size: int = 128
    workers: int = 0
    train_size: int = 0
    test_size: int = 0
    size: int = 32
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'stop' or 'skip'")
        for name, least in (("batch_size", 1), ("size", 1), ("workers", 0), ("train_size", 0), ("test_size", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected {least} or more")


@dataclass(frozen=True, kw_only=True)
class FeedSettings:
    """How items are fed.

    Attributes:
        data_dir: Folder that holds `sst2/` and `tinyshakespeare/`; without it `ZOO_DATA_DIR`, then the hub.
        batch_size: Texts per optimizer step, over all devices and accumulation steps.
        workers: Loader processes; 0 gathers batches from memory, which is the fastest.
    """

    data_dir: str | None = None
    batch_size: int = 32
    workers: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0), ("train_size", 0), ("test_size", 0), ("longest", 3)):
            if getattr(self, name, least) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected {least} or more")


@dataclass(frozen=True, kw_only=True)
class TextDataSettings(FeedSettings):
    """Labelled texts.

    Attributes:
        name: `embedded` (sentences composed by the program; so does `auto`), `sst2`, a table (.csv .tsv .jsonl .json
            .parquet), a folder with train and, if there are such, validation and test tables, or `org/name` on the hub,
            `org/name:config` for one of its configurations (`nyu-mll/glue:sst2`).
        text: Column of the texts; two with a comma between them are pairs (`premise,hypothesis`).
        label: Column of the labels; several with commas, of zeros and ones, are several labels a row.
        kind: `one` class a text, `several`, or a `number`; `auto` looks at the labels.
        validation: A table to validate on; else the data's own validation part, else `trainer.holdout` of the training.
        test: A table to test on; else the data's own test part, else a tenth of the training.
        on_error: What a row without a text or a label does: `stop` names it and ends, `skip` goes on without it.
        train_size: Use only so many training texts (a seeded, class-balanced choice); 0 takes all.
        test_size: The same for the test texts.
        longest: Tokens that a text may have.
        truncate: What happens to a longer one: `warn` cuts it and says so, `cut` cuts it, `error` ends.
        buckets: Put texts of like length into a batch.
    """

    name: str = "auto"
    text: str = ""
    label: str = ""
    kind: Literal["auto", "one", "several", "number"] = "auto"
    validation: str | None = None
    test: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    train_size: int = 0
    test_size: int = 0
    longest: int = 256
    truncate: Literal["warn", "cut", "error"] = "warn"
    buckets: bool = True


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(FeedSettings):
    """Plain text to learn a language from.

    Attributes:
        name: `embedded` (composed by the program; so does `auto`), `tinyshakespeare`, `sst2` (its training sentences),
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
        longest: Tokens that a piece may have; longer texts are cut into several.
        buckets: Put pieces of like length into a batch.
    """

    longest: int = 128
    buckets: bool = True


@dataclass(frozen=True, kw_only=True)
class SoundSettings:
    """Sounds, and how they are fed.

    Attributes:
        data_dir: Folder that holds `fsdd/`; without it `ZOO_DATA_DIR`.
        audio: Column of the sounds in a table: bytes, paths, or both as `datasets` writes them.
        rate: Samples per second that the model hears; 0 takes the model's or, for a fresh one, that of the files.
        resample: Convert files of another rate instead of refusing them.
        speaker: Column that says who speaks, for `hold_speaker`.
        hold_speaker: Test on this speaker alone, and train on all others.
        on_error: What a broken file, or a row that lacks something, does: `stop` names it and ends, `skip` names it
            and goes on without it.
        batch_size: Sounds per optimizer step, over all devices and accumulation steps.
        workers: Loader processes; 0 gathers batches from memory, which is the fastest.
        train_size: Use only so many training sounds (a seeded choice); 0 takes all.
        test_size: The same for the test sounds.
    """

    data_dir: str | None = None
    audio: str = ""
    rate: int = 0
    resample: bool = False
    speaker: str = "speaker"
    hold_speaker: str = ""
    on_error: Literal["stop", "skip"] = "stop"
    batch_size: int = 32
    workers: int = 0
    train_size: int = 0
    test_size: int = 0

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'stop' or 'skip'")
        for name, least in (("batch_size", 1), ("workers", 0), ("train_size", 0), ("test_size", 0), ("rate", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected {least} or more")
        if 0 < self.rate < 1000:
            raise ValueError(f"rate={self.rate}: expected samples per second, such as 16000")


@dataclass(frozen=True, kw_only=True)
class HearSettings:
    """Training-time augmentation of spectrograms; every clip draws for itself, every batch is one tensor.

    Attributes:
        shift: Put a clip that is shorter than the model's window at any place in it, not at its beginning.
        stretch: Greatest change of tempo, as a share: 0.1 plays a clip at 0.9 to 1.1 of its tempo.
        tilt: Greatest change of pitch, in mel bins up or down.
        gain: Greatest change of loudness, in decibels up or down.
        freq_masks: Bands of mel bins that are hidden (SpecAugment).
        freq_width: The widest of them, in mel bins.
        time_masks: Stretches of time that are hidden.
        time_width: The longest of them, in frames.
    """

    shift: bool = True
    stretch: float = 0.15
    tilt: int = 2
    gain: float = 6.0
    freq_masks: int = 2
    freq_width: int = 8
    time_masks: int = 2
    time_width: int = 10

    def __post_init__(self) -> None:
        for name in ("tilt", "gain", "freq_masks", "freq_width", "time_masks", "time_width"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0.0 <= self.stretch < 0.9:
            raise ValueError(f"stretch={self.stretch}: expected a share of at least 0 and less than 0.9")


@dataclass(frozen=True, kw_only=True)
class AudioDataSettings(SoundSettings):
    """Sounds of named classes.

    Attributes:
        name: `embedded` (synthesised by the program; so does `auto`), `fsdd` (spoken digits), a folder with a
            sub-folder for each class (inside train/ and test/, or to be split 9 : 1), a folder with train and test
            tables, a table (.parquet .csv .tsv .jsonl), or `org/name` on the hub.
        label: Column of the labels in a table.
        seconds: Length of sound that the model hears at a time; 0 takes the longest training clip, and 10 at most.
        augment: Augmentation of the training sounds.
    """

    name: str = "auto"
    label: str = ""
    seconds: float = 0.0
    augment: HearSettings = field(default_factory=HearSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seconds < 0:
            raise ValueError(f"seconds={self.seconds}: expected a length of sound, or 0")


@dataclass(frozen=True, kw_only=True)
class SpeechSettings(SoundSettings):
    """Sounds and what is said in them.

    Attributes:
        name: `embedded` (letters spelled in tones, synthesised by the program; so does `auto`), `fsdd` (strings of
            spoken digits), a folder with train and test tables or with metadata.csv, a table (.parquet .csv .tsv
            .jsonl), or `org/name` on the hub.
        text: Column of the transcripts in a table.
        longest: Seconds of the longest clip that is taken; longer ones are an error, or left out by `on_error=skip`.
        digits: The most digits of a string (`fsdd`); each has at least one.
        pause: The longest pause between two digits, in seconds.
        tempo: Greatest change of speed in training, pitch included: 0.1 plays a clip at 0.9 to 1.1 of its speed.
        noise: The strongest noise in training, as a share of the clip's loudness.
        buckets: Put clips of like length into a batch.
    """

    name: str = "auto"
    text: str = ""
    longest: float = 20.0
    digits: int = 5
    pause: float = 0.15
    tempo: float = 0.1
    noise: float = 0.05
    buckets: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest <= 0:
            raise ValueError(f"longest={self.longest}: expected seconds above 0")
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
        name: `drawn` (scenes drawn by the program; so does `auto`), `emoji`, a table of files or pictures and captions
            (.csv .tsv .jsonl .json .parquet), a folder with such tables or with captions.csv, webdataset shards
            (`shards/{000..009}.tar`), or `org/name` on the hub.
        data_dir: Folder that holds `emoji/`; without it `ZOO_DATA_DIR`.
        images: Column of the pictures, or of their files.
        captions: Column of the captions; a list in a row, or rows that repeat a picture, are several captions of it.
            Training draws one of them, what is tested is the first.
        test: A table (or shards) to test on; else the data's own test part, else a tenth of the training.
        on_error: What missing or broken pictures do: `stop` lists them and ends, `skip` lists them and goes on without.
        batch_size: Pairs per optimizer step, over all devices.
        workers: Loader processes; 0 gathers batches from memory, which is the fastest.
        train_size: Use only so many training pairs (a seeded choice); 0 takes all.
        test_size: The same for the test pairs.
        longest: Tokens that a caption may have; longer ones are cut, and it is said.
        augment: Augmentation of the training pictures. A picture whose captions speak of left or right is never
            mirrored.
    """

    name: str = "auto"
    data_dir: str | None = None
    images: str = ""
    captions: str = ""
    test: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    batch_size: int = 128
    workers: int = 0
    train_size: int = 0
    test_size: int = 0
    longest: int = 64
    augment: AugmentSettings = field(default_factory=no_augment)

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'stop' or 'skip'")
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size}: a pair is told from the others in its batch: at least 2")
        for name, least in (("workers", 0), ("train_size", 0), ("test_size", 0), ("longest", 3)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected {least} or more")
        if self.augment.mixes:
            raise ValueError("mixup and cutmix make a picture of two, and no caption says both: set mixup=0 cutmix=0")


@dataclass(frozen=True, kw_only=True)
class SoundPairSettings(AudioDataSettings):
    """Sounds with captions: written ones, or sentences about the classes that sounds are of.

    Attributes:
        name: `embedded` (synthesised by the program; so does `auto`), `fsdd` (spoken digits), a folder with
            captions.csv or with a sub-folder for each class, a table (.parquet .csv .tsv .jsonl), or `org/name` on the
            hub.
        captions: Column of the captions in a table; without one, sentences are made of the labels.
        sentences: What is said of a sound of a class, `{}` standing for its name. Training draws one for each sound
            and epoch; a prompt is the mean over all of them.
        unseen: Classes whose sounds and names are kept out of training, and tested on: `[three, seven]`.
        longest: Tokens that a caption may have; longer ones are cut, and it is said.
    """

    captions: str = ""
    sentences: list[str] = field(default_factory=lambda: ["the sound of {}", "{}", "one can hear {}"])
    unseen: list[str] = field(default_factory=list)
    longest: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size}: a pair is told from the others in its batch: at least 2")
        if not self.sentences or any("{}" not in one for one in self.sentences):
            raise ValueError(f"sentences={self.sentences}: expected at least one, each with {{}} for the class's name")
