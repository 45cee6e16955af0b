"""Data options that the recipes share: of every dataset, of items, of groups, of labels. Imports no torch."""

import codecs
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class BaseDataSettings:
    """Options of every dataset.

    Attributes:
        batch_size: Items per optimizer step, summed over all devices and accumulation steps.
        num_workers: Number of data loader processes. 0 loads in the main process, which is fastest for data in memory.
        header: Whether the first row of a CSV file names its columns; without a header they are `column_1`, `column_2`,
            ... `auto` looks at the rows.
        sep: Separator of a CSV file: a character, or `comma`, `semicolon`, `tab` or `pipe`. `auto` chooses the one by
            which all rows have the same number of cells.
        encoding: Encoding of a text file, e.g. `cp1252`. `auto` goes by the byte order mark, else it is UTF-8 if the
            file is valid UTF-8, else guessed, with a notice.
    """

    preferred: ClassVar[str] = "synthetic"  # what `auto` stands for, if it is available
    smallest_batch: ClassVar[int] = 1
    name: str = "auto"
    data_dir: str | None = None
    batch_size: int = 32
    num_workers: int = 0
    header: Literal["auto"] | bool = "auto"
    sep: str = "auto"
    encoding: str = "auto"

    def __post_init__(self) -> None:
        self._at_least(self.smallest_batch, "batch_size")
        self._at_least(0, "num_workers")
        if len(self.sep) != 1 and self.sep not in ("auto", "comma", "semicolon", "tab", "pipe"):
            raise ValueError(f"sep={self.sep!r}: expected 'auto', 'comma', 'semicolon', 'tab', 'pipe' or one character")
        try:
            codecs.lookup("utf-8" if self.encoding == "auto" else self.encoding)
        except LookupError:
            raise ValueError(f"encoding={self.encoding!r}: expected 'auto' or an encoding of Python, such as 'utf-8', "
                             f"'cp1252' or 'utf-16'") from None  # fmt: skip

    @property
    def table_format(self) -> dict[str, Any]:
        """The options of `zoo.data.sources.tables.read_table`."""
        return {"header": self.header, "sep": self.sep, "encoding": self.encoding}

    def _at_least(self, least: float, *names: str) -> None:
        """Raise ValueError if one of the named settings is below `least`."""
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least {least}")


@dataclass(frozen=True, kw_only=True)
class ShardSettings(BaseDataSettings):
    """Options of data that may be read piece by piece, from folders of shards (*.tar) or parquet files.

    Attributes:
        sources: For a mixture: folders of shards, relative to the folder of `data=`.
        weights: Weight of each of the `sources` in training. Default: its number of items.
        shuffle_window: Number of items of shards that are shuffled together; 0 is 8,192. A greater one needs as much
            more memory with parquet files, and reads from more places.
    """

    sources: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    shuffle_window: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(0, "shuffle_window")
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(f"weights={self.weights}: expected a number for each of the {len(self.sources)} sources= "
                             f"({', '.join(self.sources) or 'none is given'})")  # fmt: skip
        if self.weights and min(self.weights) <= 0:
            raise ValueError(f"weights={self.weights}: expected numbers above 0; leave out sources that are not used")

    @property
    def given_for_shards(self) -> str:
        """The option that is given and makes sense for shards alone, for messages."""
        if self.sources:
            return f"sources={self.sources}"
        return f"shuffle_window={self.shuffle_window}" if self.shuffle_window else ""


@dataclass(frozen=True, kw_only=True)
class ItemDataSettings(BaseDataSettings):
    """Options of the datasets of single items: images, labeled texts, clips, pairs.

    Attributes:
        on_error: How to handle a broken file or an incomplete row: `raise` an error that names it, or `skip` it with a
            warning.
        max_train_samples: Maximum number of training items (a seeded subset, balanced over classes). 0 uses all.
        max_test_samples: Maximum number of test items (a seeded subset, balanced over classes). 0 uses all.
    """

    on_error: Literal["raise", "skip"] = "raise"
    max_train_samples: int = 0
    max_test_samples: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_error not in ("raise", "skip"):
            raise ValueError(f"on_error={self.on_error!r}: expected 'raise' or 'skip'")
        self._at_least(0, "max_train_samples", "max_test_samples")


@dataclass(frozen=True, kw_only=True)
class GroupSettings(ItemDataSettings):
    """Options for items that belong together, such as those of one speaker, author or patient.

    Attributes:
        group_column: Column of the speaker, author or patient: validation and test hold out whole ones.
        group_pattern: The same for folders of files: a regular expression with one group in parentheses, searched in
            the path of each file, e.g. `([^/]+)_[0-9]+` for `dog/anna_1.wav`.
    """

    group_column: str = ""
    group_pattern: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_column and self.group_pattern:
            raise ValueError("group_column= and group_pattern= are both given: give only one of them")
        if self.group_option and self.name.startswith("synthetic"):
            raise ValueError(f"{self.group_option}: synthetic data has no groups; omit it")
        try:
            groups = re.compile(self.group_pattern).groups if self.group_pattern else 1
        except re.error as error:
            raise ValueError(f"group_pattern={self.group_pattern}: not a regular expression ({error})") from None
        if groups != 1:
            raise ValueError(f"group_pattern={self.group_pattern}: expected one group in parentheses, got {groups}")

    @property
    def group_option(self) -> str:
        """The option that is given, for messages."""
        option = f"group_column={self.group_column}" if self.group_column else ""
        return option or (f"group_pattern={self.group_pattern}" if self.group_pattern else "")


@dataclass(frozen=True, kw_only=True)
class LabelSettings(GroupSettings):
    """Options of the datasets with labels.

    Attributes:
        class_names: Names of the classes, for labels that are whole numbers: a list in the order of the numbers, or a
            file with a name a line. The saved model predicts them.
        normalize_labels: Take labels that differ in case or spaces alone (`Pos`, ` pos `) as one class, with the most
            frequent spelling. Otherwise they are different classes, and the banner names them.
    """

    class_names: list[str] | str = field(default_factory=list)
    normalize_labels: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_names and self.name.startswith("synthetic"):
            raise ValueError("class_names= is for your own data: the classes of synthetic data have names; omit it")
