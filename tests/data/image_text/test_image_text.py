"""Images with texts about them: which tokens are predicted, which text of an image is taken, and emoji."""

import io
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from zoo.data.image_text.datamodule import ImageTextDataModule, ImageTextRows, TokenLayout
from zoo.data.image_text.dataset import ImageText, ImageTexts
from zoo.data.image_text.load import load_captions, load_visual_questions
from zoo.data.image_text_config import CaptionDataSettings, VisualQuestionSettings
from zoo.data.keyed_batches import Keys
from zoo.data.splits import DataError, Splits
from zoo.data.synthetic import object_scenes
from zoo.preprocessing.image import ImageProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train

TEXTS = [
    (ImageText("what color?", "red", "color"), ImageText("how many?", "two of them", "count")),
    (ImageText("left or right?", "left", "side"),),
]


@pytest.fixture(scope="module")
def tokenizer() -> TextProcessor:
    return train("bpe", ["what color? red", "how many? two of them", "left or right? left"] * 3, 270, max_length=64)


def images(texts: list[tuple[ImageText, ...]], alternatives: bool = False) -> ImageTexts:
    return ImageTexts(torch.arange(len(texts), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32), texts,
                      alternatives)  # fmt: skip


def test_the_text_and_its_end_are_predicted_and_nothing_else(tokenizer: TextProcessor) -> None:
    layout = TokenLayout((7, 7, 7), end=0, pad=1, max_length=64)
    rows = ImageTextRows(images(TEXTS), tokenizer, layout, types=["count", "color"])
    assert len(rows) == 3
    batch = rows.__getitems__(Keys([0, 1, 2], 0))
    assert batch["types"].tolist() == [1, 0, -1] and batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 0, 1]
    for i, text in enumerate([text for row in TEXTS for text in row]):
        prompt, target = (tokenizer.backend.encode(part).ids for part in (text.prompt, f" {text.target}"))
        whole = [7, 7, 7, *prompt, *target, 0]
        length = batch["lengths"][i]
        assert batch["input_ids"][i, :length].tolist() == whole[:-1] and batch["attention_mask"][i].sum() == length
        assert (batch["input_ids"][i, length:] == 1).all()
        expected = torch.full_like(batch["labels"][i], -100)
        expected[3 + len(prompt) - 1 : length] = torch.tensor([*target, 0])
        assert torch.equal(batch["labels"][i], expected) and batch["prompt_lengths"][i] == 3 + len(prompt)


def test_training_samples_a_text_by_epoch_and_evaluation_takes_the_first_of_alternatives(
    tokenizer: TextProcessor,
) -> None:
    layout = TokenLayout((7,), end=0, pad=1, max_length=64)
    rows = ImageTextRows(images(TEXTS * 10), tokenizer, layout, seed=3)
    taken = [rows.text_rows(Keys(list(range(20)), epoch)) for epoch in (0, 1, 0)]
    assert torch.equal(taken[0], taken[2]) and not torch.equal(taken[0], taken[1])
    assert torch.equal(rows.image_of[taken[0]], torch.arange(20))
    assert len(ImageTextRows(images(TEXTS, alternatives=True), tokenizer, layout)) == 2
    with pytest.raises(ValueError, match="expected at most max_length=4"):
        ImageTextRows(images(TEXTS), tokenizer, TokenLayout((7,), end=0, pad=1, max_length=4))


def test_the_first_epochs_read_captions(tokenizer: TextProcessor) -> None:
    row = (*TEXTS[0], ImageText("describe", "left", "caption"))
    rows = ImageTextRows(images([row, TEXTS[1]] * 10), tokenizer, TokenLayout((7,), end=0, pad=1, max_length=64),
                         seed=3, caption_epochs=2)  # fmt: skip
    expected = [rows.first[i] + (2 if i % 2 == 0 else 0) for i in range(20)]
    assert all(rows.text_rows(Keys(list(range(20)), epoch)).tolist() == expected for epoch in (0, 1))
    assert rows.text_rows(Keys(list(range(20)), 2)).tolist() != expected
    for settings in (dict(scene_captions=False), dict(name="emoji", question="what?", answers="category")):
        with pytest.raises(DataError, match=r"caption_epochs=1 with .*: only the synthetic scenes have captions"):
            chosen = VisualQuestionSettings(caption_epochs=1, **settings)
            load_visual_questions(chosen, processor=ImageProcessor(size=(32, 32)))


def test_the_first_epochs_read_introductory_images_alone_and_the_last_ones_the_others(tokenizer: TextProcessor) -> None:
    part = images(TEXTS * 10)
    part.introductory = torch.arange(20) % 4 == 1
    rows = ImageTextRows(part.take(torch.arange(2, 20)), tokenizer, TokenLayout((7,), end=0, pad=1, max_length=64),
                         seed=3, introductory_epochs=2, introductory_until=3)  # fmt: skip
    keys = list(range(18))
    batches = [rows.__getitems__(Keys(keys, epoch)) for epoch in (1, 2, 3)]
    read = [batch["pixel_values"][:, 0, 0, 0].tolist() for batch in batches]
    assert [[i + 2 for i in batch["index"].tolist()] for batch in batches] == read  # by which images are not flipped
    assert read[:2] == [[5, 9, 13, 17] * 4 + [5, 9], list(range(2, 20))]
    others = [i for i in range(2, 20) if i % 4 != 1]
    assert read[2] == [*others, *others[:4]]


