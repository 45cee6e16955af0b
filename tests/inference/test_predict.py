import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from text_peers import SENTENCES, text_folder

import zoo
from zoo.inference.predictor import Report
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


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gpt_nano", "to continue texts, use zoo.generate"),
        ("blip_nano", "to describe images, use zoo.generate.*FILE"),
    ],
)
def test_models_that_write_texts_do_not_predict(name, hint):
    with pytest.raises(ValueError, match=f"needs a classifier.*; {hint}$"):
        zoo.predict(zoo.create_model(name), "a text")


# --- texts --------------------------------------------------------------------------------------------------------

WORDS = [word for text, _ in SENTENCES for word in text.split()]


@pytest.fixture(scope="module")
def texts_model(tmp_path_factory):
    """A classifier of at most 40 tokens, with a processor that refuses longer texts."""
    folder = tmp_path_factory.mktemp("bert")
    text_folder("BertForSequenceClassification", folder)
    return zoo.load(folder)


def sentences(count, longest=24, seed=0):
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, longest))) for _ in range(count)]


def close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert [label for label, _ in one] == [label for label, _ in other]
        assert [p for _, p in one] == pytest.approx([p for _, p in other], abs=1e-5)


def shapes_of(model, monkeypatch):
    """The shapes of the batches that the model sees from now on."""
    seen, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **batch: seen.append(batch["input_ids"].shape) or forward(**batch))
    return seen


def test_many_texts_are_batched_by_length_and_predicted_as_alone(texts_model, monkeypatch):
    texts = sentences(700)
    alone = [zoo.predict(texts_model, text) for text in texts]
    seen = shapes_of(texts_model, monkeypatch)
    close(zoo.predict(texts_model, texts), alone)
    assert len(seen) < 30 and all(rows * length <= 1024 for rows, length in seen)
    real = sum(len(texts_model.preprocess.encode(text)) for text in texts)
    assert sum(rows * length for rows, length in seen) < 1.25 * real
    seen.clear()
    close(zoo.predict(texts_model, texts[:50], batch_size=7), alone[:50])
    assert [rows for rows, _ in seen] == [7] * 7 + [1]


def test_a_stream_is_read_window_by_window(texts_model):
    texts, taken = sentences(1200), []
    predictions = zoo.predict(texts_model, (taken.append(text) or text for text in texts))
    assert not isinstance(predictions, list) and not taken
    first = next(predictions)
    assert len(taken) == 512
    close([first, *predictions], zoo.predict(texts_model, texts))
    taken.clear()
    one_by_one = zoo.predict(texts_model, (taken.append(text) or text for text in texts), batch_size=1)
    next(one_by_one)
    assert len(taken) == 1


def test_a_stream_of_images(model):
    predictions = zoo.predict(model, (picture(i % 3) for i in range(40)), top_k=1)
    close(predictions, [zoo.predict(model, picture(i % 3), top_k=1) for i in range(40)])


LONG = "soup " * 60


def test_truncation_is_said_once_with_how_many(texts_model):
    texts = ["the soup", LONG, "cold", LONG + "was"]
    with pytest.raises(ValueError, match=r"text 1 has 62 tokens, expected at most max_length=40.*truncation=True"):
        zoo.predict(texts_model, texts)
    with pytest.warns(
        UserWarning, match=r"2 of 4 texts are truncated to max_length=40 tokens: the first is text 1 with 62"
    ):
        close(zoo.predict(texts_model, texts, truncation=True), [zoo.predict(texts_model, text) for text in (
            "the soup", "soup " * 38, "cold", "soup " * 38)])  # fmt: skip
    before = texts_model.preprocess
    try:
        for truncate, number in (("warn", 1), ("cut", 0)):
            texts_model.preprocess = dataclasses.replace(before, truncate=truncate)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                zoo.predict(texts_model, iter(texts * 300), top_k=1).__next__()  # closed early: it is said then, too
                assert len(zoo.predict(texts_model, texts)) == 4
            assert len(caught) == 2 * number
            assert all(warning.filename == __file__ for warning in caught)
        with pytest.raises(ValueError, match="text 1 has 62 tokens"):
            zoo.predict(texts_model, texts, truncation=False)
    finally:
        texts_model.preprocess = before


