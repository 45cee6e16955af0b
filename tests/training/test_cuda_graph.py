"""Which runs launch their steps as CUDA graphs, and that such a run ends with the same weights."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_graph_fakes import FakeTrainingRecorder
from tiny_run import checkpoint, tiny_run
from torch import nn

import zoo
from zoo.tasks import CausalLMTask, ClassificationTask
from zoo.tasks.cuda_graph import CAPTURED_AT, GraphedModel
from zoo.training import fit
from zoo.training.config import ImageSettings, TrainerSettings
from zoo.training.cuda_graph import why_no_cuda_graph
from zoo.training.parse import SettingsError


def test_a_run_with_graphs_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "steps=8", "accumulate_grad_batches=2", "cuda_graph=auto"
    tiny_run(tmp_path / "without", *words)
    made: list[GraphedModel] = []

    def graphed(model: nn.Module) -> GraphedModel:
        made.append(GraphedModel(model, FakeTrainingRecorder()))
        return made[-1]

    monkeypatch.setattr(fit, "why_no_cuda_graph", lambda *_: None)
    monkeypatch.setattr(fit, "GraphedModel", graphed)
    tiny_run(tmp_path / "with", *words)
    assert made[0].graphs is not None and made[0].graphs.calls == 16 - CAPTURED_AT
    with_graphs, without = (checkpoint(tmp_path / name, "last.ckpt")["state_dict"] for name in ("with", "without"))
    assert all(torch.equal(with_graphs[name], x) for name, x in without.items())


def test_a_run_that_cannot_says_why(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cuda_graph=true: CUDA graphs need accelerator=cuda.*cuda_graph=auto"):
        tiny_run(tmp_path / "run", "cuda_graph=true")


class MyNorm(nn.LayerNorm):
    """Not a module of zoo."""


MyNorm.__module__ = "my_file"


def test_what_prevents_graphs() -> None:
    vit = partial(zoo.create_model, "vit_cifar_tiny", num_classes=3)
    settings = partial(replace, TrainerSettings(), accelerator="cuda")

    def why(task: Any = None, **trainer: Any) -> str | None:
        return why_no_cuda_graph(ImageSettings(trainer=settings(**trainer)), task or ClassificationTask(vit()))

    assert why() is None
    assert "compile=blocks" in str(why(compile="blocks")) and "several processes" in str(why(devices=2))
    assert "precision=bf16-master" in str(why(precision="bf16-master"))
    assert "gradient_checkpointing=true" in str(why(gradient_checkpointing=True))
    text = dict(vocab_size=20, max_length=8, width=16, heads=2, depth=1)
    assert "classification of images" in str(why(CausalLMTask(zoo.create_model("gpt_nano", **text))))
    own = vit()
    own.blocks.norm = MyNorm(own.config.width)
    assert "MyNorm is a module of your own" in str(why(ClassificationTask(own)))
