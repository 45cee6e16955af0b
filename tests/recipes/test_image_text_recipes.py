"""The recipes that write texts about images, with tiny models: their files, what they resume, and what they refuse."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from recipe_calls import RESUMED, caller, check_resumed_run, result

import zoo
from zoo.data.image_text.datamodule import ImageTextRows, TokenLayout
from zoo.data.image_text.dataset import ImageText, ImageTexts
from zoo.data.keyed_batches import Keys
from zoo.data.synthetic import object_scenes
from zoo.inference.generation.generate import generate
from zoo.models.bridge.model import Bridge
from zoo.preprocessing.tokenizer_training import train
from zoo.training.recipes import vqa
from zoo.training.recipes.image_text_config import CaptionSettings, VQASettings
from zoo.training.recipes.towers import tower_overrides
from zoo.training.recipes.vqa import AnswersFile, Baselines

call = caller({"vqa": VQASettings, "caption": CaptionSettings})
QUIET = ("progress=false", "log_every=1", "data.batch_size=8")
TINY = {
    "vqa": (*QUIET, "image.width=12", "image.mlp_dim=12", "image.depth=1", "text.width=12", "text.mlp_dim=12",
            "text.depth=1"),
    "caption": (*QUIET, "width=12", "mlp_dim=12", "depth=1", "model.decoder_depth=2"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for split, count in (("train", 48), ("validation", 4), ("test", 6)):
        monkeypatch.setitem(object_scenes.SPLITS, split, count)


@pytest.mark.parametrize("by", ["projector", "cross"])
def test_the_files_of_a_run_that_answers_questions(by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps_alone: list[int] = []
    monkeypatch.setattr(vqa, "_warmup_cosine", lambda step, steps: steps_alone.append(steps) or 1.0)
    assert call("vqa", tmp_path / "run", *TINY["vqa"], "steps=2", f"by={by}") == 0
    assert steps_alone == [2, 2]  # those of the run, which are fewer than the 600 of language_steps
    printed, notices = capsys.readouterr()
    assert "caption_epochs=5, and the run has 1 epoch: it reads captions alone" in notices
    assert "Synthetic data" in printed and "language alone" in printed and "images of others" in printed
    metrics = result(tmp_path / "run")["result"]
    for start in ("", "shuffled_images_", "language_alone_", "image_alone_"):
        assert {f"test_{start}accuracy{end}" for end in ("", "_color", "_attributes", "_relations")} <= metrics.keys()
    assert {"questions.png", "curves.png", "model"} <= {file.name for file in (tmp_path / "run").iterdir()}
    with open(tmp_path / "run" / "answers.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row["answer"] == row["prediction"] for row in rows]
    assert sum(right) / len(rows) == pytest.approx(metrics["test_accuracy"], abs=1e-5)
    model = zoo.load(tmp_path / "run")
    assert isinstance(model, Bridge) and model.config.by == by
    images = object_scenes.make_object_scenes("test", 6).images
    own = [row for row in rows if row["answer"] != row["prediction"]][:2]
    shown = [[Image.fromarray(images[int(row["image"])].permute(1, 2, 0).numpy())] for row in own]
    texts = zoo.generate(model, text=[row["question"] for row in own], images=shown, max_new_tokens=16)
    assert [" ".join(text.split()) for text in texts] == [row["prediction"] for row in own]


def test_the_files_of_a_run_that_writes_captions(tmp_path: Path) -> None:
    assert call("caption", tmp_path / "run", *TINY["caption"], "steps=2") == 0
    found = result(tmp_path / "run")
    names = {"cider", "bleu", "caption_accuracy", "attribute_accuracy"}
    names |= {
        f"pointing_{name}"
        for name in ("attention", "rollout", "gradient", "layer0", "overlap", "overlap_chance", "chance", "named")
    }
    assert {f"test_{name}" for name in names} <= found["result"].keys()
    assert found["bleu_signature"].startswith("nrefs:var|") and "val_cider" in found["validation"]
    assert {"grounding.png", "captions.csv"} <= {file.name for file in (tmp_path / "run").iterdir()}
    with open(tmp_path / "run" / "captions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    model = zoo.load(tmp_path / "run")
    images = object_scenes.make_object_scenes("test", 2).images
    pixels = model.preprocess.image([Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images])["pixel_values"]
    written = generate(model, pixel_values=pixels, max_new_tokens=24)
    texts = [" ".join(model.preprocess.text.decode(row).split()) for row in written]
    assert texts == [row["caption"] for row in rows[:2]]


@pytest.mark.parametrize(("given", "expected"), [
    ({}, {"image": "local", "text": "linear"}),
    ({"model.overrides.attention"}, {"image": "linear", "text": "linear"}),
    ({"model.overrides.attention", "model.overrides.image.attention"}, {"image": "local", "text": "linear"}),
    ({"image.name"}, {"image": "linear", "text": "linear"}),
])  # fmt: skip
@pytest.mark.parametrize("turned", [False, True])
def test_attention_for_both_towers(given: set[str], expected: dict[str, str], turned: bool) -> None:
    """That of one tower in the recipe's YAML gives way to that for both which the user gives."""
    overrides = {"image.attention": "local", "attention": "linear"}
    config = SimpleNamespace(model=SimpleNamespace(overrides=dict(sorted(overrides.items(), reverse=turned))),
                             image=SimpleNamespace(name="vit"), text=SimpleNamespace(name="llama"))  # fmt: skip
    towers, own = tower_overrides(cast(Any, SimpleNamespace(config=config, given=given)), ("image", "text"))
    assert {name: fields["attention"] for name, fields in towers.items()} == expected and not own


