"""Recipes of graphs in two processes: what one process computes with two micro-batches a step."""

from pathlib import Path

import pytest
from ranks import as_torchrun
from recipe_calls import caller, result
from tiny_run import in_child

from zoo.training.recipes.graph_config import GraphNodesSettings
from zoo.training.recipes.molecules_config import MoleculeSettings

run = caller({"graph_nodes": GraphNodesSettings, "molecules": MoleculeSettings})
COMMON = ("accelerator=cpu", "precision=fp32", "progress=false", "plots=false", "baseline=false", "steps=6",
          "validate_every=3")  # fmt: skip
WORDS = {
    "graph_nodes": ("data=karate", "model=gat_cora", "batch_size=6"),
    "molecules": ("model=graph_transformer_tiny", "width=16", "depth=1", "heads=2", "batch_size=8"),
}


def start(rank: int, name: str, folder: Path, *words: str) -> None:
    if status := run(name, folder, *COMMON, *WORDS[name], *words):
        raise SystemExit(status)


@pytest.mark.full
@pytest.mark.parametrize("name", WORDS)
def test_two_processes_are_two_micro_batches(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "molecules":
        pytest.importorskip("rdkit", reason="molecules need the extra `molecules`")
        monkeypatch.setattr("zoo.data.synthetic.molecules.MOLECULES", 90)
        monkeypatch.setattr("zoo.data.synthetic.molecules.SCAFFOLDS", 20)
    assert in_child(start, 0, name, tmp_path / "one", "accumulate_grad_batches=2") == 0
    expected = pytest.approx(result(tmp_path / "one")["result"], rel=1e-5)
    for strategy in ("ddp", "fsdp2"):
        folder = tmp_path / strategy
        assert as_torchrun(2, start, name, folder, "devices=2", f"strategy={strategy}") == [0, 0]
        assert result(folder)["result"] == expected
