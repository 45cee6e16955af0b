import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.preprocessing.image import ImageProcessor


@pytest.fixture
def model():
    model = zoo.create_model("vit_cifar_tiny", seed=0, depth=2)
    model.preprocess = ImageProcessor(size=(32, 32))
    model.labels = [f"kind {i}" for i in range(10)]
    return model


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def test_labels_with_probabilities_best_first(model, tmp_path):
    model.train()
    answers = zoo.predict(model, picture(0))
    logits = model.eval()(**model.preprocess(picture(0)))
    expected = logits.softmax(-1)[0].topk(5)
    assert [label for label, _ in answers] == [f"kind {i}" for i in expected.indices]
    assert torch.allclose(torch.tensor([p for _, p in answers]), expected.values)
    picture(0).save(tmp_path / "a.png")
    assert zoo.predict(model, tmp_path / "a.png") == zoo.predict(model, str(tmp_path / "a.png"))
    assert len(zoo.predict(model, picture(0), top_k=99)) == 10 and len(zoo.predict(model, picture(0), top_k=1)) == 1


def test_a_list_gives_a_list(model):
    both = zoo.predict(model, [picture(0), picture(1)], top_k=2)
    assert [label for label, _ in both[1]] == [label for label, _ in zoo.predict(model, picture(1), top_k=2)]
    assert zoo.predict(model, []) == [] and len(zoo.predict(model, [picture(0)])) == 1


def test_the_mode_of_the_model_stays_and_classes_without_names_have_numbers(model):
    model.labels = None
    assert all(label.isdigit() for label, _ in zoo.predict(model.train(), picture(0))) and model.training


def test_several_and_numbers(model):
    scores = model.eval()(**model.preprocess(picture(0))).detach()[0]
    model.config = model.config.replace(problem_type="multi_label_classification")
    several = zoo.predict(model, picture(0), top_k=3)
    assert [p for _, p in several] == pytest.approx(scores.sigmoid().topk(3).values.tolist(), abs=1e-6)
    model.config = model.config.replace(problem_type="regression")
    numbers = zoo.predict(model, picture(0), top_k=3)
    assert [label for label, _ in numbers] == model.labels  # each has its own: there is no best
    assert [value for _, value in numbers] == pytest.approx(scores.tolist(), abs=1e-6)
    model.reset_head(4)
    assert model.config.resolved_problem_type == "single_label_classification"


def test_what_cannot_be_predicted(model):
    model.preprocess = None
    with pytest.raises(ValueError, match="no preprocessing"):
        zoo.predict(model, picture(0))
    with pytest.raises(ValueError, match="needs a classifier"):
        zoo.predict(zoo.create_model("vit_cifar_tiny", head=None, depth=1), picture(0))
