"""The advice of a run: each alarm where it is due, and silence where it is not."""

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_calls import caller
from rich.console import Console
from tiny_run import image_sets, tiny_run

from zoo.data.image.datamodule import ImageDataModule
from zoo.data.splits import Splits
from zoo.data.text.datamodule import TextDataModule
from zoo.data.text.dataset import TextDataset
from zoo.models.ast.model import ASTConfig
from zoo.preprocessing.tokenizer_training import train as train_tokenizer
from zoo.tasks.problem_types import Objective
from zoo.training import advice, baseline
from zoo.training.advice import after_training, before_training, if_longer, longer, loss_still_falls
from zoo.training.banner import LateBaseline
from zoo.training.baseline import Baseline, BaselineThread
from zoo.training.config import ImageSettings
from zoo.training.recipes.audio import patch_hint
from zoo.training.recipes.config import (
    FinetuneSettings,
    GPTSettings,
    QuestionAnsweringSettings,
    SummarizeSettings,
    TokenClassificationSettings,
    TranslateSettings,
)
from zoo.training.recipes.seq2seq_speech_config import SpeechRecognitionSettings
from zoo.training.result import DatasetInfo, Result
from zoo.training.run import Run

BASELINE = Baseline("word counts + logistic regression", "accuracy", 0.82, 0.8, 900, 900, "max", "majority class",
                    0.5, 0.5)  # fmt: skip


RECIPES = {
    FinetuneSettings: "finetune_text",
    GPTSettings: "gpt_text",
    TokenClassificationSettings: "token_classification",
    QuestionAnsweringSettings: "question_answering",
}


def run_of(*words: str, settings: type = ImageSettings, real: bool = True) -> Run:
    run = Run.of(RECIPES.get(settings, "vit_cifar"), ["accelerator=cpu", *words], settings)
    run.data = DatasetInfo("reviews", real, "reviews.csv", 0, 0)
    return run


def images(count: int) -> ImageDataModule:
    sets = image_sets(count + 12)
    return ImageDataModule(replace(sets, validation=sets.test), 8)


def text_module() -> TextDataModule:
    part = TextDataset(["one text", "another text"] * 600, torch.tensor([0, 1] * 600))
    splits = Splits(part, part, "reviews", True, "reviews.csv", classes=["a", "b"])
    return TextDataModule(splits, train_tokenizer("wordpiece", part.texts[:2], 100, max_length=16), 8)  # type: ignore[arg-type]


# --- before training --------------------------------------------------------------------------------------------------


def test_few_items_from_random_weights_name_the_pretrained_way() -> None:
    run = run_of()
    run.hints.append("the hint of the recipe")
    few, hint = before_training(run, images(40), None)
    assert few.startswith("40 images are few for a model that starts from random weights: start from pretrained wei")
    assert "model.source=timm/vit_tiny_patch16_224" in few and hint == "the hint of the recipe"
    (few,) = before_training(run_of("model=gat_small"), images(40), None)
    assert few.endswith("start from a model that this recipe has trained on more data (model.source=FOLDER)")


@pytest.mark.parametrize("words", [("model.source=FOLDER",), ()], ids=["pretrained", "enough"])
def test_silence_for_pretrained_weights_and_for_enough_items(words: tuple[str, ...]) -> None:
    assert before_training(run_of(*words), images(40 if words else 1000), BASELINE) == []


@pytest.mark.parametrize("settings", [TokenClassificationSettings, QuestionAnsweringSettings])
def test_few_sentences_and_questions_need_pretrained_weights_too(settings: type) -> None:
    (few,) = before_training(run_of(settings=settings), images(40), None)
    assert "are few for a model that starts from random weights" in few and "google-bert/bert-base-" in few


@pytest.mark.parametrize(
    "settings", [SummarizeSettings, TranslateSettings, SpeechRecognitionSettings, FinetuneSettings]
)
def test_adapters_of_random_weights(settings: type) -> None:
    found = before_training(run_of("lora.rank=4", settings=settings), images(1000), None)
    assert len(found) == 1 and found[0].startswith("lora.rank=4 trains adapters alone, and the weights")
    for words in (("lora.rank=4", "model.source=FOLDER"), ()):
        assert before_training(run_of(*words, settings=settings), images(1000), None) == []


