"""The recipes of pairs from their command lines: what they leave behind, refuse, and that they go on bit for bit."""

from pathlib import Path

import pytest
import torch
from recipe_calls import RECIPES, RESUMED, caller, check_resumed_run, recipe, result

import zoo
from zoo.models.contrast.model import Contrastive
from zoo.training.main import main
from zoo.training.recipes.config import ClapSettings, ClipSettings

SETTINGS = {"clip_pairs": ClipSettings, "clap_pairs": ClapSettings}
call = caller(SETTINGS)
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "log_every=1", "batch_size=8")
TEXT = ("text.width=16", "text.depth=1", "text.heads=2", "text.vocab_size=300", "model.width=16")
IMAGE = ("image.width=16", "image.depth=1", "image.heads=2", "image.mlp_dim=32", *TEXT)
AUDIO = ("audio.width=16", "audio.depth=1", "audio.heads=2", *TEXT)
TINY = {"clip_pairs": (*IMAGE, *QUIET), "clap_pairs": (*AUDIO, *QUIET)}
RETRIEVAL = {f"{kind}{n}" for kind in ("_r",) for n in (1, 5, 10)} | {"_median_rank"}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("TRAIN", 64), ("VALIDATION", 12), ("TEST", 12)):
        monkeypatch.setattr(f"zoo.data.synthetic.scenes.{name}", count)
    monkeypatch.setattr("zoo.data.synthetic.audio.TRAIN", 64)
    monkeypatch.setattr("zoo.data.synthetic.audio.TEST", 24)


def test_clip_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("clip_pairs", tmp_path / "run", *TINY["clip_pairs"], "steps=3", "ema=0.9") == 0
    said = capsys.readouterr().out
    for text in ("Synthetic data", "generated scenes", "64 training and 12 test items", "zoo search",
                 "vit_cifar_tiny + bert_tiny", "test recall"):  # fmt: skip
        assert text in said, text
    folder = tmp_path / "run"
    assert {"curves.png", "retrieval.png", "retrieval.html", "model", "images"} <= {p.name for p in folder.iterdir()}
    metrics = result(folder)["result"]
    ways = ("test_image_to_text", "test_text_to_image")
    assert {way + end for way in ways for end in RETRIEVAL} <= metrics.keys() and not result(folder)["real"]
    model = zoo.load(folder)
    assert isinstance(model, Contrastive) and model.modalities == ("image", "text")
    picture = next((folder / "images").glob("000*.png"))
    batch = model.preprocess(images=[picture], text=[picture.stem.partition(" ")[2]])
    assert model(**batch).logits("image", "text").shape == (1, 1)


def test_from_a_trained_model_with_other_options(tmp_path: Path) -> None:
    assert call("clip_pairs", tmp_path / "one", *TINY["clip_pairs"], "steps=2", "plots=false") == 0
    before = zoo.load(tmp_path / "one")
    words = (
        *QUIET,
        "steps=2",
        "plots=false",
        f"model.source={tmp_path / 'one'}",
        "image.locked=true",
        "grad_cache_size=4",
    )
    assert call("clip_pairs", tmp_path / "two", *words, "chunk=3") == 0
    after = zoo.load(tmp_path / "two")
    assert torch.equal(after.image.blocks[0].mixer.q.weight, before.image.blocks[0].mixer.q.weight)
    assert not torch.equal(after.text.blocks[0].mixer.q.weight, before.text.blocks[0].mixer.q.weight)
    assert after.preprocess.text.tokenizer == before.preprocess.text.tokenizer


def test_sigmoid_loss_and_attention_of_both_towers_or_one(tmp_path: Path) -> None:
    words = ("steps=1", "plots=false", "loss=siglip", "attention=linear", "text.attention=local")
    assert call("clip_pairs", tmp_path / "run", *TINY["clip_pairs"], *words) == 0
    model = zoo.load(tmp_path / "run")
    assert model.logit_bias is not None and model.config.loss == "siglip"
    assert (model.image.config.attention, model.text.config.attention) == ("linear", "local")


