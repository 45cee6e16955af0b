"""What is held out for validation or testing is not trained on, and nothing is lost, whatever the data is."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from zoo.data.audio.load import load_audio
from zoo.data.audio.speech import load_speech
from zoo.data.audio.tables import AudioClips
from zoo.data.audio.transcribed import WordSequences
from zoo.data.config import (
    AudioDataSettings,
    LinesSettings,
    PairDataSettings,
    SpeechSettings,
    StreamSettings,
    TextDataSettings,
)
from zoo.data.image.datamodule import ImageDataModule
from zoo.data.image.dataset import ImageDataset
from zoo.data.image.load import load_images
from zoo.data.keyed_batches import Keys
from zoo.data.pairs.load import load_pairs
from zoo.data.splits import Splits, held_out_mask
from zoo.data.text.corpus import load_corpus, text_tokenizer
from zoo.data.text.datamodule import TextChunksDataModule, TextLinesDataModule
from zoo.data.text.load import load_texts
from zoo.preprocessing.tokenizer_training import train as train_tokenizer
from zoo.utils.errors import DataError

N = 40


def check(*parts: Iterable[Any]) -> None:
    """The parts have no item in common, none twice, and all N items together."""
    items = [item for part in parts for item in part]
    assert len(items) == len(set(items)) == N
    assert all(list(part) for part in parts)


def colors(images: torch.Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def pitches(clips: Any) -> list[int]:
    return [len(clips[i]) for i in range(len(clips))]


def parts_of(splits: Splits[Any]) -> list[Any]:
    held_out = splits.with_validation(0.2, 0)
    return [held_out.train, held_out.validation, held_out.test]


def write_images(folder: Path) -> None:
    for i in range(N):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / "ab"[i % 2] / f"{i}.png")


def write_clips(folder: Path) -> None:
    for i in range(N):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "ab"[i % 2] / f"{i}.wav", np.full(1000 + i, 0.1, dtype="float32"), 8000)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_the_mask_has_the_fraction_of_each_class(classes: int, fraction: float) -> None:
    labels = torch.arange(60) % classes
    held = held_out_mask(labels, fraction, 0)
    assert [int(held[labels == k].sum()) for k in range(classes)] == [max(1, round(fraction * 60 / classes))] * classes


def test_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    train, val, test = parts_of(load_images(str(tmp_path), size=8))
    check(colors(train.images), colors(val.images), colors(test.images))
    data = ImageDataModule(load_images(str(tmp_path), size=8).with_validation(0.2, 0), 4)
    check(colors(data.train.images), colors(data.val.images), colors(data.test.images))


def test_images_keep_their_labels() -> None:
    labels = torch.arange(N) % 4
    images = labels[:, None, None, None].expand(N, 3, 2, 2).to(torch.uint8)
    whole = ImageDataset(images, labels, list("abcd"))
    for part in parts_of(Splits(whole, whole, "shades", False, "written here")):
        assert colors(part.images) == part.labels.tolist()


def test_texts(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(N)))
    check(*(part.texts for part in parts_of(load_texts(TextDataSettings(name=str(file))))))


def test_audio(tmp_path: Path) -> None:
    write_clips(tmp_path)
    check(*(pitches(part.clips) for part in parts_of(load_audio(AudioDataSettings(name=str(tmp_path))))))


def test_speech(tmp_path: Path) -> None:
    write_clips(tmp_path)
    rows = [f"{'ab'[i % 2]}/{i}.wav,words of {i}" for i in range(N)]
    (tmp_path / "rows.csv").write_text("\n".join(["file,text", *rows]))
    parts = parts_of(load_speech(SpeechSettings(name=str(tmp_path / "rows.csv"))))
    check(*(part.transcripts for part in parts))
    check(*(pitches(part.clips) for part in parts))


def test_words_of_spoken_sequences() -> None:
    """A clip is part of the sequences of training or of those of validation, also where the loader held out none."""
    words = ["one", "two", "six"] * 20
    clips = AudioClips.of([torch.full((10 + i,), float(i)) for i in range(60)], 8000)
    whole = WordSequences(clips, words, [], 0, 3, 0.1, 0)
    train, val, _ = parts_of(Splits(whole, whole, "digits", True, "written here"))
    assert not set(pitches(train.clips)) & set(pitches(val.clips)) and len(train) == 48 and len(val) == 12
    assert sorted(train.words + val.words) == sorted(words) and set(val.words) == set(words)
    assert {pitch: word for part in (train, val) for pitch, word in zip(pitches(part.clips), part.words)} == dict(
        zip(range(10, 70), words)
    )


def test_pairs(tmp_path: Path) -> None:
    write_images(tmp_path)
    rows = [f"{'ab'[i % 2]}/{i}.png,caption of {i}" for i in range(N)]
    (tmp_path / "captions.csv").write_text("\n".join(["file,caption", *rows]))
    parts = parts_of(load_pairs(PairDataSettings(name=str(tmp_path)), size=(8, 8)))
    check(*(part.captions for part in parts))
    check(*(colors(part.items) for part in parts))


def test_lines_of_masked_language_modeling(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("".join(f"line number {i} .\n" for i in range(N)))
    lines = load_corpus(LinesSettings(name=str(tmp_path / "lines.txt"))).split_lines(0.2, 0)
    check(lines.train.texts, lines.test.texts)
    tokenizer = train_tokenizer("wordpiece", lines.train.texts, 200, max_length=16)
    data = TextLinesDataModule(lines, tokenizer, 4)
    batches = [part.__getitems__(Keys(list(range(len(part))), 0)) for part in (data.train, data.val)]
    check(*([tokenizer.decode(row) for row in batch["input_ids"]] for batch in batches))
    assert data.val is data.test
    with pytest.raises(DataError, match="has 1 lines, which is too few"):
        replace(lines.train, texts=["one"]).split_lines(0.2, 0)


def test_the_end_of_a_long_text(tmp_path: Path) -> None:
    """Chunks of training end before the held-out text begins."""
    text = "".join(chr(0x4E00 + i) for i in range(400))  # each character once
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    corpus = load_corpus(StreamSettings(name=str(tmp_path / "text.txt")))
    splits = corpus.split_at_end(0.25)
    tokenizer = text_tokenizer(splits, "characters", 0, 16, None)
    data = TextChunksDataModule(splits, tokenizer, 2, length=16)
    train, val = ({tokenizer.decode([i]) for i in part.ids.tolist()} for part in (data.train, data.val))
    with pytest.raises(DataError, match="val_fraction=0 leaves no text"):
        corpus.split_at_end(0.0)
    assert train | val == set(text) and not train & val and len(val) == 100