def test_broken_inputs(texts_model, model, tmp_path):
    texts = ["the soup", "", LONG, 3, "cold"]
    good = zoo.predict(texts_model, ["the soup", "cold"])
    with pytest.raises(ValueError, match="text 1 is empty"):
        zoo.predict(texts_model, texts)
    with pytest.warns(
        UserWarning, match="3 of 5 inputs are skipped: text 1 is empty; text 2 has 62 tokens.*text 3 is of"
    ):
        first, *none, last = zoo.predict(texts_model, texts, on_error="skip")
    assert none == [None] * 3
    close([first, last], good)
    with pytest.warns(UserWarning, match="3 of 5 inputs are labeled with their error"):
        labels = zoo.predict(texts_model, texts, on_error="label")
    close([labels[0], labels[4]], good)
    ((label, probability),) = labels[1]
    assert label == "error: text 1 is empty" and math.isnan(probability)

    picture(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    files = [tmp_path / "a.png"] * 40 + [tmp_path / "b.png", tmp_path, tmp_path / "gone.png"]
    with pytest.raises(ValueError, match=r"b\.png is not a readable image file"):
        zoo.predict(model, files)
    with pytest.warns(
        UserWarning, match=r"3 of 43 inputs.*b\.png.*is a folder: expected an image.*no image file .*gone"
    ):
        last, *none = zoo.predict(model, files, on_error="skip")[39:]
    assert none == [None] * 3
    close([last], [zoo.predict(model, files[0])])
    with pytest.raises(ValueError, match="image 33: expected uint8 pixels"):
        zoo.predict(model, [picture(0)] * 33 + [torch.zeros(3, 4, 4)])


def test_outputs_that_are_not_finite_are_an_error(model):
    with torch.no_grad():
        model.head.proj.bias[0] = float("nan")
    with pytest.raises(ValueError, match="image 0: the model gives numbers that are not finite"):
        zoo.predict(model, picture(0))


def test_a_path_is_not_a_text(texts_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.csv").write_text("text\ngood\n")
    (tmp_path / "data").mkdir()
    for path in ("reviews.csv", "./data", "data/", str(tmp_path), tmp_path / "gone.txt", ("a", "reviews.csv")):
        with pytest.raises(ValueError, match=r"text 0, '.*', is (a path|the name of a file).*--text-column"):
            zoo.predict(texts_model, path)
    with pytest.raises(ValueError, match=r"text 1, 'reviews\.csv'"):
        zoo.predict(texts_model, iter(["a", "reviews.csv"])).__next__()
    for text in ("data", ".", "and/or", "gone.csv", "a\0b", "x." * 5000):  # no files; words that name a folder too
        ((label, _), *_) = zoo.predict(texts_model, [text], truncation=True)[0]
        assert label in ("0", "1", "2")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_error": "skp"}, "did you mean 'skip'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True"),
        ({"truncation": "longest_first"}, "expected True, False, or None"),
    ],
)
def test_options_that_are_not_known(texts_model, options, said):
    with pytest.raises(ValueError, match=said):
        zoo.predict(texts_model, "a", **options)


def test_truncation_is_for_texts(model):
    with pytest.raises(ValueError, match="is for texts, and the model takes pixel_values"):
        zoo.predict(model, picture(0), truncation=True)


def test_counts_in_messages_have_commas_for_thousands() -> None:
    report = Report(inputs=9613, truncated=1002, first=("text 7", 1200), failed=2, failures=["a", "b"], max_length=40)
    assert report.messages() == [
        "1,002 of 9,613 texts are truncated to max_length=40 tokens: the first is text 7 with 1,200 tokens",
        "2 of 9,613 inputs are labeled with their error: a; b",
    ]
