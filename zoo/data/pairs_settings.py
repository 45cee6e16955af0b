"""What a recipe says about pairs of pictures or sounds and texts. Torch-free: `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.settings import AugmentSettings


def no_augment() -> AugmentSettings:
    """What pairs begin with: nothing that moves or mirrors, since captions may speak of places."""
    return AugmentSettings(crop=0, flip=0.0)


@dataclass(frozen=True, kw_only=True)
class PairFeedSettings:
    """How pairs are found and fed.

    Attributes:
        data_dir: Folder that holds the named data sets; without it `ZOO_DATA_DIR`, then the hub.
        captions: Column of the captions; a list in a row, or rows that repeat a picture, are several captions of it.
        test: A table (or shards) to test on; else the data's own test part, else a tenth of the training.
        on_error: What a missing or broken picture or sound does: `stop` lists them and ends, `skip` lists them and goes
            on without them.
        batch_size: Pairs per optimizer step, over all devices.
        workers: Loader processes; 0 gathers batches from memory, which is the fastest.
        train_size: Use only so many training pairs (a seeded choice); 0 takes all.
        test_size: The same for the test pairs.
        longest: Tokens that a caption may have; longer ones are cut, and it is said.
    """

    data_dir: str | None = None
    captions: str = ""
    test: str | None = None
    on_error: Literal["stop", "skip"] = "stop"
    batch_size: int = 128
    workers: int = 0
    train_size: int = 0
    test_size: int = 0
    longest: int = 64

    def __post_init__(self) -> None:
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'stop' or 'skip'")
        if self.batch_size < 2:
            raise ValueError(f"batch_size={self.batch_size}: a pair is told from the others in its batch: at least 2")
        for name, least in (("workers", 0), ("train_size", 0), ("test_size", 0), ("longest", 3)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected {least} or more")


@dataclass(frozen=True, kw_only=True)
class PairDataSettings(PairFeedSettings):
    """Pictures with captions.

    Attributes:
        name: `drawn` (scenes drawn by the program; so does `auto`), `emoji`, a table of files or pictures and captions
            (.csv .tsv .jsonl .json .parquet), a folder with such tables or with captions.csv, webdataset shards
            (`shards/{000..009}.tar`), or `org/name` on the hub.
        pictures: Column of the pictures, or of their files.
        augment: Augmentation of the training pictures. A picture whose captions speak of left or right is never
            mirrored.
    """

    name: str = "auto"
    pictures: str = ""
    augment: AugmentSettings = field(default_factory=no_augment)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment.mixes:
            raise ValueError("mixup and cutmix make a picture of two, and no caption says both: set mixup=0 cutmix=0")


@dataclass(frozen=True, kw_only=True)
class SoundPairSettings(PairFeedSettings):
    """Sounds with captions.

    Attributes:
        name: `spoken_digits` (the Free Spoken Digit Dataset with sentences about each take), `tones` (sounds made by
            the program; `auto` takes the first where it can be had), a table of files or sounds and captions, a folder
            with such tables or with captions.csv, or `org/name` on the hub.
        sounds: Column of the sounds, or of their files.
        unseen: Of the named sets: words whose sounds and captions are kept out of training and tested on, e.g.
            `[three, seven]`.
        mask_time: Longest stretch of frames that is blanked in a training sound, as a share; 0 blanks none.
        mask_bands: The same for the bands of a spectrogram.
        noise: Strength of noise in training waveforms or spectrograms, in their own units; 0 adds none.
    """

    name: str = "auto"
    sounds: str = ""
    unseen: list[str] = field(default_factory=list)
    mask_time: float = 0.0
    mask_bands: float = 0.0
    noise: float = 0.0
