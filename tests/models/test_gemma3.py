"""Gemma 3 with images: the same files through us and through transformers, their tokens, and what is refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from gemma3_peers import TOKEN, batch, save_processor, transformers_gemma3
from llava_peers import photographs
from paligemma_peers import logits
from peers import edit_json, error
from safetensors.torch import load_file, save_file
from table_swaps import check_swaps

import zoo
from zoo.inference.generation.chat import Chat
from zoo.inference.generation.prompt_cache import PromptCache
from zoo.models.gemma3.image_mask import ImageMask, image_mask
from zoo.nn import CAUSAL, Window
from zoo.preprocessing.tiles import pan_and_scan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gemma3")
    transformers_gemma3(path)
    save_processor(path)
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    import transformers

    return transformers.Gemma3ForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def ours(folder):
    return zoo.load(folder)


def test_same_numbers_both_ways(ours, theirs, tmp_path):
    import transformers

    inputs = batch()
    assert not ours.load_report.initialized and ours.config.text.family == "gemma"
    expected = logits(theirs, inputs)
    assert error(logits(ours, inputs), expected) <= 1e-5
    assert error(logits(ours, batch("left")), logits(theirs, batch("left"))) <= 1e-5
    own = {name: x for name, x in inputs.items() if name != "token_type_ids"}
    assert error(logits(ours, own), expected) <= 1e-5  # the ids say where images are
    causal = inputs | {"token_type_ids": torch.zeros_like(inputs["token_type_ids"])}
    assert error(logits(ours, causal), expected) > 1e-2
    assert error(logits(ours, causal), logits(theirs, causal)) <= 1e-5
    zoo.export(ours, tmp_path)
    peer = transformers.Gemma3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert error(logits(peer, inputs), expected) <= 1e-5
    again = zoo.load(tmp_path)
    assert again.config == ours.config and again.preprocess == ours.preprocess and zoo.verify(tmp_path).ok


@pytest.mark.parametrize("beams", [1, 3])
def test_tokens_are_those_of_transformers(ours, theirs, beams):
    inputs, options = batch("left"), dict(max_new_tokens=8, num_beams=beams)
    expected = theirs.generate(**inputs, **options, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(zoo.generate(ours, **inputs, **options, eos_token_id=None), expected)


@torch.no_grad()
def test_a_padded_row_is_the_row_alone(ours):
    inputs = batch("left")
    together, images = logits(ours, inputs), iter(inputs["pixel_values"])
    for row in range(3):
        real = inputs["attention_mask"][row].bool()
        ids = inputs["input_ids"][row : row + 1, real]
        own = [next(images) for _ in range(int((ids == TOKEN).sum()) // 4)]
        alone = ours(ids, **({"pixel_values": torch.stack(own)} if own else {}))
        assert error(alone, together[row : row + 1, real]) <= 1e-5


def test_swapping_lines_of_the_table_is_caught(tmp_path):
    theirs, inputs = transformers_gemma3(tmp_path, num_hidden_layers=2), batch()
    check_swaps(tmp_path, lambda model: logits(model, inputs), logits(theirs, inputs), 20, step=4)


def test_training_gives_the_losses_of_transformers(folder):
    import transformers

    peer = transformers.Gemma3ForConditionalGeneration.from_pretrained(folder)
    history = []
    for model in (zoo.load(folder), peer):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        losses = []
        for step in range(20):
            inputs = batch(seed=step)
            output = model.train()(**inputs)
            scores = (output if isinstance(output, torch.Tensor) else output.logits)[:, :-1]
            answer = (inputs["attention_mask"] * (inputs["token_type_ids"] == 0))[:, 1:].bool()
            loss = F.cross_entropy(scores[answer], inputs["input_ids"][:, 1:][answer])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        history.append(torch.tensor(losses, dtype=torch.float64))
    assert (history[0] / history[1] - 1).abs().max() <= 1e-4


def test_names_of_published_files(folder, theirs, tmp_path):
    """google/gemma-3-4b-pt: `language_model.model`, `vision_tower.vision_model`, and a config of few keys."""
    tensors = load_file(folder / "model.safetensors")
    prefixes = {"model.language_model.": "language_model.model.", "model.": ""}
    names = {}
    for name, x in tensors.items():
        for ours, published in prefixes.items():
            if name.startswith(ours):
                name = published + name.removeprefix(ours)
                break
        names[name.replace("vision_tower.", "vision_tower.vision_model.", 1)] = x.clone()
    save_file(names, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert names.keys() != tensors.keys() or "language_model.model.norm.weight" in names
    assert error(logits(zoo.load(tmp_path), batch()), logits(theirs, batch())) <= 1e-5


def test_the_processor_equals_that_of_transformers(ours, folder):
    import transformers

    processor, images = transformers.AutoProcessor.from_pretrained(folder), photographs(3)
    texts = ["what <start_of_image> is this ?", "a cow", "<start_of_image> on the <start_of_image>"]
    expected = processor(text=texts, images=[images[:1], [], images[1:]], padding=True, return_tensors="pt")
    made = ours.preprocess(text=texts, images=images)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(made[name], expected[name])
    assert error(made["pixel_values"], expected["pixel_values"]) <= 1e-5
    assert "token_type_ids" not in made  # the ids have them
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    ids = processor(text=text, images=images[:1], return_tensors="pt", add_special_tokens=False)["input_ids"]
    made = ours.preprocess.apply_chat_template(chat, images=images[:1], add_generation_prompt=True)
    assert torch.equal(made["input_ids"], ids)
    options = dict(max_new_tokens=3, eos_token_id=None)
    assert zoo.generate(ours, text="what is this ?", images=images[:1], **options) == zoo.generate(
        ours, chat, images=images[:1], **options
    )


def test_the_marker_of_all_models_is_that_of_this_one_if_there_are_images(ours):
    images, options = photographs(2), dict(max_new_tokens=3, eos_token_id=None)
    texts, own = ["what <image> is <image> ?"], ["what <start_of_image> is <start_of_image> ?"]
    expected = ours.preprocess(text=own, images=images)["input_ids"]
    assert torch.equal(ours.preprocess(text=texts, images=images)["input_ids"], expected)
    assert zoo.generate(ours, text=texts, images=images, **options) == zoo.generate(
        ours, text=own, images=images, **options
    )
    with pytest.raises(ValueError, match="has 1 times the marker '<start_of_image>', and 2 images"):
        ours.preprocess(text="<image> ?", images=[images])
    assert ours.preprocess.with_token(["an <image> of HTML"], 0) == ["an <image> of HTML"]
    mixed = ["an <image> of HTML <start_of_image>"]
    assert ours.preprocess.with_token(mixed, 1) == mixed


def image_of(height: int, width: int):
    from PIL import Image

    draw = torch.Generator().manual_seed(height)
    return Image.fromarray(torch.randint(256, (height, width, 3), generator=draw).byte().numpy())


CROPS = dict(do_pan_and_scan=True, pan_and_scan_min_crop_size=12, pan_and_scan_max_num_crops=3)
# (height, width): wide and tall ones, with a narrower last crop, square, too small, and of more crops than there are.
SIZES = [(20, 61), (24, 24), (50, 16), (11, 40), (30, 36), (15, 90)]


def test_crops_of_long_images_are_those_of_transformers(ours, folder):
    import transformers

    processor, images = transformers.AutoProcessor.from_pretrained(folder), [image_of(*size) for size in SIZES]
    texts = ["what <start_of_image> is <start_of_image> this ?", "a cow", "<start_of_image> on the"]
    texts += ["<start_of_image> <start_of_image>", "<start_of_image>"]
    each = [images[:2], [], images[2:3], images[3:5], images[5:]]
    for options, crops in (
        (CROPS, [3, 0, 3, 0, 2, 3]),
        (CROPS | {"pan_and_scan_min_ratio_to_activate": 3.1}, [0, 0, 3, 0, 0, 3]),
    ):
        expected = processor(text=texts, images=each, padding=True, return_tensors="pt", **options)
        made = ours.preprocess(text=texts, images=each, **options)
        assert made.keys() == {"input_ids", "attention_mask", "pixel_values"}
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(made[name], expected[name])
        assert len(made["pixel_values"]) == 6 + sum(crops)
        assert error(made["pixel_values"], expected["pixel_values"]) <= 1e-5
        alone = ours.preprocess(images=images, **options)["pixel_values"]
        assert torch.equal(alone, made["pixel_values"])


def test_the_crops_of_an_image_by_hand():
    limits = dict(smallest=256, most=4, ratio=1.2)
    whole = slice(0, 300)
    assert pan_and_scan((300, 1000), **limits) == [
        (whole, slice(0, 334)), (whole, slice(334, 668)), (whole, slice(668, 1000)),
    ]  # fmt: skip
    assert pan_and_scan((700, 300), **limits) == [(slice(0, 350), whole), (slice(350, 700), whole)]
    assert pan_and_scan((255, 1000), **limits) == pan_and_scan((600, 700), **limits) == []
    assert len(pan_and_scan((300, 9000), **limits)) == 4
    parts = pan_and_scan((20, 601), smallest=20, most=30, ratio=1.2)  # 30 of 21 pixels would have one of none
    assert len(parts) == 29 and parts[-1][1] == slice(588, 601)


def test_answers_about_crops(ours, theirs, folder, tmp_path):
    """Options of a call, of a saved model, and of a folder of transformers, whose tokens these are."""
    import transformers

    image, options = image_of(20, 61), dict(max_new_tokens=4, eos_token_id=None)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]}],
        add_generation_prompt=True,
    )
    inputs = processor(text=text, images=[image], return_tensors="pt", add_special_tokens=False, **CROPS)
    tokens = theirs.generate(**inputs, **options, do_sample=False, pad_token_id=0)[:, -4:]
    made = zoo.generate(ours, text="what is this ?", images=[image], **CROPS, **options)
    assert made.split() == ours.preprocess.text.decode(tokens[0]).split()
    model = zoo.load(folder)
    model.preprocess = replace(model.preprocess, **CROPS)
    assert zoo.generate(model, text="what is this ?", images=[image], **options) == made
    assert Chat(model, **options).reply("what is this ?", lambda text: None, [image]).split() == made.split()
    zoo.export(model, tmp_path / "theirs")
    saved = transformers.AutoProcessor.from_pretrained(tmp_path / "theirs")
    assert type(saved.image_processor).__name__ == "Gemma3ImageProcessor"
    pixels = saved.image_processor(images=[image], return_tensors="pt")["pixel_values"]
    assert len(pixels) == 4 and error(pixels, inputs["pixel_values"]) <= 1e-5
    again = zoo.load(tmp_path / "theirs")
    assert again.preprocess == model.preprocess == zoo.load(zoo.save(model, tmp_path / "ours")).preprocess
    ids = saved(text=text, images=[image], return_tensors="pt", add_special_tokens=False, **CROPS)["input_ids"]
    assert torch.equal(ids, inputs["input_ids"])
    edit_json(tmp_path / "theirs" / "preprocessor_config.json", pan_and_scan_max_num_crops=0)
    broken = zoo.load(tmp_path / "theirs")
    assert broken.preprocess.image is None and "pan_and_scan_max_num_crops=0" in broken.load_report.notes[0]


def test_options_of_crops_that_do_not_fit(ours):
    for options, message in (
        ({"pan_and_scan_min_crop_size": 0}, "pan_and_scan_min_crop_size=0: expected at least 1"),
        ({"pan_and_scan_max_num_crops": 2.5}, "pan_and_scan_max_num_crops=2.5 should be int"),
        ({"pan_and_scan_min_ratio_to_activate": -1.0}, "finite number above 0"),
        ({"do_pan_and_scan": "yes"}, "do_pan_and_scan='yes' should be bool"),
        ({"do_pan_and_scan": True, "image": replace(ours.preprocess.image, fit="none")}, "fit='none'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(ours.preprocess, **options)
    with pytest.raises(ValueError, match="do_pan_and_scan= belongs to text="):
        zoo.generate(ours, batch()["input_ids"], do_pan_and_scan=True)
    shortest = zoo.create_model("gemma3_vision_nano", seed=0)
    shortest.preprocess = replace(
        shortest.preprocess, image=replace(ours.preprocess.image, size=(64, 64), fit="shortest")
    )
    with pytest.raises(ValueError, match="no center crop"):
        shortest.preprocess.transformers_files()


def test_turns_of_a_chat_are_those_of_whole_prompts(ours):
    first, second = photographs(2)
    cached = Chat(ours, max_new_tokens=3, eos_token_id=None)
    for text, images in (("what ?", [first]), ("a cow ?", []), ("this ?", [second]), ("is this ?", [])):
        prompt = cached.fit(cached.message(text, images))[1]
        whole = zoo.generate(ours, **prompt, max_new_tokens=3, eos_token_id=None)[0, -3:]
        assert cached.reply(text, lambda text: None, images).split() == ours.preprocess.text.decode(whole).split()


def test_the_mask_by_hand():
    where = torch.tensor([[0, 1, 1, 0, 1, 1]]).bool()
    zero, places = torch.zeros((), dtype=torch.long), torch.arange(6)
    index = (zero, zero, places[:, None], places[None])
    both = torch.tensor([
        [1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1],
    ]).bool()  # fmt: skip
    mask = image_mask(where, None)
    assert torch.equal(mask(*index), both)
    near = torch.tensor([[q - k <= 1 for k in range(6)] for q in range(6)])
    windowed = mask & Window(1, 0)
    assert isinstance(windowed, ImageMask) and torch.equal(windowed(*index), both & near)
    assert mask != windowed and mask.inner == CAUSAL and (mask & CAUSAL) == mask


def test_what_does_not_fit(ours, folder, tmp_path):
    inputs = batch()
    with pytest.raises(ValueError, match=r"token_type_ids are \(3, 2\).*1 at the tokens of images"):
        ours(**inputs | {"token_type_ids": inputs["token_type_ids"][:, :2]})
    with pytest.raises(ValueError, match="token_type_ids belongs to the tokens of one prompt"):
        row = {name: x[2:, :13] if x.ndim == 2 else x[2:] for name, x in inputs.items()}
        zoo.generate(ours, **row, cache=PromptCache())
    for fields, message in (
        ({"mm_tokens_per_image": 5}, "mm_tokens_per_image=5: expected a square number whose root divides 4 and 4"),
        ({"by": "cross"}, "Gemma 3 reads images by a projector"),
        ({"projector_bias": True}, "omit them"),
        ({"boi_token_id": 256}, "boi_token_id=256: expected a token, 0 to 255"),
        ({"text.attention": "linear"}, "'linear' in the text tower reads the tokens in order, and those of an image"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.create_model("gemma3_vision_nano", **fields)
    state = ours.new_state(1)
    with torch.no_grad():
        ours.decode(torch.tensor([[1, 5]]), state)
        state.features = ours.features(pixel_values=inputs["pixel_values"][:1])
        with pytest.raises(ValueError, match="reads its images with the first tokens of a text"):
            ours.decode(torch.full((1, 4), TOKEN), state)
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            (tmp_path / name).write_bytes((folder / name).read_bytes())
    edit_json(tmp_path / "config.json", mm_tokens_per_image=9)
    with pytest.raises(zoo.LoadError, match="mm_tokens_per_image=9"):
        zoo.load(tmp_path)
