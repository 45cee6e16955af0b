"""BLIP: the same files through us and through transformers, and the captions that both write."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from caption_peers import noise_images, transformers_blip
from peers import edit_json, error, pixels
from safetensors.torch import load_file, save_file
from table_swaps import check_swaps

import zoo

PEERS = {
    "as published": {},
    "other options": dict(
        text=dict(hidden_act="relu", num_hidden_layers=1, hidden_size=24, num_attention_heads=3),
        vision=dict(hidden_act="relu", num_hidden_layers=3, patch_size=16),
    ),
}


def batch(dtype: torch.dtype = torch.float32) -> dict:
    ids = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(1))
    return {"pixel_values": pixels(rows=3, dtype=dtype), "input_ids": ids}


def output(model, values: dict) -> torch.Tensor:
    with torch.no_grad():
        y = model(**values)
    return y if isinstance(y, torch.Tensor) else y.logits


@pytest.fixture(scope="module", params=PEERS)
def peer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer")
    return folder, transformers_blip(folder, **PEERS[request.param])


def test_same_numbers_from_the_same_files(peer):
    folder, theirs = peer
    ours = zoo.load(folder)
    assert ours.load_report.plain and not ours.training
    assert error(output(ours, batch()), output(theirs, batch())) <= 1e-5
    double = batch(dtype=torch.float64)
    exact = zoo.load(folder, dtype=torch.float64)
    assert error(output(exact, double), output(deepcopy(theirs).double(), double)) <= 1e-9
    with torch.no_grad():
        states = theirs.vision_model(batch()["pixel_values"]).last_hidden_state
        assert error(ours.encode(**batch()), states) <= 1e-5
    assert zoo.verify(folder).ok


def test_round_trip_through_their_format(peer, tmp_path):
    import transformers

    ours = zoo.load(peer[0])
    zoo.export(ours, tmp_path / "theirs")
    again = zoo.load(tmp_path / "theirs")
    assert again.config == ours.config and again.preprocess == ours.preprocess and again.load_report.plain
    assert torch.equal(output(again, batch()), output(ours, batch()))
    verified = zoo.verify(tmp_path / "theirs")
    assert verified.ok and not verified.notes
    theirs, info = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "theirs", output_loading_info=True
    )
    assert type(theirs) is transformers.BlipForConditionalGeneration
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "theirs")
    made, own = processor(images=noise_images(), text=["a photo", "two cats"]), ours.preprocess
    assert torch.equal(torch.as_tensor(made["input_ids"]), own(text=["a photo", "two cats"])["input_ids"])
    assert type(processor) is transformers.BlipProcessor
    saved = zoo.load(zoo.save(ours, tmp_path / "ours"))
    assert saved.preprocess == ours.preprocess and torch.equal(output(saved, batch()), output(ours, batch()))


def test_files_with_the_names_of_older_versions(tmp_path):
    """Published files have the tied tensors and the positions' numbers; the config may name no sizes of the ViT."""
    theirs = transformers_blip(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    text = "text_decoder."
    state[f"{text}bert.embeddings.position_ids"] = torch.arange(24)[None]
    state[f"{text}cls.predictions.decoder.weight"] = state[f"{text}bert.embeddings.word_embeddings.weight"].clone()
    state[f"{text}cls.predictions.decoder.bias"] = state[f"{text}cls.predictions.bias"].clone()
    for name in [name for name in state if "LayerNorm" in name]:
        state[name.replace("weight", "gamma").replace("bias", "beta")] = state.pop(name)
    save_file(state, tmp_path / "model.safetensors")
    assert error(output(zoo.load(tmp_path), batch()), output(theirs, batch())) <= 1e-5


def test_swapping_two_lines_of_the_table_is_caught(tmp_path):
    theirs = transformers_blip(
        tmp_path,
        text=dict(num_hidden_layers=1, hidden_size=32, num_attention_heads=4, intermediate_size=48),
        vision=dict(num_hidden_layers=1),
    )
    check_swaps(tmp_path, lambda model: output(model, batch()), output(theirs, batch()), 20, step=3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_twenty_steps_of_training(tmp_path, dtype, tolerance):
    theirs = transformers_blip(tmp_path).to(dtype)
    ours, losses = zoo.load(tmp_path, dtype=dtype), []
    for model in (ours, theirs):
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3, weight_decay=0.05)
        losses.append([])
        for seed in range(20):
            draw = torch.Generator().manual_seed(seed)
            ids = torch.randint(5, 60, (2, 8), generator=draw)
            y = model(pixel_values=torch.randn(2, 3, 32, 32, generator=draw).to(dtype), input_ids=ids[:, :-1])
            loss = F.cross_entropy((y if isinstance(y, torch.Tensor) else y.logits).mT, ids[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    a, b = losses
    assert min(a) < a[0] and all(abs(x - y) <= tolerance * abs(y) for x, y in zip(a, b, strict=True))


def test_padded_captions_are_those_alone(peer):
    model, values = zoo.load(peer[0]), batch()
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, 6:], mask[1, :4] = 0, 0
    y = output(model, values | {"attention_mask": mask})
    for row in range(3):
        keep = mask[row].bool()
        alone = {"pixel_values": values["pixel_values"][row][None], "input_ids": values["input_ids"][row, keep][None]}
        assert error(y[row, keep], output(model, alone)[0]) <= 1e-5


# --- captions ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    """(a folder, the model of transformers), which writes other captions for other images."""
    folder = tmp_path_factory.mktemp("writer")
    return folder, transformers_blip(folder, gain=4.0)


def filled(tokens: torch.Tensor, end: int) -> torch.Tensor:
    """With padding after the end token; beam search of transformers writes end tokens there if the padding is 0."""
    before = (tokens == end).long().cumsum(1) - (tokens == end).long()
    return tokens.masked_fill(before > 0, 0)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_captions_are_those_of_transformers(writer, options):
    import transformers

    folder, theirs = writer
    ours, images = zoo.load(folder), noise_images(3)
    processor = transformers.BlipProcessor.from_pretrained(folder)
    for text in (None, "a photo of"):
        inputs = processor(images=images, text=None if text is None else [text] * 3, return_tensors="pt")
        made = zoo.generate(ours, **inputs, max_new_tokens=9, **options)
        tokens = theirs.generate(**inputs, max_new_tokens=9, **options)  # changes the prompt in place
        assert torch.equal(made, filled(tokens, ours.config.eos_token_id))
        captions = processor.batch_decode(tokens, skip_special_tokens=True)
        assert len(set(captions)) > 1, "the images decide"
        assert zoo.generate(ours, images=images, text=text, max_new_tokens=9, **options) == captions
    one = zoo.generate(ours, "a photo of", images=images[0], max_new_tokens=9, **options)
    assert one == captions[0]


def test_prompts_of_several_lengths_and_the_image_is_read_once(writer):
    model, images = zoo.load(writer[0]), noise_images(2)
    prompts = ["a photo", "the red house"]
    alone = [zoo.generate(model, p, images=image, max_new_tokens=6) for p, image in zip(prompts, images, strict=True)]
    calls: list[int] = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    model.encoder.blocks.register_forward_hook(lambda *_: calls.append(1))
    assert zoo.generate(model, text=prompts, images=images, max_new_tokens=6) == alone and len(calls) == 1
    several = zoo.generate(model, images=images[0], max_new_tokens=6, num_beams=3, num_return_sequences=3)
    assert len(several) == 3 and len(calls) == 2


def test_optimized_models_write_the_same_captions(writer):
    model, images = zoo.load(writer[0]), noise_images(2)
    fast = zoo.optimize(model)
    assert zoo.generate(fast, images=images, max_new_tokens=8) == zoo.generate(model, images=images, max_new_tokens=8)


WRONG = {
    "no image": (lambda m, b: zoo.generate(m, "a photo"), "'pixel_values' is missing"),
    "too few texts": (
        lambda m, b: zoo.generate(m, ["a"] * 3, images=noise_images()),
        "2 images, and the prompts are 3",
    ),
    "ids with images": (lambda m, b: zoo.generate(m, b["input_ids"], images=noise_images(3)), "are a Tensor"),
    "text twice": (lambda m, b: zoo.generate(m, "a", text="b", images=noise_images()), "pass one of them"),
    "empty list": (lambda m, b: zoo.generate(m, images=[]), "list of images is empty"),
    "no end": (lambda m, b: zoo.generate(m, **b), "prompts that end with the token"),
    "rows": (lambda m, b: zoo.generate(m, b["input_ids"][:2], pixel_values=b["pixel_values"]), "3 images"),
    "too long": (lambda m, b: zoo.generate(m, images=noise_images(), max_new_tokens=24), "max_length=24"),
    "long caption": (lambda m, b: m(b["pixel_values"], torch.zeros(3, 25, dtype=torch.long)), "got 25 tokens"),
    "image size": (lambda m, b: m(torch.randn(3, 3, 40, 40), b["input_ids"]), "the images are 40 x 40"),
    "one image": (lambda m, b: m(b["pixel_values"][:1], b["input_ids"]), "input_ids have 3 rows"),
    "labels": (lambda m, b: m(**b, labels=b["input_ids"]), "F.cross_entropy"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(peer, name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call(zoo.load(peer[0]), batch())


def test_texts_without_images_and_images_without_a_model_for_them():
    model = zoo.create_model("gpt_nano", seed=0)
    with pytest.raises(TypeError, match="'images'"):
        zoo.generate(model, torch.ones(1, 2, dtype=torch.long), images=noise_images())
    blip = zoo.create_model("blip_nano", seed=0)
    with pytest.raises(ValueError, match="the model has no tokenizer"):
        zoo.generate(blip, images=noise_images())
    with pytest.raises(ValueError, match="decoder_depth=0"):
        zoo.create_model("blip_nano", decoder_depth=0)
    with pytest.raises(TypeError, match="no option 'task'"):
        zoo.generate(blip, pixel_values=torch.randn(1, 3, 32, 32), task="caption")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config": {"hidden_act": "relu"}}, "differ"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"architectures": ["BlipForQuestionAnswering"]}, "BlipForQuestionAnswering.*not supported"),
    ],
)
def test_configs_that_are_not_supported(tmp_path, changes, message):
    transformers_blip(tmp_path)
    edit_json(tmp_path / "config.json", **changes)
    with pytest.raises(zoo.LoadError, match=message):
        zoo.load(tmp_path)


def test_other_image_sizes(peer):
    """Positions are resampled as transformers does with interpolate_pos_encoding=True."""
    folder, theirs = peer
    big = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    ours = zoo.load(folder, image_size=64)
    with torch.no_grad():
        states = theirs.vision_model(big, interpolate_pos_encoding=True).last_hidden_state
        assert error(ours.encode(big), states) <= 1e-5
    assert ours.preprocess.image.size == (64, 64)


def test_a_convolutional_stem(tmp_path):
    """Which transformers does not have: the zoo's files keep it, and an export names it."""
    model = zoo.create_model(
        "blip_nano", stem="conv", patch_size=4, width=16, heads=2, depth=1, decoder_depth=1, seed=0
    )
    values = {"pixel_values": torch.randn(2, 3, 32, 32), "input_ids": torch.tensor([[2, 5, 6], [2, 7, 8]])}
    zoo.save(model, tmp_path / "own")
    again = zoo.load(tmp_path / "own")
    assert again.config.stem == "conv" and torch.equal(output(again, values), output(model.eval(), values))
    with pytest.raises(ValueError, match="cannot express stem='conv'"):
        zoo.export(model, tmp_path / "theirs")
