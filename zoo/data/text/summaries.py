"""Load long texts with their summaries: tables, Hub datasets or synthetic clinic dialogues."""

from zoo.data.sources.find import find_tables
from zoo.data.splits import Splits
from zoo.data.synthetic.clinic import make_dialogues
from zoo.data.text.parallel import ParallelTexts, splits_of_tables
from zoo.data.text_config import SummarySettings

# Common names of columns.
SOURCE_NAMES = ("dialogue", "document", "article", "text", "source", "conversation", "transcript", "content", "body")
TARGET_NAMES = ("summary", "note", "highlights", "abstract", "target", "headline", "title")


def load_summaries(settings: SummarySettings | None = None, *, seed: int = 0) -> Splits[ParallelTexts]:
    """Load texts with their summaries, and the facts that these must keep if the data has them.

    Args:
        settings: Dataset and options; see `SummarySettings`.
        seed: Seed of splits and subsets.

    Raises:
        DataError: An unknown name or column, a missing or malformed file, an empty text or a malformed fact. The
            message names the row and says how to fix it.
    """
    s = settings or SummarySettings()
    if s.name in ("auto", "synthetic", "synthetic_clinic"):
        sets = synthetic_clinic()
    else:
        source, s = find_tables(s, "summarization")
        sets = splits_of_tables(source, s, seed, SOURCE_NAMES, TARGET_NAMES, s.facts)
    return sets.limited(s.max_train_samples, s.max_test_samples, seed)


def synthetic_clinic() -> Splits[ParallelTexts]:
    """The synthetic dataset of clinic dialogues with notes."""
    train, test = (
        ParallelTexts([row["dialogue"] for row in rows], [row["note"] for row in rows],
                      [[tuple(fact) for fact in row["facts"]] for row in rows])
        for rows in (make_dialogues("train"), make_dialogues("test"))
    )  # fmt: skip
    return Splits(train, test, "synthetic", False, "generated clinic dialogues with notes",
                  test_name="medications in doses that training lacks")  # fmt: skip
