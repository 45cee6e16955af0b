"""The accuracy of answers, and the mechanism of a model by one option."""

from pathlib import Path

import pytest
import torch

import zoo
from zoo.data.keyed_batches import Keys
from zoo.data.synthetic.recall import make_sequences
from zoo.tasks.config import OptimSettings
from zoo.training import parse
from zoo.training.parse import SettingsError
from zoo.training.recipes.config import RecallSettings
from zoo.training.recipes.recall import RecallTask, recall_model
from zoo.training.run import Run

SMALL = ("model=gpt_nano", "width=16", "depth=2", "heads=2", "vocab_size=64")


def run(*words: str) -> Run:
    return Run.of("long_recall", [*SMALL, *words], RecallSettings)


def test_the_length_of_the_data_is_that_of_the_model() -> None:
    model = recall_model(run("length=48"))
    assert model.config.max_length == 48 and model.config.attention == "softmax" and model.config.mixer is None


@pytest.mark.parametrize("value, field, expected", [
    ("performer", "attention", "performer"), ("short_conv", "mixer", ("short_conv",)),
    ("{kind: local, window: 4}", "attention", {"kind": "local", "window": 4}),
    ("{kind: short_conv, kernel: 4}", "mixer", ({"kind": "short_conv", "kernel": 4},)),
])  # fmt: skip
def test_a_mechanism_is_an_attention_kind_or_a_mixer(value: str, field: str, expected: object) -> None:
    config = recall_model(run(f"mechanism={value}")).config
    assert getattr(config, field) == expected


def test_a_mixer_takes_the_place_of_attention_in_the_stack_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "long_recall.yaml").write_text("model:\n  mixer: [short_conv, attention]\n")
    for value, mixer in (
        ("{kind: short_conv, kernel: 2}", {"kind": "short_conv", "kernel": 2}),
        ("linear", "attention"),
    ):
        words = [*SMALL, f"mechanism={value}", "accelerator=cpu"]
        made = Run(
            "long_recall",
            (line := parse.read_command_line(words, RecallSettings)),
            parse.make_settings(RecallSettings, parse.merge(parse.layers_of(
                line, parse.user_layers(line, RecallSettings), RecallSettings, tmp_path, "long_recall", None))),
        )  # fmt: skip
        assert recall_model(made).config.mixer == ("short_conv", mixer)


@pytest.mark.parametrize("words, message", [
    (["mechanism=preformer"], "expected an attention kind or a mixer.*did you mean 'performer'"),
    (["mechanism=linear", "attention=softmax"], "both given"), (["mechanism=linear", "mixer=short_conv"], "both given"),
    (["mechanism={kind: local, windw: 4}"], "windw"),
])  # fmt: skip
def test_mechanisms_that_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        recall_model(run(*words))


def test_scores_are_those_of_the_answers_alone() -> None:
    model = zoo.create_model("gpt_nano", seed=0, width=16, depth=1, heads=2, vocab_size=64, max_length=32)
    task = RecallTask(model, optim=OptimSettings())
    batch = make_sequences(6, 32, problem="recall", vocab_size=64, seed=0).__getitems__(Keys(range(6), 0))
    with torch.no_grad():
        loss, right, count = task.scores(batch)
        logits = model(batch["input_ids"])
    answered = batch["labels"] != -100
    expected = torch.nn.functional.cross_entropy(logits[answered], batch["labels"][answered], reduction="sum")
    assert int(count) == 6 * 8 and torch.allclose(loss, expected, rtol=1e-5)
    assert int(right) == int((logits.argmax(-1)[answered] == batch["labels"][answered]).sum())
    assert task.monitor == "val_accuracy" and task.validation_metrics["val_accuracy"] == "max"
