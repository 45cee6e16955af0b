"""`recipes/clip_pairs.py image.name=FOLDER text.name=FOLDER` with towers that have heads of other tasks, or none."""

from pathlib import Path

import pytest
import torch
import transformers
from peers import TINY_TIMM, timm_folder, transformers_folder
from recipe_calls import caller
from text_peers import text_folder

import zoo
from zoo.training.recipes.config import ClipSettings

call = caller({"clip_pairs": ClipSettings})
QUIET = ("accelerator=cpu", "precision=fp32", "progress=false", "plots=false", "batch_size=8", "steps=1", "lr=1e-9")


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("TRAIN", 16), ("VALIDATION", 4), ("TEST", 4)):
        monkeypatch.setattr(f"zoo.data.synthetic.scenes.{name}", count)


@pytest.mark.parametrize(("image", "text"), [
    ("ViTModel", "BertForMaskedLM"), ("ViTForImageClassification", "BertForSequenceClassification"),
    ("Dinov2Model", "sentence-transformers"), ("vit_tiny_patch16_224", "RobertaModel"), ("ViTModel", "GPT2LMHeadModel"),
    ("ViTModel", "DistilBertForMaskedLM"), ("ViTModel", "LlamaModel"),
])  # fmt: skip
def test_any_image_and_text_model_become_towers(image: str, text: str, tmp_path: Path) -> None:
    if image.startswith("vit_"):
        timm_folder(tmp_path / "image", image, **TINY_TIMM, img_size=32, patch_size=8)
    else:
        transformers_folder(tmp_path / "image", image)
        transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "image")
    text_folder(text, tmp_path / "text")
    words = (*QUIET, f"image.name={tmp_path / 'image'}", f"text.name={tmp_path / 'text'}")
    assert call("clip_pairs", tmp_path / "run", *words) == 0
    model = zoo.load(tmp_path / "run")
    for name in ("image", "text"):
        before, after = zoo.load(tmp_path / name).state_dict(), model.tower(name).state_dict()
        body = [key for key in before if not key.startswith("head.")]
        assert len(body) > 10 and all(torch.allclose(before[key], after[key], atol=1e-5) for key in body), name