def test_language_alone_is_trained_on_all_scenes() -> None:
    tokenizer = train("bpe", ["what? red"] * 3, 262, max_length=64)
    part = ImageTexts(torch.zeros(8, 3, 32, 32, dtype=torch.uint8), [(ImageText("what?", "red"),)] * 8,
                      introductory=torch.arange(8) < 2)  # fmt: skip
    rows = ImageTextRows(part, tokenizer, TokenLayout((7, 7), end=0, pad=1, max_length=64), seed=0, caption_epochs=1,
                         introductory_epochs=2)  # fmt: skip
    alone = Baselines.without_images(rows, TokenLayout((0,), end=0, pad=1, max_length=64))
    keys = Keys(list(range(8)), 0)
    assert alone.text_rows(keys).tolist() == list(range(8)) and rows.text_rows(keys).tolist() == [0, 1] * 4


@pytest.mark.parametrize("wrong", [[], [1]], ids=["all right", "a long answer"])
def test_the_answers_of_the_test_split(wrong: list[int], tmp_path: Path) -> None:
    """A model that has all answers right is not asked again; a long answer is generated to its end."""
    tokenizer = train("bpe", ["what? red"] * 3, 262, max_length=64)
    texts = [(ImageText("what?", "red"), ImageText("what else?", "an answer of many more letters than sixteen"))]
    rows = ImageTextRows(ImageTexts(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), texts), tokenizer,
                         TokenLayout((7, 7), end=0, pad=1, max_length=64), seed=None)  # fmt: skip
    asked: list[int] = []

    def generated(model: torch.nn.Module, batch: dict[str, Any], **options: int) -> list[str]:
        asked.append(options["max_new_tokens"])
        return ["nothing"]

    task = SimpleNamespace(wrong=wrong, predictions={}, evaluated=torch.nn.Linear(1, 1), generate=generated)
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(test=rows, ready=lambda batch: batch))
    AnswersFile(tmp_path).on_test_end(trainer, cast(Any, task))
    with open(tmp_path / "answers.csv", encoding="utf-8", newline="") as file:
        found = [row["prediction"] for row in csv.DictReader(file)]
    assert found == ["red", "nothing" if wrong else texts[0][1].target]
    needed = len(tokenizer.encode(texts[0][1].target)) + 1  # and the space before it
    assert len(asked) == len(wrong) and all(16 < needed <= count <= needed + 1 for count in asked)


def test_questions_of_a_table(tmp_path: Path) -> None:
    lines = ["file,question,answer,type"]
    for i in range(24):
        Image.new("RGB", (40, 30), (i * 10, 0, 99)).save(tmp_path / f"{i}.png")
        lines += [f"{i}.png,how red is it?,{'very' if i > 12 else 'hardly'},red", f"{i}.png,is it blue?,yes,blue"]
    (tmp_path / "train.csv").write_text("\n".join([*lines, "gone.png,what?,nothing,red"]))
    words = (*TINY["vqa"], f"data={tmp_path}", "steps=1", "plots=false", "baselines=false")
    assert call("vqa", tmp_path / "run", *words) == 2
    assert call("vqa", tmp_path / "run", *words, "on_error=skip") == 0
    found = result(tmp_path / "run")
    assert found["real"] and {"test_accuracy_red", "test_accuracy_blue"} <= found["result"].keys()


@pytest.mark.parametrize("name", sorted(TINY))
def test_interrupted_and_started_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("baselines=false",) if name == "vqa" else ("val_samples=0",)
    check_resumed_run(lambda folder: call(name, folder, *TINY[name], *more, *RESUMED), tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "words", "says"), [
    ("vqa", ["image.name=bert_tiny"], "image"),
    ("vqa", ["image.image_size=16"], "at least 24"),
    ("vqa", ["data.max_length=4"], "expected at most max_length="),
    ("vqa", ["by=glue"], "projector"),
    ("vqa", ["data=emojis"], "did you mean 'emoji'"),
    ("caption", ["model=bert_tiny"], "bert_tiny"),
    ("caption", ["vocab_size=100"], "vocab_size=100 is too small"),
    ("caption", ["data.max_length=3"], "expected at most max_length=3"),
    ("caption", ["num_beams=0"], "num_beams=0: expected at least 1"),
])  # fmt: skip
def test_what_they_refuse(name: str, words: list[str], says: str, tmp_path: Path,
                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    given = {word.partition("=")[0] for word in words}
    rest = [word for word in TINY[name] if word.partition("=")[0] not in given]
    assert call(name, tmp_path / "run", *rest, *words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error
