"""A sentence-transformer that is fine-tuned exports with the pooling that it was loaded with, or the recipe says before
training what to set."""

import json
from pathlib import Path

import pytest
import torch
from recipe_calls import caller
from text_peers import transformers_text

import zoo
from zoo.checkpoints.save import export_problem
from zoo.preprocessing.tokenizer_training import train
from zoo.training.recipes.config import FinetuneSettings

call = caller({"finetune_text": FinetuneSettings})
KIND = "sentence_transformers.models."
POOLS = {"mean": "mean_tokens", "cls": "cls_token"}


def sentence_transformer(folder: Path, pool: str = "mean", normalize: bool = True) -> Path:
    transformers_text(folder, "BertModel", max_position_embeddings=64)
    for name, text in train("wordpiece", ["a b the soup was cold"], 99, max_length=64).files().items():
        (folder / name).write_text(text)
    kinds = ["Transformer", "Pooling", *["Normalize"] * normalize]
    modules = [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}", "type": KIND + kind}
        for i, kind in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{POOLS[pool]}": True}))
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    table = tmp_path / "reviews.csv"
    table.write_text(
        "text,label\n" + "".join(f"the soup was {'cold' if i % 2 else 'a b'} {i},{i % 2}\n" for i in range(60))
    )
    quiet = ("accelerator=cpu", "precision=fp32", "progress=false", "plots=false")
    return [f"data={table}", f"model.source={sentence_transformer(tmp_path / 'st')}", "batch_size=8", "steps=2", *quiet]


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_pooling_is_that_of_the_file(pool: str, normalize: bool, tmp_path: Path) -> None:
    """Also after it was a classifier in between."""
    model = zoo.load(sentence_transformer(tmp_path / "st", pool, normalize))
    classifier = zoo.load(tmp_path / "st", num_classes=2)
    zoo.export(zoo.load(zoo.save(classifier, tmp_path / "classifier"), head="pool"), tmp_path / "again")
    again = zoo.load(tmp_path / "again")
    assert (again.config.pool, again.config.normalize) == (pool, normalize)
    ids = torch.arange(5, 15)[None] % 20
    assert torch.allclose(again(ids), model(ids), atol=1e-6)
    settings = json.loads((tmp_path / "again" / "1_Pooling" / "config.json").read_text())
    assert [name for name, value in settings.items() if value is True] == [f"pooling_mode_{POOLS[pool]}"]


def test_the_recipe_says_before_training_what_to_set(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("finetune_text", tmp_path / "run", *words) == 0
    out = capsys.readouterr().out
    expected = "cannot express pool='mean', pooler=None. It can express pool='cls', pooler='tanh'"
    assert out.index(expected) < out.index("test accuracy")
    assert zoo.load(tmp_path / "run").config.pool == "mean"
    assert call("finetune_text", tmp_path / "other", *words, "export=transformers") == 2
    assert "(options of a recipe: model.pool=cls model.pooler=tanh)" in capsys.readouterr().err
    assert not (tmp_path / "other" / "metrics.csv").exists()
    assert (
        call("finetune_text", tmp_path / "set", *words, "export=transformers", "model.pool=cls", "model.pooler=tanh")
        == 0
    )
    assert "no export" not in capsys.readouterr().out and zoo.verify(tmp_path / "set" / "transformers").ok


def test_other_models_that_no_library_can_express() -> None:
    sizes = {"depth": 1, "width": 16, "heads": 2, "num_classes": 2}
    image = zoo.create_model("vit_cifar_tiny", **sizes)
    assert "timm cannot express stem='conv'. It can express stem='patch'" in str(export_problem(image))
    assert export_problem(zoo.create_model("vit_cifar_tiny", stem="patch", **sizes)) is None
    text = zoo.create_model("bert_tiny", vocab_size=40, head="classify", attention="performer", **sizes)
    assert "cannot express attention='performer'. It can express attention='softmax'" in str(export_problem(text))
    translator = zoo.create_model("transformer_small", vocab_size=20, width=16, depth=1)
    assert export_problem(translator) == "no other library has models of the family 'transformer'"
    tower = {"depth": 1, "width": 16, "heads": 2}
    pair = zoo.contrast(image={"name": "vit_cifar_tiny"} | tower, text={"name": "bert_tiny", "vocab_size": 40} | tower)
    assert export_problem(pair)
