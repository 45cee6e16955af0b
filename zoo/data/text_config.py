"""Data options of the recipes for words, questions, pairs and recall. Imports no torch, so that `--help` is fast."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from zoo.data.config import CorpusSettings, ItemDataSettings


@dataclass(frozen=True, kw_only=True)
class TaggedTextSettings(ItemDataSettings):
    """Sentences whose words have tags, such as named entities or parts of speech.

    Attributes:
        name: Dataset: `synthetic` (generated sentences; also `auto`), a CoNLL file (a word in each line, with its tag
            in the last column; sentences are separated by blank lines), a table with lists of words and tags (.jsonl
            .json .parquet), a folder with a train file of one of these kinds and optional validation and test files,
            or `name` or `org/name` on the Hugging Face Hub (`org/name:config` for one of its configurations).
        data_dir: Folder of the files of a dataset with a card; there is none for words with tags.
        tokens: Column of the lists of words in a table.
        tags: Column of the lists of tags in a table.
        validation: File to validate on. Default: the validation split of the dataset, or else the fraction
            `trainer.val_fraction` of the training sentences.
        test: File to test on. Default: the test split of the dataset, or else 10 % of the training sentences.
        max_length: Maximum number of tokens of a window. Longer sentences are split into windows that overlap, so that
            no word is lost.
        group_by_length: Group sentences of similar length into the same batch.
    """

    tokens: str = ""
    tags: str = ""
    validation: str | None = None
    test: str | None = None
    max_length: int = 256
    group_by_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(8, "max_length")


@dataclass(frozen=True, kw_only=True)
class QuestionSettings(ItemDataSettings):
    """Questions with contexts that hold their answers.

    Attributes:
        name: Dataset: `synthetic` (generated facts; also `auto`), a JSON file of SQuAD, a table with the columns of
            SQuAD (`question`, `context`, `answers`: .jsonl .json .parquet), a folder with a train file of one of these
            kinds and optional validation and test files, or `name` or `org/name` on the Hugging Face Hub
            (`org/name:config` for one of its configurations).
        data_dir: Folder of the files of a dataset with a card; there is none for questions.
        validation: File to validate on. Default: the validation split of the dataset, or else the fraction
            `trainer.val_fraction` of the training questions.
        test: File to test on. Default: the test split of the dataset, or else 10 % of the training questions.
        max_length: Maximum number of tokens of a window: the question and a part of the context.
        doc_stride: Number of tokens that a window of the context has in common with the one before it. Default: a
            quarter of `max_length`, as in predictions.
        group_by_length: Group windows of similar length into the same batch.
    """

    validation: str | None = None
    test: str | None = None
    max_length: int = 384
    doc_stride: int | None = None
    group_by_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(16, "max_length")
        if self.doc_stride is not None:
            self._at_least(0, "doc_stride")


@dataclass(frozen=True, kw_only=True)
class ParallelTextSettings(ItemDataSettings):
    """Pairs of a source and a target text, such as sentences and their translations.

    Attributes:
        name: Dataset: `synthetic` (generated sentences; also `auto`), `multi30k`, a table (.csv .tsv .jsonl .json
            .parquet), two text files with the same number of lines (`train.en,train.de`), a folder with a train table,
            or with such files (`train.en`, `train.de`), and optional validation and test ones, or `name` or `org/name`
            on the Hugging Face Hub (`org/name:config` for one of its configurations).
        data_dir: Folder that contains `multi30k/`. Default: `ZOO_DATA_DIR`, then the Hugging Face Hub.
        source_text: Column of the source texts, or language, such as `en`, of the files of a folder. Default: a column
            of a common name, such as `source`, or the first one of two.
        target_text: Column of the target texts, or language of the files of a folder. Default: a column of a common
            name, such as `target`, or the second one of two.
        validation: Table or two files to validate on. Default: the validation split of the dataset, or else the
            fraction `trainer.val_fraction` of the training pairs.
        test: Table or two files to test on. Default: the test split of the dataset, or else 10 % of the training pairs.
        max_source_length: Maximum number of tokens of a source text.
        max_target_length: Maximum number of tokens of a target text.
        truncate: How to handle longer texts: `warn` truncates with a warning, `cut` truncates silently, `error` raises.
        group_by_length: Group pairs of similar length into the same batch.
    """

    source_text: str = ""
    target_text: str = ""
    validation: str | None = None
    test: str | None = None
    max_source_length: int = 128
    max_target_length: int = 128
    truncate: Literal["warn", "cut", "error"] = "warn"
    group_by_length: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(3, "max_source_length", "max_target_length")


@dataclass(frozen=True, kw_only=True)
class SummarySettings(ParallelTextSettings):
    """Long texts with their summaries.

    Attributes:
        name: Dataset: `synthetic` (generated clinic dialogues with notes; also `auto`), a table (.csv .tsv .jsonl .json
            .parquet), a folder with a train table and optional validation and test ones, or `name` or `org/name` on the
            Hugging Face Hub (`org/name:config` for one of its configurations).
        data_dir: Folder of the files of a dataset with a card; there is none for summaries.
        source_text: Column of the long texts. Default: a column of a common name, such as `dialogue` or `article`, or
            the first one of two.
        target_text: Column of the summaries. Default: a column of a common name, such as `summary` or `note`, or the
            second one of two.
        facts: Column of the facts that a summary must keep, by which its faithfulness is measured. Default: `facts` if
            the table has such a column.
        validation: Table to validate on. Default: the validation split of the dataset, or else the fraction
            `trainer.val_fraction` of the training texts.
        test: Table to test on. Default: the test split of the dataset, or else 10 % of the training texts.
        max_source_length: Maximum number of tokens of a long text; a model with fewer positions takes those.
        max_target_length: Maximum number of tokens of a summary.
    """

    facts: str = ""
    max_source_length: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        given = next((name for name in ("source_text", "target_text", "facts") if getattr(self, name)), "")
        if given and (self.name == "auto" or self.name.startswith("synthetic")):
            raise ValueError(f"{given}= is for your own data: the columns of synthetic data are known; omit it")


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(CorpusSettings):
    """Several texts as one token stream, split into blocks of the model's `max_length`.

    Attributes:
        name: Datasets, joined by `+`: `tinyshakespeare`, `multi30k` (its English captions), `python_source` (Python's
            standard library, held out by file), or any text of `gpt_text`: `synthetic` (generated text; also `auto`),
            a text file, a folder of .txt files, a table with a text column, a hub dataset.
        data_dir: Folder that contains `multi30k/` and `tinyshakespeare/`. Default: `ZOO_DATA_DIR`, for `multi30k` then
            the Hugging Face Hub.
        tokens: Tokenizer: `characters`, or `bpe` trained on the text (size: `vocab_size=`).
        max_characters: Maximum number of training characters of each text, so that none outweighs the others; 0 takes
            all. The held-out text is limited in proportion.
        on_missing: How to handle a text that is missing: `raise` an error that names it, or `skip` it with a notice.
    """

    tokens: Literal["characters", "bpe"] = "characters"
    max_characters: int = 0
    on_missing: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(0, "max_characters")


@dataclass(frozen=True, kw_only=True)
class RecallDataSettings:
    """Sequences whose answers stand earlier in the same sequence.

    Attributes:
        name: Dataset: `synthetic` (generated sequences; also `auto`).
        problem: `recall` (keys with their values, then the keys again, whose values are the answers) or `induction`
            (different tokens, then some of them again, whose followers are the answers).
        length: Tokens of a sequence: one half is read, the other half are queries with their answers.
        batch_size: Sequences per optimizer step, summed over all devices and accumulation steps.
        num_workers: Number of data loader processes. 0 loads in the main process, which is fastest for data in memory.
        max_train_samples: Number of training sequences.
        max_test_samples: Number of test sequences, and of as many others for validation.
    """

    preferred: ClassVar[str] = "synthetic"
    name: str = "auto"
    problem: Literal["recall", "induction"] = "recall"
    length: int = 64
    batch_size: int = 32
    num_workers: int = 0
    max_train_samples: int = 16384
    max_test_samples: int = 512

    def __post_init__(self) -> None:
        if self.name not in ("auto", "synthetic"):
            raise ValueError(f"data={self.name}: the sequences are generated; expected data=synthetic, or omit it")
        for name, least in (("length", 8), ("batch_size", 1), ("num_workers", 0), ("max_train_samples", 1),
                            ("max_test_samples", 1)):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least {least}")
        if self.length % 4:
            raise ValueError(f"length={self.length}: expected a multiple of 4, for equal numbers of keys, values, "
                             f"queries and answers")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FillInMiddleSettings:
    """How documents are rearranged for fill-in-the-middle (Bavarian et al. 2022).

    Attributes:
        rate: Fraction of the documents that are rearranged as prefix, suffix and middle.
        spm_rate: Fraction of these whose suffix stands before their prefix.
        unit: What is rearranged: `context`, what a row has of each document, or `document`, each document before it is
            cut into rows, of which few then hold both sides of a middle.
        whole_lines: Fraction of the middles that are whole lines, half of them one line, a quarter two lines and so on;
            the others begin and end at any character.
    """

    rate: float = 0.5
    spm_rate: float = 0.5
    unit: Literal["context", "document"] = "context"
    whole_lines: float = 0.5

    def __post_init__(self) -> None:
        for name in ("rate", "spm_rate", "whole_lines"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a fraction of at least 0 and at most 1")
        if self.unit not in ("context", "document"):
            raise ValueError(f"unit={self.unit!r}: expected 'context' or 'document'")


@dataclass(frozen=True, kw_only=True)
class CodeSettings:
    """Source code for language modeling and fill-in-the-middle.

    Attributes:
        name: Dataset: `python_source` (the standard library of this Python, without its tests), or a folder of Python
            files. Some of the files are held out for validation, as many others for the test.
        batch_size: Rows per optimizer step, summed over all devices and accumulation steps.
        num_workers: Number of data loader processes. 0 loads in the main process.
        fim: How documents are rearranged for fill-in-the-middle.
    """

    name: str = "python_source"
    batch_size: int = 8
    num_workers: int = 0
    fim: FillInMiddleSettings = field(default_factory=FillInMiddleSettings)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least {least}")
