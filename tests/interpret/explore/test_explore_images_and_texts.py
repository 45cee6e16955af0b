"""Pages of models that read or make images and texts: what the positions of their maps are."""

import json
import re
from typing import Any

import pytest
import torch
from image_text_models import GRIDS, PIXELS, TEXT, small_bridge, small_captioner, small_painter

import zoo

WORDS = re.split(r"(?= )", TEXT)  # as the tokenizer divides them


def description(page: Any) -> Any:
    """What a page says about its model."""
    return json.loads(re.search(r'id="description">(.*?)</script>', page.html, re.DOTALL)[1])["models"][0]


def groups(page: Any) -> dict[str, tuple[list[Any], list[Any], list[int]]]:
    """{group: (its queries, its keys, shape of a map)}: of a part the texts, or its grid with the number of places."""
    model = description(page)
    sides = [[part["texts"] if "texts" in part else (tuple(part["grid"]), part["count"]) for part in side
              if part.get("texts", True)] for side in model["positions"]]  # fmt: skip
    return {group["name"]: (sides[group["queries"]], sides[group["keys"]], group["layers"][0]["shape"][1:3])
            for group in model["groups"]}  # fmt: skip


@pytest.mark.parametrize(("name", "start", "places"), [("dalle_nano", ["[START]"], 15), ("maskgit_nano", [], 16)])
def test_words_and_image_tokens_of_one_stack(name: str, start: list[str], places: int) -> None:
    model = small_painter(name)
    queries, keys, shape = groups(zoo.explore(model, TEXT))["self-attention"]
    tokens = [*start, *WORDS, *["[PAD]"] * 4]
    assert queries == keys == [tokens, ((4, 4), places)] and shape == [len(tokens) + places] * 2
    with pytest.raises(ValueError, match="the model has no image tokenizer that reads an image: set one"):
        zoo.explore(model, [TEXT, PIXELS])
    with pytest.raises(ValueError, match="the model reads a text, with or without its image: give one, too"):
        zoo.explore(model, {"images": PIXELS})
    tokenizer = zoo.create_model("dvae_tiny", vocab_size=16, image_size=16, widths=(8, 8), seed=0)
    model.set_image_tokenizer(tokenizer)
    ids = tokenizer.tokenize(**tokenizer.preprocess(PIXELS)).view(4, 4)
    read = zoo.explore(model, [TEXT, PIXELS])
    given, made = zoo.explore(model, {"text": TEXT, "images": ids}), zoo.explore(model, TEXT)
    assert groups(read) == groups(given) == groups(made)
    maps = [re.findall(r'id="block-\d+">(.*?)</script>', page.html) for page in (read, given, made)]
    assert maps[0] == maps[1] != maps[2]  # the same tokens, and those that the model makes


@pytest.mark.parametrize("name", GRIDS)
def test_an_image_among_words(name: str) -> None:
    model = small_bridge(name)
    found = groups(zoo.explore(model, [PIXELS, TEXT]))
    parts, keys, shape = found["text"]
    patches = [part for part in found["image"][0] if isinstance(part, tuple)]
    assert patches == [((4, 4), 16)] and keys == parts and shape[0] == shape[1]
    if name == "idefics_nano":
        latents = [f"latent {i}" for i in range(8)]
        assert found["connector"][:2] == ([latents], [["[CLS]"], *patches, latents])
        assert found["text to features"][:2] == (parts, [latents]) and parts[0][-8:] == WORDS
        return
    *before, after = parts
    assert before[-1] == (GRIDS[name], GRIDS[name][0] * GRIDS[name][1]) and "".join(after).strip().endswith(TEXT)


def test_an_image_as_a_whole_and_in_tiles() -> None:
    model = small_bridge("llava_next_nano")  # tiles of 2 x 2 patches
    wide = torch.nn.functional.interpolate(PIXELS[None], (90, 150))[0]
    page = zoo.explore(model, [wide, TEXT])
    (whole, tiles, after), _, shape = groups(page)["text"]
    # 64 x 64 pixels are padded above and below: the 2 rows in the middle, with a token behind each
    assert (whole, tiles) == (((2, 2), 4), ((2, 5), 10)) and shape == [14 + len(after)] * 2
    assert "".join(after).strip() == TEXT and groups(page)["image"][0] == [["[CLS]"], whole]
    side = description(page)["positions"][1]
    assert [part.get("name") for part in side] == ["whole image", "", None]
    assert side[1]["tiles"] == {"size": [2, 2], "start": [1, 0], "columns": 2} and side[1]["size"] == [80, 32]
    plane = model.preprocess.image.plane(wide)
    assert torch.equal(model.preprocess.image(wide)["pixel_values"][0, 2], model.preprocess.image.tile.normalize(
        plane[None, :, :32, 32:])[0])  # fmt: skip


def test_captions_and_patches() -> None:
    written, patches = ["[CLS]", *TEXT.split()], [["[CLS]"], ((8, 8), 64)]
    found = groups(zoo.explore(small_captioner("blip_nano"), [PIXELS, TEXT]))
    assert found["encoder"][0] == patches and found["decoder to encoder"] == ([written], patches, [9, 65])
    model, text = small_captioner("coca_nano"), [*written, "[SEP]"]
    found = groups(zoo.explore(model, [PIXELS, TEXT]))
    assert found["text"] == ([text, ["[PAD]", "[CLS]"]],) * 2 + ([12, 12],)
    assert found["decoder to features"] == ([text], [[f"pooled {i}" for i in range(15)]], [10, 15])
    assert found["pooler.attention"][1] == patches and "features" not in found
    model = small_captioner("coca_nano", pooler_queries=None, max_length=len(text))
    found = groups(zoo.explore(model, [PIXELS, TEXT]))
    assert found["text"][0] == [text, ["[CLS]"]] and found["decoder to features"] == ([text], patches[1:], [10, 64])
