"""Classifiers from names: the mean of prompts, saved and read, and what is refused."""

import pytest
import torch
from PIL import Image
from search_models import COLORS, Colors, draw, tiny
from torch import nn

import zoo
from zoo.preprocessing.modality import MODALITIES
from zoo.retrieval.encode import Encoder
from zoo.retrieval.zero_shot import zero_shot


def test_pictures_are_named(tmp_path):
    paths = draw(tmp_path, 8)
    classifier = zoo.zero_shot(Colors(), list(COLORS), ["the color {}", "{}"])
    answers = classifier.predict(paths, top_k=2)
    assert [answer[0][0] for answer in answers] == [path.stem.split("-")[0] for path in paths]
    assert all(len(answer) == 2 and answer[0][1] > answer[1][1] for answer in answers)
    alone = classifier.predict(paths[0], top_k=2)
    assert [label for label, _ in alone] == [label for label, _ in answers[0]]
    assert dict(alone) == pytest.approx(dict(answers[0]), rel=1e-4)
    assert sum(share for _, share in classifier.predict(Image.new("RGB", (5, 5)), top_k=99)) == pytest.approx(1)
    assert classifier.predict([]) == []


def test_the_weights_are_the_mean_of_the_prompts():
    model = tiny()
    made = zero_shot(model, ["red", "green bird"], ["a {}", "the {} sky", "{}"])
    for row, name in zip(made.weights, ["red", "green bird"]):
        prompts = [f"a {name}", f"the {name} sky", name]
        mean = torch.stack([Encoder(model).vectors("text", [prompt])[0] for prompt in prompts]).mean(0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-6)
    assert made.scale == pytest.approx(model.logit_scale.exp().item())


def test_names_may_hold_braces():
    words = []
    model = Colors()
    before = model.preprocess
    model.preprocess = lambda images=None, text=None: words.extend(text or []) or before(images=images, text=text)
    zero_shot(model, ["{}", "a {0} b"], "see {}")
    assert words == ["see {}", "see a {0} b"]


def test_our_templates_have_a_place_for_the_name():
    templates = {name: record.templates for name, record in MODALITIES.items() if record.templates}
    assert set(templates) == {"image", "audio"}
    for sentences in templates.values():
        assert len(sentences) == len(set(sentences)) >= 8 and all(s.count("{}") == 1 for s in sentences)
    assert zero_shot(Colors(), ["red"]).templates == templates["image"]


def test_saved_and_read(tmp_path):
    model, (path,) = Colors(), draw(tmp_path / "p", 1)
    made = zero_shot(model, ["red", "blue"])
    read = zero_shot(model, made.save(tmp_path / "c.safetensors"))
    assert read.weights.equal(made.weights) and read.labels == made.labels and read.templates == made.templates
    assert read.predict(path) == made.predict(path)
    with pytest.raises(ValueError, match=r"another model: its fingerprint.*from its 2 labels"):
        zero_shot(Colors(1), tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="templates of its own"):
        zero_shot(model, tmp_path / "c.safetensors", ["{}"])
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(zoo.LoadError, match="damaged, or no classifier"):
        zero_shot(model, tmp_path / "c.safetensors")


def test_each_label_by_itself(tmp_path):
    (path,) = draw(tmp_path, 1)
    model = Colors()
    with pytest.raises(ValueError, match="SigLIP"):
        zero_shot(model, ["red"]).predict(path, each=True)
    model.logit_bias = nn.Parameter(torch.tensor(-10.0))
    made = zero_shot(model, ["red", "scarlet red", "blue"])
    logits = model.logit_scale.exp().item() * made.cosines(path)[0] - 10
    shares = dict(made.predict(path, each=True))
    assert [shares[name] for name in made.labels] == pytest.approx(logits.sigmoid().tolist(), abs=1e-5)


def test_templates_of_a_file(tmp_path):
    (tmp_path / "t.txt").write_text("a {}\n\nthe {}\n")
    assert zero_shot(Colors(), ["red"], tmp_path / "t.txt").templates == ("a {}", "the {}")
    assert zero_shot(Colors(), ["red"], str(tmp_path / "t.txt")).templates == ("a {}", "the {}")


@pytest.mark.parametrize(
    ("labels", "templates", "said"),
    [
        ([], None, "given none"),
        (["red", " "], None, "one is empty"),
        (["red", "red"], None, "'red' is there twice"),
        (["red"], [], "at least one sentence"),
        (["red"], ["a {}", "no place"], "'no place' has no {}"),
        (["red"], "gone.txt", "no file of templates"),
        ("gone.safetensors", None, "there is no classifier"),
    ],
)
def test_what_is_refused(labels, templates, said):
    with pytest.raises(ValueError, match=said):
        zero_shot(Colors(), labels, templates)


def test_what_a_model_and_a_classifier_refuse(tmp_path):
    model = Colors()
    made = zero_shot(model, ["red"])
    for thing, said in [("a text", "is a text: this classifier is for images"), ("gone.png", "there is no file")]:
        with pytest.raises(ValueError, match=said):
            made.predict(thing)
    with pytest.raises(ValueError, match="top_k=0"):
        made.predict("x.png", top_k=0)
    with pytest.raises(ValueError, match="no audio tower"):
        zero_shot(model, ["red"], kind="audio")
    model.modalities = ("image",)
    with pytest.raises(ValueError, match="no text tower; it has image"):
        zero_shot(model, ["red"])
    model.modalities = ("text",)
    with pytest.raises(ValueError, match="nothing to classify"):
        zero_shot(model, ["red"])