def test_partly_named_scenes_are_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    for split in object_scenes.SPLITS:
        monkeypatch.setitem(object_scenes.SPLITS, split, 40)
    settings = VisualQuestionSettings(partly_named=0.5)
    splits = load_visual_questions(settings, processor=ImageProcessor(size=(32, 32)))
    marked = splits.train.introductory
    assert marked is not None and 8 < marked.sum() < 32 and splits.test.introductory is None
    assert splits.train.scenes is not None and splits.test.scenes is not None and splits.validation is not None
    assert [scene.partly_named for scene in splits.train.scenes] == marked.tolist()
    assert not any(scene.partly_named for part in (splits.test, splits.validation) for scene in part.scenes or [])
    with pytest.raises(DataError, match=r"partly_named=0.5 with data=emoji: only the synthetic scenes"):
        chosen = VisualQuestionSettings(name="emoji", question="what?", answers="category", partly_named=0.5)
        load_visual_questions(chosen, processor=ImageProcessor(size=(32, 32)))
    with pytest.raises(ValueError, match="partly_named_epochs=2 with partly_named=0"):
        VisualQuestionSettings(partly_named_epochs=2)
    with pytest.raises(ValueError, match="expected a fraction from 0 to 1"):
        VisualQuestionSettings(partly_named=2.0)


def test_images_whose_texts_mention_sides_are_not_mirrored(tokenizer: TextProcessor) -> None:
    layout = TokenLayout((7,), end=0, pad=1, max_length=64)
    part = images(TEXTS)
    data = ImageTextDataModule(Splits(part, part, "x", False, "x"), tokenizer, ImageProcessor(size=(32, 32)), layout, 2)
    assert data.prepare.mirrors.tolist() == [True, False]
    ready = data.ready(data.train.__getitems__(Keys([0, 1], 0)))
    assert ready["pixel_values"].is_floating_point() and ready["labels"].shape == ready["input_ids"].shape


@pytest.mark.skipif(not Path(os.environ.get("ZOO_DATA_DIR", ""), "emoji").is_dir(), reason="ZOO_DATA_DIR has no emoji/")
def test_emoji_by_kind_and_by_name() -> None:
    settings = VisualQuestionSettings(name="emoji", question="which kind?", answers="category", max_train_samples=20)
    asked = load_visual_questions(settings, processor=ImageProcessor(size=(64, 64)))
    assert asked.real and len(asked.train) == 20 and len(asked.test) == 187
    assert asked.test.texts[0][0].prompt == "which kind?" and "Flags" in {row[0].target for row in asked.test.texts}
    named = load_captions(CaptionDataSettings(name="emoji", max_train_samples=20),
                          processor=ImageProcessor(size=(64, 64)))  # fmt: skip
    assert named.test.alternatives and named.test.texts[0][0].prompt == "" and len(named.train) == 20


def test_captions_of_partly_named_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    for split in object_scenes.SPLITS:
        monkeypatch.setitem(object_scenes.SPLITS, split, 40)
    splits = load_captions(CaptionDataSettings(partly_named=1.0), processor=ImageProcessor(size=(32, 32)))
    texts, tests = ([text.target for row in part.texts for text in row] for part in (splits.train, splits.test))
    words = {word for text in texts for word in text.split()}
    assert words >= {"object", "circle", "red"} and not any("red circle" in text for text in texts)
    assert not any("object" in text for text in tests)
    with pytest.raises(DataError, match=r"partly_named=0.5 with data=emoji: only the synthetic scenes have names"):
        load_captions(CaptionDataSettings(name="emoji", partly_named=0.5), processor=ImageProcessor(size=(32, 32)))
    with pytest.raises(ValueError, match=r"partly_named=2.0: expected a fraction from 0 to 1"):
        CaptionDataSettings(partly_named=2.0)
    with pytest.raises(ValueError, match=r"partly_named_until=3 with partly_named=1.0 .* scenes of both kinds"):
        CaptionDataSettings(partly_named=1.0, partly_named_until=3)
    with pytest.raises(ValueError, match="no fewer epochs than partly_named_epochs"):
        CaptionDataSettings(partly_named=0.5, partly_named_epochs=4, partly_named_until=3)


def test_questions_about_the_same_bytes_are_about_one_image(tmp_path: Path) -> None:
    """As in datasets with a row for each question: an image must not be both in training and in the test."""
    processor = ImageProcessor(size=(16, 16))

    def png(shade: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (shade, 10, 200)).save(buffer, "PNG")
        return buffer.getvalue()

    rows = [(10 * (i // 4), f"question {i}?", str(i // 4)) for i in range(80)]
    table = {"image": [{"bytes": png(row[0])} for row in rows], "question": [row[1] for row in rows],
             "answer": [row[2] for row in rows]}  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "questions.parquet")
    found = load_visual_questions(VisualQuestionSettings(name=str(tmp_path / "questions.parquet")), processor=processor)
    assert (len(found.train), len(found.test)) == (18, 2)
    answers = [{text.target for row in part.texts for text in row} for part in (found.train, found.test)]
    assert not answers[0] & answers[1] and all(len(row) == 4 for row in found.train.texts)


def test_a_test_table_without_a_usable_image(tmp_path: Path) -> None:
    for split, content in (("train", None), ("test", b"no image")):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{split}.png")
        if content:
            (tmp_path / f"{split}.png").write_bytes(content)
        (tmp_path / f"{split}.csv").write_text(f"file,question,answer\n{split}.png,what?,a dot\n")
    settings = {"processor": ImageProcessor(size=(16, 16))}
    with pytest.raises(DataError, match=r"1 rows cannot be used; .* pass on_error=skip"):
        load_visual_questions(VisualQuestionSettings(name=str(tmp_path)), **settings)
    with pytest.raises(DataError, match=r"no image of test can be used; the first: .*test.csv, line 2"):
        load_visual_questions(VisualQuestionSettings(name=str(tmp_path), on_error="skip"), **settings)
