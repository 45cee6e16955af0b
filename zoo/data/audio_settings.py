"""What a recipe says about sounds. Torch-free: `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal


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
