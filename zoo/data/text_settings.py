"""What a recipe says about texts. Torch-free: `--help` reads this file."""

from dataclasses import dataclass
from typing import Literal


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
