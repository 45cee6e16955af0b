"""The recipe of text to image with tiny models: what it leaves behind, what it resumes, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from kills import killed_at
from recipe_calls import RESUMED, caller, check_resumed_run, result
from safetensors.torch import load_file

import zoo
from zoo.data.synthetic import object_scenes
from zoo.data.synthetic.object_scenes import ObjectScene, make_object_scenes
from zoo.models.dalle.model import Dalle
from zoo.models.maskgit.model import MaskGIT
from zoo.training.recipes import scene_judge
from zoo.training.recipes.image_config import TextToImageSettings
from zoo.training.recipes.scene_judge import SceneClassifier, parts_of, same_objects, same_scene

call = caller({"text_to_image": TextToImageSettings})
TINY = ("width=12", "depth=1", "heads=2", "data.batch_size=8", "progress=false", "log_every=1", "tokenizer.codes=16",
        "tokenizer.train_steps=2", "tokenizer.train_batch_size=4", "ranker.train_steps=2", "ranker.train_batch_size=8",
        "judge_steps=2", "judged=3", "num_images=2")  # fmt: skip


ALONE = ("ranker.train_steps=0", "num_images=1", "judged=1")


def tiny(*words: str) -> list[str]:
    """The words of a tiny run, with others in place of some of them."""
    given = {word.partition("=")[0] for word in words}
    return [*(word for word in TINY if word.partition("=")[0] not in given), *words]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for split, count in (("train", 48), ("validation", 4), ("test", 6)):
        monkeypatch.setitem(object_scenes.SPLITS, split, count)
    monkeypatch.setattr("zoo.training.recipes.text_to_image.RANKER_IMAGE", {"name": "vit_cifar_tiny", "depth": 1})


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("text_to_image", tmp_path / "run", *TINY, "steps=2") == 0
    assert "objects and colors right" in capsys.readouterr().out
    folder, metrics = tmp_path / "run", result(tmp_path / "run")["result"]
    names = {f"test_{images}_{what}" for images in ("real", "reconstructed", "generated", "reranked")
             for what in ("objects", "scene")}  # fmt: skip
    assert names <= metrics.keys()
    assert {"images.png", "judge.pt", "tokenizer", "ranker", "curves.png"} <= {p.name for p in folder.iterdir()}
    model = zoo.load(folder)
    assert isinstance(model, Dalle)
    made = zoo.generate_images(model, "a red circle above a blue square", num_images=2, guidance_scale=2.0, seed=0,
                               rerank=zoo.load(folder / "ranker"))  # fmt: skip
    assert made.images[0][1].size == (32, 32) and made.scores[0, 0] >= made.scores[0, 1]

    words = tiny("model=maskgit_nano", f"tokenizer.source={folder / 'tokenizer'}", "ranker.train_steps=0", "steps=1")
    assert call("text_to_image", tmp_path / "other", *words) == 0
    other = zoo.load(tmp_path / "other")
    assert isinstance(other, MaskGIT) and other.config.image_vocab_size == 16
    assert not {"tokenizer", "ranker"} & {p.name for p in (tmp_path / "other").iterdir()}
    assert "test_reranked_scene" not in result(tmp_path / "other")["result"]


def test_it_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tiny(*ALONE, *RESUMED)
    check_resumed_run(lambda folder: call("text_to_image", folder, *words), tmp_path, monkeypatch)
    whole, parts = (json.loads((tmp_path / name / "metrics.json").read_text())["result"] for name in ("whole", "parts"))
    assert whole == parts


def test_it_resumes_its_first_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tiny(*ALONE, "tokenizer.train_steps=8", "steps=1", "plots=false", "checkpoint_every=1")
    from zoo.training.stopping import StopOnSignalOrTime

    listen = StopOnSignalOrTime.on_train_batch_end
    started: list[str] = []

    def stop_at_three(self: StopOnSignalOrTime, trainer, task, *args) -> None:
        self._signalled = trainer.global_step == 3 and not started
        listen(self, trainer, task, *args)

    monkeypatch.setattr(StopOnSignalOrTime, "on_train_batch_end", stop_at_three)
    assert call("text_to_image", tmp_path / "parts", *words) == 130
    started.append("again")
    assert not (tmp_path / "parts" / "tokenizer" / "metrics.json").exists()
    assert call("text_to_image", tmp_path / "parts", *words) == 0
    assert call("text_to_image", tmp_path / "whole", *words) == 0
    files = [tmp_path / name / "tokenizer" / "checkpoints" / "last.ckpt" for name in ("parts", "whole")]
    one, other = (torch.load(file, weights_only=True)["state_dict"] for file in files)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert result(tmp_path / "parts")["result"] == result(tmp_path / "whole")["result"]


@pytest.mark.full
def test_killed_in_each_of_its_stages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = [f"{stage}_steps=3" for stage in ("tokenizer.train", "ranker.train", "judge")]
    words = tiny(*steps, "steps=3", "plots=false", "checkpoint_every=1")

    def parts() -> int:
        return call("text_to_image", tmp_path / "parts", *words)

    # in the tokenizer, the ranker, the classifier (from whose start it is repeated) and the model of image tokens
    for steps_done in (1, 3, 3, 4):
        assert killed_at(steps_done, parts, [(torch.optim.AdamW, "step")])
    capfd.readouterr()
    assert call("text_to_image", tmp_path / "parts", *words, "lr=0.5") == 2
    assert "an unfinished run with other settings (optim.lr" in capfd.readouterr().err
    assert parts() == 0 and call("text_to_image", tmp_path / "whole", *words) == 0
    assert result(tmp_path / "parts")["result"] == result(tmp_path / "whole")["result"]
    for name in ("tokenizer", "ranker", "."):
        one, other = (load_file(tmp_path / run / name / "model" / "model.safetensors") for run in ("parts", "whole"))
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_images_of_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    lines = ["file_name,caption"]
    for i in range(30):
        Image.new("RGB", (24, 20), (i * 8, 0, 99)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,number {i}")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    words = (*TINY, f"data={tmp_path}", "steps=1", "plots=false", "val_fraction=0.1")
    assert call("text_to_image", tmp_path / "run", *words) == 0
    metrics = result(tmp_path / "run")["result"]
    assert {"test_real_retrieved", "test_generated_retrieved"} <= metrics.keys()
    assert "test_reranked_retrieved" not in metrics and not (tmp_path / "run" / "judge.pt").exists()


@pytest.mark.parametrize(("words", "says"), [
    (["model=bert_tiny"], "bert_tiny makes no image tokens"),
    (["tokenizer=vit_cifar_tiny"], "vit_cifar_tiny"),
    (["tokenizer.pixels=16"], "at least 24"),
    (["tokenizer.pixels=30"], "not a multiple of 4"),
    (["model.text_dropout=0"], "model.text_dropout=0.1"),
    (["flip=0.5"], "cannot be augmented"),
    (["devices=2"], "on one device"),
    (["num_images=0"], "num_images=0: expected at least 1"),
])  # fmt: skip
def test_what_it_refuses(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("text_to_image", tmp_path / "run", *tiny("steps=1", *words)) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error


# --- the judge --------------------------------------------------------------------------------------------------------


def test_the_judge_learns_from_blurred_images_with_noise() -> None:
    images = torch.full((6, 3, 8, 8), 100, dtype=torch.uint8)
    images[:, :, 3] = 200
    seen = scene_judge.degraded(images, torch.Generator().manual_seed(0))
    middle, beside = seen[:, :, 3].mean((1, 2)), seen[:, :, 4].mean((1, 2))
    assert (middle < 200 / 255 + 0.03).all() and (beside > 100 / 255 - 0.03).all()
    assert middle.max() - middle.min() > 0.05  # each image to another degree
    assert abs(seen.mean() - images.float().mean() / 255) < 0.01


def test_what_is_right_in_a_scene() -> None:
    red, blue = (0, 0, 1), (1, 4, 2)
    scene = ObjectScene((red, blue), 1)
    assert same_scene(scene, ObjectScene(((1, 0, 1), (0, 4, 2)), 1))  # the sizes do not matter
    for other in (ObjectScene((blue, red), 1), ObjectScene((red, blue), 0)):
        assert same_objects(scene, other) and not same_scene(scene, other)
    for other in (ObjectScene(((0, 4, 1), (0, 0, 2)), 1), ObjectScene((red,))):
        assert not same_objects(scene, other) and not same_scene(scene, other)
    assert same_scene(ObjectScene((red,), 0), ObjectScene((red,), 1))


def test_the_classifier_learns_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_judge, "SCENES", {"train": 12, "test": 12})
    monkeypatch.setattr(scene_judge, "BATCH_SIZE", 24)
    judge = scene_judge.scene_classifier(tmp_path / "judge.pt", size=32, steps=60, seed=0)
    known = make_object_scenes("train", 12, seed=scene_judge.OWN_SEED)
    right = sum(map(same_scene, known.scenes, judge.scenes(known.images))) / 12
    assert right > 0.8, right
    again = scene_judge.scene_classifier(tmp_path / "judge.pt", size=32, steps=60, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters()))
    assert isinstance(again, SceneClassifier) and parts_of(ObjectScene(((0, 3, 2),))) == [0, -100, 3, 2, -100, -100]
