"""What a recipe says about pairs of pictures or sounds and texts. Torch-free: `--help` reads this file."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.data.audio_settings import AudioDataSettings
from zoo.data.settings import AugmentSettings


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