def test_a_folder_of_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    lines = ["file,caption"]
    for i in range(30):
        Image.new("RGB", (40, 30), (i * 8, 0, 99)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,a shade of {i}")
    (tmp_path / "captions.csv").write_text("\n".join([*lines, "gone.png,nothing"]))
    words = (*TINY["clip_pairs"], f"data={tmp_path}", "steps=1", "plots=false")
    assert call("clip_pairs", tmp_path / "run", *words) == 2
    assert "gone.png does not exist" in capsys.readouterr().err
    assert call("clip_pairs", tmp_path / "run", *words, "on_error=skip") == 0
    assert "gone.png" in (tmp_path / "run" / "skipped.txt").read_text() and result(tmp_path / "run")["real"]


def test_clap_with_unseen_classes(tmp_path: Path) -> None:
    words = (*TINY["clap_pairs"], "steps=2", "held_out_classes=[rising, gallop]")
    assert call("clap_pairs", tmp_path / "run", *words) == 0
    folder = tmp_path / "run"
    assert {"confusion.png", "retrieval.html", "sample.wav", "model"} <= {p.name for p in folder.iterdir()}
    metrics = result(folder)["result"]
    assert {"test_prompt_accuracy", "test_unseen_accuracy", "test_unseen_among_all"} <= metrics.keys()
    model = zoo.load(folder)
    assert model.modalities == ("text", "audio") and model.preprocess.audio.sampling_rate == 8000
    answers = zoo.zero_shot(model, ["rising", "falling"]).predict(folder / "sample.wav")
    assert sum(share for _, share in answers) == pytest.approx(1, abs=1e-5)


def test_what_is_unseen_is_not_trained_on() -> None:
    from zoo.data.config import AudioPairSettings
    from zoo.data.pairs.audio import load_audio_pairs

    sets = load_audio_pairs(AudioPairSettings(held_out_classes=["rising", "gallop"], sentences=["hear {}", "{}!"]))
    assert sets.unseen is not None and sets.unseen.classes is not None and sets.train.classes is not None
    names = {sets.classes[i] for i in sets.unseen.classes.tolist()}
    assert names == {"rising", "gallop"} and len(sets.unseen) == 22  # of training and test together
    for part in (sets.train, sets.test):
        assert not any("rising" in text or "gallop" in text for captions in part.captions for text in captions)
    assert sets.train.captions[0][0].startswith("hear ") and sets.train.captions[0][1].endswith("!")


def test_sounds_with_captions(tmp_path: Path) -> None:
    import soundfile

    lines = ["file\tcaption"]
    for i in range(40):
        wave = torch.sin(torch.arange(4000) * (0.05 + i / 100)) * 0.3
        soundfile.write(tmp_path / f"{i}.wav", wave.numpy(), 8000)
        lines.append(f"{i}.wav\ta tone of pitch {i}")
    (tmp_path / "captions.tsv").write_text("\n".join(lines))
    assert call("clap_pairs", tmp_path / "run", *TINY["clap_pairs"], f"data={tmp_path}", "steps=1") == 0
    assert "test_prompt_accuracy" not in result(tmp_path / "run")["result"]


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_interrupted_and_started_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*TINY[name], "text.dropout=0.1", *RESUMED)
    check_resumed_run(lambda folder: call(name, folder, *words), tmp_path, monkeypatch)


@pytest.mark.parametrize(("name", "words", "says"), [
    ("clip_pairs", ["image.name=vit_cifar_tini"], "did you mean 'vit_cifar_tiny'"),
    ("clip_pairs", ["image.name=bert_tiny"], "image tower"),
    ("clip_pairs", ["image.depht=3"], "did you mean 'depth'"),
    ("clip_pairs", ["depth=3"], "use image.depth= or text.depth="),
    ("clip_pairs", ["model=vit_cifar_tiny"], "image.name="),
    ("clip_pairs", ["data=emojis"], "did you mean 'emoji'"),
    ("clip_pairs", ["accumulate_grad_batches=2"], "grad_cache_size"),
    ("clip_pairs", ["grad_cache_size=-1"], "grad_cache_size=-1"),
    ("clip_pairs", ["mixup=0.2"], "mixup"),
    ("clip_pairs", ["image.image_size=16"], "at least 24"),
    ("clip_pairs", ["unlocked=2"], "ambiguous"),
    ("clip_pairs", ["image.unlocked=2"], "locked=true"),
    ("clap_pairs", ["held_out_classes=[three]"], "expected classes of synthetic: tone"),
    ("clap_pairs", ["sentences=[digit]"], "{}"),
    ("clap_pairs", ["audio.name=vit_cifar_tiny"], "audio tower"),
    ("clap_pairs", ["data=fsd"], "did you mean 'fsdd'"),
])  # fmt: skip
def test_what_they_refuse(name: str, words: list[str], says: str, tmp_path: Path,
                          capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    keys = {word.partition("=")[0] for word in words}
    rest = [word for word in TINY[name] if word.partition("=")[0] not in keys]
    assert call(name, tmp_path / "run", *rest, *words) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error, error


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_they_are_short_and_their_help_is_quick(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert len((RECIPES / f"{name}.py").read_text().splitlines()) <= 120
    assert main(recipe(name).train, SETTINGS[name], ["--help"]) == 0
    assert "text.name" in capsys.readouterr().out
