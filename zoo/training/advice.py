"""Advice of a run in plain sentences: before training where the data alone says it, at the end where the results do."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.data.datamodule import KeyedDataModule
from zoo.models.registry import find_variant
from zoo.training.baseline import Baseline
from zoo.training.result import Result

if TYPE_CHECKING:
    from zoo.training.run import Run

FEW_ITEMS = 1000  # to train a model from random weights on
FEW_TEXTS = 50_000  # up to so many, counting words is as good as a new model (SST-2: docs/what_did_not_work.md)
CLEAR_MARGIN = 0.05  # by which word counts are better than a constant prediction: they say something about the labels

# Options that start from pretrained weights, by recipe.
PRETRAINED = {
    "vit_cifar": "model.source=timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k lr=1e-4 epochs=10",
    "finetune_text": "model.source=google-bert/bert-base-uncased",
    "token_classification": "model.source=google-bert/bert-base-cased",
    "question_answering": "model.source=google-bert/bert-base-uncased",
    "ast_audio": "model.source=MIT/ast-finetuned-audioset-10-10-0.4593 lr=1e-4 resample=true",
}
# Instead of these, by the beginning of a model's name: of proteins, which the recipe of texts takes as well.
PRETRAINED_OF_FAMILIES = {"esm2": "model.source=facebook/esm2_t6_8M_UR50D"}


def before_training(run: "Run", data: Any, baseline: Baseline | None) -> list[str]:
    """Advice for adapters on random weights, and for a classifier, of items or of their tokens, that starts from random
    weights on few items."""
    return [*_about_adapters(run), *_about_few_items(run, data, baseline)]


def _about_adapters(run: "Run") -> list[str]:
    rank = getattr(getattr(run.config, "lora", None), "rank", 0)
    if not rank or run.is_pretrained:
        return []
    return [f"lora.rank={rank} trains adapters alone, and the weights that they adapt are random and stay so: omit "
            f"it, or start from pretrained weights (model.source=)"]  # fmt: skip


def _about_few_items(run: "Run", data: Any, baseline: Baseline | None) -> list[str]:
    if run.is_pretrained or not (is_classifier(run) or run.recipe in PRETRAINED):
        return []
    count = len(data.train) if isinstance(data, KeyedDataModule) else 0
    noun = data.part("train").noun if count else ""
    if 0 < count < FEW_ITEMS:
        few = f"{count:,} {noun} are few for a model that starts from random weights: {pretrained_way(run)}"
        return [few, *hints(run)]
    if baseline is None or not run.data or not run.data.real or noun != "texts" or count >= FEW_TEXTS:
        return []
    margin = baseline.validation_score - baseline.constant_validation_score
    if baseline.metric not in ("accuracy", "f1") or margin < CLEAR_MARGIN:
        return []
    return [f"a model that starts from random weights seldom does better than this baseline on fewer than "
            f"{FEW_TEXTS:,} texts: {pretrained_way(run)}"]  # fmt: skip


def after_training(run: "Run", result: Result, baseline: Baseline | None,
                   rows: Sequence[Mapping[str, str]]) -> list[str]:  # fmt: skip
    """Advice for a finished run that is below its baseline, or whose validation loss still falls.

    Args:
        run: The run.
        result: Its result.
        baseline: Its baseline, if there is one.
        rows: The rows of `metrics.csv`.
    """
    if not result.finished or not is_classifier(run):
        return []
    advice = []
    score = result.metrics.get(f"test_{baseline.metric}") if baseline else None
    falls = loss_still_falls(rows)
    if baseline and score is not None and baseline.is_better_than(score):
        where = f"test {baseline.metric} {baseline.shown(score)} is below the baseline"
        if baseline.metric == "error":
            where = f"test error {baseline.shown(score)} is above that of the baseline"
        way = f"train longer ({longer(run)}), or try another learning rate (lr=)"
        more = run.is_pretrained or not has_published_weights(run)
        advice.append(f"{where}, {baseline.shown(baseline.score)} by {baseline.name}: "
                      f"{way if more else pretrained_way(run)}")  # fmt: skip
        advice += hints(run)
    if falls:
        advice.append(f"the validation loss still falls, from {falls[0]:.3g} to {falls[1]:.3g} in the last third of "
                      f"the run: train longer ({longer(run)})")  # fmt: skip
    return advice


def loss_still_falls(rows: Sequence[Mapping[str, str]]) -> tuple[float, float] | None:
    """(validation loss at two thirds of a run, at its end) if the last third brought more than a tenth of the gain.

    None for a run of fewer than four validations, one that overfits, one that learns nothing, and one whose loss is
    small already.
    """
    losses = [(int(row["step"]), float(row["val_loss"])) for row in rows if row.get("val_loss")]
    if len(losses) < 4:
        return None
    last, highest, lowest = losses[-1][1], max(loss for _, loss in losses), min(loss for _, loss in losses)
    earlier = [loss for step, loss in losses if 3 * step <= 2 * losses[-1][0]]
    gain = highest - last
    learns = 0.1 * highest < last <= 1.01 * lowest and gain > 0.05 * highest
    return (earlier[-1], last) if earlier and learns and earlier[-1] - last > 0.1 * gain else None


def is_classifier(run: "Run") -> bool:
    """Whether the run is one of classification or regression, whose settings have a baseline."""
    return hasattr(getattr(run.config, "task", None), "baseline")


def has_published_weights(run: "Run") -> bool:
    """Whether there are published weights of the family of the model, as far as it is one of ours."""
    try:
        return bool(find_variant(run.config.model.name).sources)
    except ValueError:
        return True


def pretrained_way(run: "Run") -> str:
    """How to start the recipe of a run from pretrained weights."""
    if not has_published_weights(run):
        return "start from a model that this recipe has trained on more data (model.source=FOLDER)"
    example = PRETRAINED.get(run.recipe, "model.source=FOLDER")
    example = PRETRAINED_OF_FAMILIES.get(run.config.model.name.partition("_")[0], example)
    return f"start from pretrained weights, a folder or a name on the hub, e.g. {example}"


def hints(run: "Run") -> list[str]:
    """The advice of the recipe."""
    return [hint.replace("{longer}", longer(run)) for hint in run.hints]


def longer(run: "Run") -> str:
    """The options of a longer run: those known to pay for its data, else three times its length.

    All advice of a run names the same ones. What starts from random weights takes at least the epochs of its recipe.
    """
    t = run.config.trainer
    if run.longer_run:
        return run.longer_run
    if t.steps:
        return f"steps={3 * t.steps}"
    return f"epochs={max(3 * (t.epochs or 1), 0 if run.is_pretrained else run.recipe_epochs)}"


def if_longer(run: "Run", options: str, steps_per_epoch: int) -> str:
    """The options, `epochs=N` or `steps=N`, if that is longer than the run; else empty."""
    t = run.config.trainer
    unit, _, count = options.partition("=")
    steps = int(count or 0) * (1 if unit == "steps" else steps_per_epoch)
    return options if steps > (t.steps or (t.epochs or 1) * steps_per_epoch) else ""
