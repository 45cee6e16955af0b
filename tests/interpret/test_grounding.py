"""The words of captions over the patches of their images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.plot_checks import check_texts
from zoo.data.image_text.dataset import ImageText, ImageTexts
from zoo.data.synthetic.object_scenes import ObjectScene, make_object_scenes
from zoo.interpret import grounding
from zoo.interpret.grounding import Grounding, by_gradient, ground_words, plot_grounding, words_of_tokens
from zoo.preprocessing.tokenizer_training import train
from zoo.training.recipes.grounding import object_words, pointing

SCENES = make_object_scenes("test", 3)


@pytest.fixture(scope="module")
def model() -> Any:
    tokenizer = train("seq2seq", [text for row in make_object_scenes("train", 40).captions for text in row], 300)
    fields = {f"{name}_token_id": tokenizer.id(name) for name in ("bos", "eos", "pad")}
    made = zoo.create_model("blip_nano", head="lm", width=16, mlp_dim=16, heads=2, depth=2, decoder_depth=2, seed=0,
                            vocab_size=tokenizer.vocab_size, decoder_start_token_id=fields["bos_token_id"],
                            **fields).eval()  # fmt: skip
    made.preprocess = replace(made.preprocess, text=tokenizer)
    return made


def test_the_attention_is_that_of_the_steps_that_wrote_the_words(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps of a caption that the model writes are those of the steps of generation, which read one token each."""
    monkeypatch.setattr(grounding, "LONGEST", 6)
    image = SCENES.images[0]
    steps: list[list[torch.Tensor]] = []
    with monkeypatch.context() as patched:
        for block in model.decoder.blocks:
            own: list[torch.Tensor] = []
            steps.append(own)

            def forward(q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None, core: Any = block.cross.core,
                        own: Any = own) -> Any:  # fmt: skip
                own.append(core.weights(q, k, mask, bias)[0].mean(0))
                return type(core).forward(core, q, k, v, mask, bias)

            patched.setattr(block.cross.core, "forward", forward)
        ids = grounding.write_caption(model, image)
    rows = torch.stack([torch.cat(own) for own in steps]).mean(0)
    assert len(steps[0]) > 1 and len(rows) >= len(ids) > 1
    found = ground_words(model, image)
    for heat, (word, tokens) in zip(found.maps, words_of_tokens(model, ids), strict=True):
        patches = rows[tokens].mean(0)[1:]
        torch.testing.assert_close(heat.flatten(), patches / patches.sum(), atol=1e-6, rtol=1e-5, msg=word)


def test_words_of_several_tokens(model: Any) -> None:
    text = "a crossed red circle"
    ids = grounding.token_ids(model, text)
    words = words_of_tokens(model, ids)
    assert [word for word, _ in words] == text.split() and len(ids) > 4
    assert [i for _, tokens in words for i in tokens] == list(range(len(ids)))
    found = ground_words(model, SCENES.images[0], text)
    assert found.words == text.split() and found.maps.shape == (4, 8, 8)
    assert torch.equal(found.maps, ground_words(model, SCENES.images[0], ids).maps)
    with pytest.raises(ValueError, match="has no words"):
        ground_words(model, SCENES.images[0], " ")


@pytest.mark.parametrize("method", grounding.METHODS)
def test_layers(model: Any, method: Any) -> None:
    """The maps of single layers differ; their mean is that of both. Gradients of the words of a caption in one pass are
    those of each word alone."""
    image, text = SCENES.images[1], SCENES.captions[1][0]
    both, *each = [ground_words(model, image, text, method=method, layers=layers).maps
                   for layers in (grounding.CROSS, "decoder.blocks.0.cross", "decoder.blocks.1.cross")]  # fmt: skip
    assert not torch.allclose(*each, rtol=0, atol=1e-6) and both.shape == each[0].shape
    if method == "gradient":
        ids = grounding.token_ids(model, text)
        batch = grounding.pixels_of(model, image) | {"input_ids": torch.tensor([[2, *ids[:-1]]])}
        words = [tokens for _, tokens in words_of_tokens(model, ids)]
        alone = [by_gradient(model, batch, ids, [tokens], grounding.CROSS)[0] for tokens in words]
        together = by_gradient(model, batch, ids, words, grounding.CROSS)
        torch.testing.assert_close(together, torch.stack(alone), atol=1e-9, rtol=1e-4)


def test_the_peak_of_an_object() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[0, 1, 2], maps[1, 3, 0], maps[1, 1, 2] = 0.4, 0.5, 0.3
    found = Grounding(torch.zeros(3, 32, 32, dtype=torch.uint8), ["red", "circle"], maps)
    assert found.peak([0, 1]) == (20.0, 12.0) and found.peak([1]) == (4.0, 28.0)


def test_only_objects_that_the_caption_names_are_looked_for(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = ObjectScene(((0, 0, 0), (1, 4, 1)))
    assert object_words(scene, ["a", "blue", "square", "right", "of", "a", "red", "circle"]) == [
        (0, [6, 7]),
        (1, [1, 2]),
    ]
    assert object_words(scene, ["a", "red", "square", "left", "of", "a", "blue", "circle"]) == []
    texts = [(ImageText("", row[0], ""),) for row in SCENES.captions]
    images = ImageTexts(SCENES.images, texts, True, SCENES.scenes, SCENES.boxes)
    assert pointing(model, images)["named"] == 0.0  # not trained
    monkeypatch.setattr("zoo.training.recipes.grounding.write_caption", lambda _, image: next(written))
    written = (grounding.token_ids(model, row[0]) for row in SCENES.captions)
    # a map that has its maximum in the middle of the box of the object that a word names
    monkeypatch.setattr("zoo.training.recipes.grounding.ground_words", lambda *_, **options: looking(options))
    ways = 5

    def looking(options: dict[str, Any]) -> Any:
        calls.append(options)
        which = (len(calls) - 1) // ways
        words = SCENES.captions[which][0].split()
        maps = torch.zeros(len(words), 16, 16)
        for place, own in object_words(SCENES.scenes[which], words):
            left, top, right, bottom = (SCENES.boxes[which, place] / 2).tolist()
            maps[own, int((top + bottom) / 2), int((left + right) / 2)] = 1.0
        return Grounding(SCENES.images[which], words, maps)

    calls: list[dict[str, Any]] = []
    found = pointing(model, images)
    assert len(calls) == 3 * ways
    assert found["named"] == found["attention"] == found["gradient"] == found["layer1"] == 1.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) / 32**2 for row, scene in zip(SCENES.boxes, SCENES.scenes)
             for box in row[: len(scene.objects)]]  # fmt: skip
    assert found["overlap"] == 1.0 and found["overlap_chance"] > found["chance"]
    assert found["chance"] == pytest.approx(float(torch.stack(areas).mean()), abs=0.05)


def test_the_picture(model: Any, tmp_path: Path) -> None:
    texts = SCENES.captions
    found = [ground_words(model, SCENES.images[i], texts[i][0]) for i in range(2)]
    figure = plot_grounding(found, tmp_path / "grounding.png", references=[texts[0], ["a cat"]])
    said = check_texts(figure)
    assert "wrong caption" in said and "image" in said and found[0].words[1] in said
    assert (tmp_path / "grounding.png").stat().st_size > 1000


def test_what_it_refuses(model: Any) -> None:
    with pytest.raises(ValueError, match="no groundings"):
        plot_grounding([])
    with pytest.raises(ValueError, match="Bart has no decoder that attends to the patches"):
        ground_words(zoo.create_model("bart_nano"), SCENES.images[0], "a cat")
