"""LLaVA-NeXT: the same files through us and through transformers, there and back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llava_peers import TEXT, TOKEN, VISION, llava_processor, logits, photographs
from peers import error, randomize
from torch import Tensor

import zoo

POINTS = [[16, 32], [32, 16], [32, 32]]
SIZES = [(20, 60), (33, 16), (50, 50), (16, 47)]  # of four images, which are cut into grids of three shapes


def transformers_llava_next(folder: Path, **own: Any) -> torch.nn.Module:
    """LlavaNextForConditionalGeneration as transformers saves it."""
    import transformers

    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.MistralConfig(**TEXT | {"max_position_embeddings": 128}),
        image_token_index=TOKEN,
        image_grid_pinpoints=POINTS,
        **own,
    )
    model = randomize(transformers.LlavaNextForConditionalGeneration(config))
    with torch.no_grad():
        model.model.image_newline.normal_(generator=torch.Generator().manual_seed(4))
    model.save_pretrained(folder)
    return model.eval()


def batch(ours: zoo.Model) -> dict[str, Tensor]:
    """Three rows: one image, none, three images; padded on the right."""
    draw = torch.Generator().manual_seed(0)
    grids = [ours.config.grid(size) for size in SIZES]
    assert len(set(grids)) == 3
    pixels = torch.randn(4, 5, 3, 16, 16, generator=draw)
    for tiles, (rows, columns) in zip(pixels, grids):
        tiles[1 + rows * columns :] = 0
    sizes = torch.tensor(SIZES)
    counts = [len(ours.features(pixel_values=pixels[i : i + 1], image_sizes=sizes[i : i + 1])) for i in range(4)]
    images = [[TOKEN] * count for count in counts]
    rows = [[1, 5, *images[0], 6, 7], [1, 8, 9, 10], [1, *images[1], 11, *images[2], *images[3], 12]]
    length = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (length - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
        "pixel_values": pixels,
        "image_sizes": sizes,
    }


def test_there_and_back(tmp_path):
    theirs = transformers_llava_next(tmp_path / "theirs")
    ours = zoo.load(tmp_path / "theirs")
    assert ours.load_report.plain
    with torch.no_grad():
        inputs = batch(ours)
        real = inputs["attention_mask"].bool()
        expected = logits(theirs, inputs)[real]
        assert error(logits(ours, inputs)[real], expected) <= 1e-5
        flat = torch.cat(
            [tiles[: 1 + r * c] for tiles, (r, c) in zip(inputs["pixel_values"], map(ours.config.grid, SIZES))]
        )
        assert error(logits(ours, inputs | {"pixel_values": flat})[real], expected) <= 1e-5
    assert zoo.verify(tmp_path / "theirs").ok
    zoo.export(ours, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours").eval()
    assert error(logits(again, inputs)[real], expected) <= 1e-5
    zoo.save(ours, tmp_path / "zoo")
    assert zoo.load(tmp_path / "zoo").config == ours.config and zoo.verify(tmp_path / "zoo").ok
    row = {name: x[:1] for name, x in inputs.items()}
    count = int(row["attention_mask"].sum())
    row |= {"input_ids": row["input_ids"][:, :count], "attention_mask": row["attention_mask"][:, :count]}
    row["pixel_values"] = row["pixel_values"][:, : 1 + ours.config.grid(SIZES[0])[0] * ours.config.grid(SIZES[0])[1]]
    made = zoo.generate(ours, **row, max_new_tokens=5, eos_token_id=None)
    assert torch.equal(
        made, theirs.generate(**row, max_new_tokens=5, min_new_tokens=5, do_sample=False, eos_token_id=-1)
    )


def test_the_processor_equals_that_of_transformers(tmp_path):
    import transformers

    transformers_llava_next(tmp_path)
    fast = llava_processor(tmp_path).tokenizer
    image = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=POINTS
    )
    processor = transformers.LlavaNextProcessor(
        image, fast, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.save_pretrained(tmp_path)
    ours, images = zoo.load(tmp_path), photographs(4)
    texts = ["what is <image> this ?", "<image> and <image> w20 <image>"]
    expected = processor(text=texts, images=images, padding=True, return_tensors="pt")
    made = ours.preprocess(text=texts, images=images)
    assert torch.equal(made["input_ids"], expected["input_ids"])
    assert torch.equal(made["image_sizes"], expected["image_sizes"])
    assert error(made["pixel_values"], expected["pixel_values"]) <= 1e-5
    with torch.no_grad():
        assert ours(**made).isfinite().all()
    answer = zoo.generate(ours, text=texts[0], images=images[:1], max_new_tokens=2)
    zoo.save(ours, tmp_path / "zoo")
    again = zoo.load(tmp_path / "zoo")
    assert again.preprocess == ours.preprocess
    assert zoo.generate(again, text=texts[0], images=images[:1], max_new_tokens=2) == answer
    zoo.export(ours, tmp_path / "ours")
    written = transformers.AutoProcessor.from_pretrained(tmp_path / "ours")
    expected = written(text=texts, images=images, padding=True, return_tensors="pt")
    assert torch.equal(made["input_ids"], expected["input_ids"])
    assert error(made["pixel_values"], expected["pixel_values"]) <= 1e-5


def test_what_does_not_fit():
    model = zoo.create_model("llava_next_nano", seed=0).eval()
    pixels = torch.randn(1, 2, 3, 32, 32)
    with pytest.raises(ValueError, match="takes pixel_values and image_sizes together"):
        model.features(pixel_values=pixels)
    with pytest.raises(ValueError, match=r"have \[3\] tiles: expected \[I, K, C, H, W\]"):
        model.features(pixel_values=pixels, image_sizes=torch.tensor([[32, 64]]))
    with pytest.raises(ValueError, match="expected multiples of the image size 32 x 32"):
        model.config.replace(image_grid_pinpoints=((33, 32),))


def test_a_nano_model_trains():
    from zoo.models.example_batch import example_batch

    model = zoo.create_model("llava_next_nano", seed=0)
    model(**example_batch(model)).square().mean().backward()
    assert model.newline.grad.any() and model.image.patches.positions.grad.any()