def test_few_proteins_need_the_pretrained_weights_of_a_model_of_proteins() -> None:
    run = run_of("model.name=esm2_t6_8m", "data=proteins.csv", settings=FinetuneSettings)
    (few,) = before_training(run, images(12), None)
    assert "model.source=facebook/esm2_t6_8M_UR50D" in few


def test_a_task_without_classes_gets_no_advice() -> None:
    assert before_training(run_of(settings=GPTSettings), images(40), None) == []


def test_texts_that_word_counts_classify_are_said_on_the_first_screen() -> None:
    run = run_of(settings=FinetuneSettings)
    (only,) = before_training(run, text_module(), BASELINE)
    assert "seldom does better than this baseline on fewer than 50,000 texts" in only
    assert "model.source=google-bert/bert-base-uncased" in only


def test_a_baseline_that_is_late_is_printed_once_with_its_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    run, known, out = run_of(settings=FinetuneSettings), threading.Event(), Console(file=io.StringIO(), width=300)
    monkeypatch.setattr(baseline, "compute", lambda *_: known.wait(60) and BASELINE)
    run.baseline = BaselineThread(Objective(), text_module())
    late = LateBaseline(run, text_module(), out)
    late.on_train_batch_end()
    assert out.file.getvalue() == ""  # type: ignore[attr-defined]
    known.set()
    assert run.baseline.wait() == BASELINE
    late.on_train_batch_end()
    late.on_train_batch_end()
    (first, second) = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert first.startswith("baseline  word counts + logistic regression: accuracy 80.00% (validation)")
    assert "seldom does better than this baseline" in second


