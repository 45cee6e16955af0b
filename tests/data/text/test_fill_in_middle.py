"""Documents packed into rows, and their middles."""

import random
from collections.abc import Sequence

import pytest
import torch

from zoo.data.keyed_batches import Keys
from zoo.data.splits import Splits
from zoo.data.text.corpus import Corpus
from zoo.data.text.fill_in_middle import FillInMiddle, FillInMiddleDataModule, PackedDocuments, choose_span
from zoo.data.text_config import CodeSettings, FillInMiddleSettings
from zoo.preprocessing.fill_in_middle import fill_in_middle_tokens
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.errors import DataError

FILES = [f"def f{i}(x):\n    # é\n    y = x + {i}\n    return y * {i * i}\n" * (1 + i % 4) for i in range(12)]
ALWAYS = FillInMiddleSettings(rate=1.0)


@pytest.fixture(scope="module")
def processor() -> TextProcessor:
    return train("code", FILES, 300)


def corpus(texts: Sequence[str]) -> Corpus:
    return Corpus(list(texts), "files", True, "files")


def restored(ids: list[int], processor: TextProcessor) -> str:
    """The text of tokens in either order; they end with the end token."""
    tokens = fill_in_middle_tokens(processor)
    assert ids[0] == tokens.prefix and ids[-1] == processor.id("eos")
    suffix, middle = ids.index(tokens.suffix), ids.index(tokens.middle)
    after = processor.decode(ids[suffix + 1 : middle])
    if suffix == 1:
        return processor.decode(ids[middle + 1 : -1]) + after
    return processor.decode(ids[1:suffix]) + processor.decode(ids[middle + 1 : -1]) + after


def test_no_character_is_lost(processor: TextProcessor) -> None:
    middle = FillInMiddle(ALWAYS, processor)
    for number, text in enumerate(FILES):
        ids = middle(text, 0, number)
        assert ids is not None and restored(ids, processor) == text
        assert ids == middle(text, 0, number)
    first, second = ([middle(text, epoch, 0) for text in FILES] for epoch in (0, 1))
    assert first != second


def test_what_is_too_long_is_cut_on_the_outside(processor: TextProcessor) -> None:
    middle, text = FillInMiddle(FillInMiddleSettings(rate=1.0, spm_rate=0.0), processor), FILES[3]
    tokens, cut, dropped = fill_in_middle_tokens(processor), 0, 0
    for number in range(30):
        whole, short = middle(text, number), middle(text, number, room=60)
        assert whole is not None
        behind = whole[whole.index(tokens.middle) :]
        if short is None:  # the middle alone is longer
            dropped += 1
            assert len(behind) + 2 > 60
            continue
        cut += len(short) < len(whole)
        assert len(short) == min(60, len(whole)) and short[short.index(tokens.middle) :] == behind
        before, after = restored(whole, processor), restored(short, processor)
        assert after in before or short.index(tokens.middle) - short.index(tokens.suffix) > 1
    assert cut and dropped


def test_rates_and_orders(processor: TextProcessor) -> None:
    settings = FillInMiddleSettings(rate=0.5, spm_rate=0.25)
    found = [FillInMiddle(settings, processor)(FILES[3], number) for number in range(800)]
    rearranged = [ids for ids in found if ids is not None]
    suffix = fill_in_middle_tokens(processor).suffix
    assert len(rearranged) / 800 == pytest.approx(0.5, abs=0.06)
    # some prefixes are empty
    assert 0.2 < sum(ids[1] == suffix for ids in rearranged) / len(rearranged) < 0.4


def test_spans_of_characters_and_of_lines() -> None:
    text, numbers = "a\nbc\n\nd", random.Random(0)
    spans = {choose_span(text, numbers, 0.0) for _ in range(2000)}
    assert spans == {(i, j) for i in range(8) for j in range(i, 8)}
    lines = {text[slice(*choose_span(text, numbers, 1.0))] for _ in range(2000)}
    assert lines == {"", "a", "bc", "d", "a\nbc", "bc\n", "a\nbc\n", "bc\n\nd", "\nd", text}


@pytest.mark.parametrize("unit", ["context", "document"])
def test_rows_are_a_function_of_the_key(processor: TextProcessor, unit: str) -> None:
    settings = FillInMiddleSettings(rate=0.7, unit=unit)  # type: ignore[arg-type]
    one, other = (PackedDocuments(FILES, processor, 24, FillInMiddle(settings, processor, 3)) for _ in range(2))
    rows = list(range(len(one)))
    whole = one.__getitems__(Keys(rows, 1))
    assert whole["input_ids"].shape == whole["labels"].shape == (len(one), 24) and len(one) > 8
    other.__getitems__(Keys([4], 0))
    alone = other.__getitems__(Keys([5], 1))  # as after a resumed epoch
    assert torch.equal(alone["input_ids"][0], whole["input_ids"][5])
    assert torch.equal(alone["labels"][0], whole["labels"][5])
    assert not torch.equal(one.__getitems__(Keys(rows, 2))["input_ids"], whole["input_ids"])
    real = whole["labels"][:, :-1] >= 0
    assert torch.equal(whole["labels"][:, :-1][real], whole["input_ids"][:, 1:][real])
    assert (whole["input_ids"] == fill_in_middle_tokens(processor).middle).any()


def test_all_tokens_of_an_epoch_without_middles(processor: TextProcessor) -> None:
    data = PackedDocuments(FILES, processor, 16, FillInMiddle(FillInMiddleSettings(rate=0.0), processor))
    batch, tokens = data.__getitems__(Keys(list(range(len(data))), 0)), sum(map(len, data.documents))
    assert batch["labels"].ge(0).all() and tokens - 16 < batch["labels"].numel() <= tokens
    counts = torch.bincount(batch["labels"].flatten(), minlength=300)
    assert (counts <= torch.bincount(torch.cat(data.documents), minlength=300)).all()


def test_an_evaluation_predicts_each_token_once(processor: TextProcessor) -> None:
    part = corpus(FILES)
    module = FillInMiddleDataModule(Splits(part, part, "files", True, "files"), processor, 2, length=16)
    batch = module.test.__getitems__(Keys(list(range(len(module.test))), 0))
    expected = torch.cat(module.test.documents)[1:].long()
    assert torch.equal(batch["labels"][batch["labels"] >= 0], expected) and len(expected) == module.test.predicted
    size = sum(len(text.encode()) for text in FILES)
    assert module.tokens_per_byte("test") == pytest.approx(len(expected) / size) and size > len("".join(FILES))


def test_what_is_refused(processor: TextProcessor) -> None:
    part = corpus(FILES)
    splits = Splits(part, part, "files", True, "files")
    with pytest.raises(ValueError, match="no tokens for fill-in-the-middle"):
        FillInMiddleDataModule(splits, train("bpe", FILES, 300), 2, length=16)
    FillInMiddleDataModule(splits, train("bpe", FILES, 300), 2, length=16, middle=FillInMiddleSettings(rate=0.0))
    with pytest.raises(DataError, match="no end token"):
        PackedDocuments(FILES, train("wordpiece", FILES, 200), 16)
    with pytest.raises(ValueError, match=r"rate=1\.5: expected a fraction"):
        FillInMiddleSettings(rate=1.5)
    with pytest.raises(ValueError, match="unit='file': expected 'context' or 'document'"):
        CodeSettings(fim=FillInMiddleSettings(unit="file"))  # type: ignore[arg-type]