@pytest.mark.parametrize("silent", ["synthetic", "uninformative", "many", "number", "none", "images"])
def test_silence_where_word_counts_promise_little(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, data, found = run_of(settings=FinetuneSettings, real=silent != "synthetic"), text_module(), BASELINE
    monkeypatch.setattr(advice, "FEW_TEXTS", 1000 if silent == "many" else 50_000)
    if silent == "uninformative":
        found = replace(BASELINE, validation_score=0.54)
    if silent == "number":
        found = replace(BASELINE, metric="error", mode="min")
    module: Any = images(1100) if silent == "images" else data
    assert before_training(run, module, None if silent == "none" else found) == []


def test_patches_that_span_the_mel_bins_are_the_hint_for_few_clips() -> None:
    assert "patch_size=[64,4] stride=[64,4]" in patch_hint(ASTConfig(mel_bins=64, patch_size=16, width=16, heads=2))
    assert patch_hint(ASTConfig(mel_bins=64, patch_size=(64, 4), stride=(64, 4), width=16, heads=2)) == ""


# --- after training ---------------------------------------------------------------------------------------------------


def rows(*losses: float) -> list[dict[str, str]]:
    """Rows of `metrics.csv`: a validation every 10 steps, between them rows without one."""
    values = [{"step": str(10 * i + 10), "train_loss": "", "val_loss": str(loss)} for i, loss in enumerate(losses)]
    return [row for value in values for row in (value, {**value, "step": value["step"] + "1", "val_loss": ""})]


def result(finished: bool = True, **metrics: float) -> Result:
    return Result(metrics, finished=finished, steps=100, seconds=1.0, folder=Path("x"))


def test_a_run_below_its_baseline_says_so() -> None:
    (below,) = after_training(run_of(settings=FinetuneSettings), result(test_accuracy=0.79), BASELINE, [])
    assert below.startswith("test accuracy 79.00% is below the baseline, 82.00% by word counts + logistic regression")
    assert "model.source=google-bert/bert-base-uncased" in below


def test_a_pretrained_run_below_its_baseline_is_to_train_longer() -> None:
    run = run_of("model.source=FOLDER", "epochs=3", settings=FinetuneSettings)
    (below,) = after_training(run, result(test_accuracy=0.79), BASELINE, [])
    assert "train longer (epochs=9)" in below and "model.source" not in below


@pytest.mark.parametrize("score", [0.82, 0.9])
def test_silence_for_a_run_that_is_not_below_its_baseline(score: float) -> None:
    assert after_training(run_of(), result(test_accuracy=score), BASELINE, rows(2, 1, 0.5, 0.5, 0.5, 0.5)) == []


def test_an_error_is_better_when_it_is_smaller() -> None:
    found = replace(BASELINE, metric="error", mode="min", score=0.5)
    (above,) = after_training(run_of(), result(test_error=0.7), found, [])
    assert above.startswith("test error 0.7000 is above that of the baseline, 0.5000 by word counts")
    assert after_training(run_of(), result(test_error=0.4), found, []) == []


def test_a_loss_that_still_falls_says_how_to_train_longer() -> None:
    falling = rows(2.5, 2.4, 2.3, 2.1, 1.9, 1.7)
    (longer,) = after_training(run_of("epochs=30"), result(test_accuracy=0.9), BASELINE, falling)
    assert longer == ("the validation loss still falls, from 2.1 to 1.7 in the last third of the run: train longer "
                      "(epochs=90)")  # fmt: skip
    assert "steps=600" in after_training(run_of("steps=200"), result(), None, falling)[0]


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("words, known, options", [
    (("epochs=2",), "", "epochs=8"),                            # those of the recipe
    (("epochs=2",), "epochs=20", "epochs=20"),
    (("epochs=30",), "epochs=20", "epochs=90"),                 # epochs=20 is not longer
    (("steps=50",), "epochs=20", "epochs=20"),
    (("steps=500",), "epochs=20", "steps=1500"),                # 20 epochs of 10 steps are fewer
    (("steps=50",), "steps=40", "steps=150"),
    (("model.source=FOLDER", "epochs=1"), "", "epochs=3"),      # pretrained weights need fewer than a recipe trains
])  # fmt: skip
def test_all_advice_of_a_run_names_the_same_longer_run(words: tuple[str, ...], known: str, options: str) -> None:
    words = ("accelerator=cpu", "data=synthetic", *words)
    run = Run.of("finetune_text", list(words), FinetuneSettings, CONFIGS)
    run.longer_run = if_longer(run, known, 10)
    run.hints.append("a hint {longer}")
    run.data = DatasetInfo("reviews", True, "reviews.csv", 0, 0)
    said = after_training(run, result(test_accuracy=0.1), BASELINE, rows(2.5, 2.4, 2.3, 2.1, 1.9, 1.7))
    assert longer(run) == options and f"a hint {options}" in said and f"train longer ({options})" in said[-1]
    assert run.longer_run in ("", options)


@pytest.mark.parametrize("losses", [
    (2.5, 1.5, 1.0, 0.80, 0.76, 0.75),         # converged
    (2.5, 1.5, 0.8, 0.6, 0.7, 0.9),            # overfits
    (2.5, 1.5, 0.5, 1.3, 1.2, 0.9),            # was better before
    (2.31, 2.30, 2.30, 2.305, 2.30, 2.29),     # learns nothing
    (0.9, 0.2, 0.1, 0.04, 0.03, 0.02),         # small already
    (2.5, 2.0, 1.5),                           # too few validations to tell
], ids=["converged", "overfits", "was better", "learns nothing", "small", "short"])  # fmt: skip
def test_silence_for_a_loss_that_does_not_clearly_fall(losses: tuple[float, ...]) -> None:
    assert loss_still_falls(rows(*losses)) is None


def test_an_unfinished_run_is_to_be_resumed_first() -> None:
    falling = rows(2.5, 2.4, 2.3, 2.1, 1.9, 1.7)
    assert after_training(run_of(), result(finished=False, test_accuracy=0.1), BASELINE, falling) == []


# --- a run says it ----------------------------------------------------------------------------------------------------


def test_a_run_prints_its_advice_on_the_first_screen_and_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run(tmp_path / "run", "lr=1e-9", "log_every=50")
    first, _, end = capsys.readouterr().out.partition("test accuracy")
    assert "advice        32 images are few for a model that starts from random weights" in first
    assert "is below the baseline, 100.00% by mean colors of a 4 x 4 grid + logistic regression" in end


def test_few_clips_get_the_hint_of_their_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.training.recipes.config import AudioSettings

    monkeypatch.setattr("zoo.data.synthetic.audio.TRAIN", 48)
    monkeypatch.setattr("zoo.data.synthetic.audio.TEST", 16)
    words = ("width=16", "depth=1", "heads=2", "batch_size=8", "steps=1", "plots=false", "accelerator=cpu")
    assert caller({"ast_audio": AudioSettings})("ast_audio", tmp_path / "run", *words) == 0
    shown = capsys.readouterr().out
    hint = "patch_size=[64,4] stride=[64,4] epochs=20"
    assert "clips are few" in shown and shown.count(hint) == 2  # on the first screen and at the end
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| baseline | " in card and "(validation)" in card
