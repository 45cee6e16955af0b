"""Idefics: the same folders through us and through transformers, there and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llava_peers import photographs
from peers import edit_json, error, randomize
from table_swaps import check_swaps
from torch import Tensor
from transformers import IdeficsConfig, IdeficsForVisionText2Text

import zoo

SMALL = dict(
    vocab_size=96, additional_vocab_size=3, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, cross_layer_interval=2, max_position_embeddings=64, pad_token_id=0,
    vision_config=dict(
        embed_dim=24, image_size=16, patch_size=8, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4
    ),
)  # fmt: skip
PERCEIVER = dict(
    use_resampler=True, resampler_n_latents=3, resampler_depth=2, resampler_n_heads=2, resampler_head_dim=8
)
PUBLISHED = SMALL | dict(
    qk_layer_norms=True, use_resampler=True, perceiver_config=PERCEIVER | dict(qk_layer_norms_perceiver=True)
)
CASES = {
    "as published": PUBLISHED,
    "plain features, gates of channels": SMALL | dict(alpha_type="vector", num_hidden_layers=4, cross_layer_interval=1),
    "resampler without norms, tied": SMALL
    | dict(
        use_resampler=True, perceiver_config=PERCEIVER, tie_word_embeddings=True, alpha_type="vector",
        alpha_initializer="normal", alphas_initializer_range=0.1, num_hidden_layers=4,
    ),
    "one vocabulary": SMALL | dict(additional_vocab_size=0, num_hidden_layers=4, alpha_initializer="ones"),
}  # fmt: skip


def folder(path: Path, **options) -> IdeficsForVisionText2Text:
    options["num_hidden_layers"] = 4 if options.get("cross_layer_interval") == 2 else options["num_hidden_layers"]
    theirs = IdeficsForVisionText2Text(IdeficsConfig(**options))
    randomize(theirs).save_pretrained(path)
    return theirs


def several(extra: bool = True) -> dict[str, Tensor]:
    """Three rows, padded on the left: two images, none, and one, as transformers' processor writes them."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 96, (3, 9), generator=draw)
    if extra:
        ids[0, 2] = ids[0, 5] = ids[2, 4] = 97
        ids[0, 1] = ids[0, 3] = ids[2, 3] = 96
    mask, pixels = torch.ones_like(ids), torch.randn(3, 2, 3, 16, 16, generator=draw)
    mask[1, :3] = mask[2, :2] = 0
    pixels[1], pixels[2, 1] = 0, 0
    seen = torch.zeros(3, 9, 2, dtype=torch.long)
    seen[0, 2:5, 0] = seen[0, 5:, 1] = seen[2, 4:, 0] = 1
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_attention_mask": seen}


def real(y: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return y[batch["attention_mask"].bool()]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_there_and_back(name, tmp_path):
    theirs = folder(tmp_path / "theirs", **CASES[name])
    batch = several(extra=CASES[name]["additional_vocab_size"] > 0)
    ours = zoo.load(tmp_path / "theirs")
    assert ours.family == "idefics" and ours.load_report.plain, ours.load_report
    expected = real(theirs(**batch).logits, batch)
    assert error(real(ours(**batch), batch), expected) <= 1e-5
    zoo.export(ours, tmp_path / "ours")
    again = IdeficsForVisionText2Text.from_pretrained(tmp_path / "ours").eval()
    assert error(real(again(**batch).logits, batch), expected) <= 1e-6
    zoo.save(ours, tmp_path / "zoo")
    saved = zoo.load(tmp_path / "zoo")
    assert saved.config == ours.config == zoo.load(tmp_path / "ours").config


@torch.no_grad()
def test_image_tokens_say_what_the_processor_writes_into_the_mask(tmp_path):
    folder(tmp_path, **PUBLISHED)
    ours, batch = zoo.load(tmp_path), several()
    assert ours.config.image_token_id == 97
    expected = ours(**batch)
    marked = {name: value for name, value in batch.items() if name != "image_attention_mask"}
    pixels = batch["pixel_values"]
    assert error(ours(**marked), expected) <= 1e-6
    assert (
        error(ours(**marked | {"pixel_values": torch.stack([pixels[0, 0], pixels[0, 1], pixels[2, 0]])}), expected)
        <= 1e-6
    )
    nothing = {"pixel_values": pixels[1:2, :1], "image_attention_mask": torch.zeros(1, 9, 1, dtype=torch.bool)}
    row = {name: batch[name][1:2] for name in ("input_ids", "attention_mask")}
    assert error(ours(**row, **nothing), ours(**row)) <= 1e-6  # a text alone


@torch.no_grad()
def test_swapped_lines_are_caught(tmp_path):
    """Without norms of q and k in cross-attention, whose weights only their products depend on."""
    options = dict(num_hidden_layers=1, cross_layer_interval=1, qk_layer_norms=False)
    theirs = folder(tmp_path, **PUBLISHED | options)
    batch = several()
    expected = real(theirs(**batch).logits, batch)
    own = ("text.tokens", "text.head", "gated_cross.", "connector.")  # the towers have tests of their own
    check_swaps(tmp_path, lambda model: real(model(**batch), batch), expected, 24, within=own)


def test_training_steps(tmp_path):
    """20 steps of AdamW: the losses and the weights are those of transformers."""
    theirs = folder(tmp_path, **PUBLISHED).train()
    ours, batch = zoo.load(tmp_path).train(), several()
    theirs.requires_grad_(True)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-3, eps=1e-4) for m in (ours, theirs)]
    target = batch["input_ids"].roll(-1, 1)
    for step in range(20):
        losses = []
        for forward, optimizer in zip((ours, lambda **b: theirs(**b).logits), optimizers, strict=True):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(real(forward(**batch), batch), real(target, batch))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert abs(losses[0] - losses[1]) <= 1e-4 * max(1, losses[1]), step
    assert losses[0] < 4


def test_what_is_not_supported_is_refused_by_name(tmp_path):
    folder(tmp_path / "theirs", **PUBLISHED)
    for key, value, message in (
        ("dropout", 0.1, r"dropout=0.1 is not supported"),
        ("alpha_initializer", "twos", r"alpha_initializer='twos' is not supported, only zeros, ones and normal"),
        ("alpha_type", "matrix", "gate"),
    ):
        kept = json.loads((tmp_path / "theirs/config.json").read_text())[key]
        edit_json(tmp_path / "theirs/config.json", **{key: value})
        with pytest.raises(zoo.LoadError, match=message):
            zoo.load(tmp_path / "theirs")
        edit_json(tmp_path / "theirs/config.json", **{key: kept})
    ours = zoo.load(tmp_path / "theirs", sees="all")
    with pytest.raises(ValueError, match="IdeficsForVisionText2Text cannot express sees='all'"):
        zoo.export(ours, tmp_path / "ours")
    with pytest.raises(ValueError, match="additional_vocab_size=99: expected 0 to 98"):
        ours.config.replace(additional_vocab_size=99)
    with pytest.raises(ValueError, match="by='projector': Idefics has by='cross'"):
        ours.config.replace(by="projector")


@pytest.mark.parametrize("options", [{}, dict(num_beams=3), dict(num_beams=2, no_repeat_ngram_size=2)])
def test_generates_what_transformers_does(options, tmp_path):
    theirs, batch = folder(tmp_path, **PUBLISHED), several()
    ours = zoo.load(tmp_path)
    common = dict(max_new_tokens=7, eos_token_id=2, pad_token_id=0, **options)
    with torch.no_grad():
        expected = theirs.generate(**batch, do_sample=False, **common)
        encoded, projected = [], []
        ours.image.patches.register_forward_hook(lambda *_: encoded.append(1))
        ours.gated_cross.blocks[0].cross.k.register_forward_hook(lambda *_: projected.append(1))
        found = zoo.generate(ours, **batch, **common)
    width = min(found.shape[1], expected.shape[1])
    assert torch.equal(found[:, :width], expected[:, :width])
    assert not found[:, width:].any() and not expected[:, width:].any()
    assert len(encoded) == len(projected) == 1  # the images are read with the prompt
    text = {name: batch[name][1:2] for name in ("input_ids", "attention_mask")}
    nothing = {name: batch[name][1:2] for name in ("pixel_values", "image_attention_mask")}
    alone = zoo.generate(ours, **text, **common)
    with torch.no_grad():
        expected = theirs.generate(**text, **nothing, do_sample=False, **common)
    width = min(alone.shape[1], expected.shape[1])
    assert torch.equal(alone[:, :width], expected[:, :width])


def processor(path: Path) -> Any:
    """IdeficsProcessor with a tokenizer of words, saved in a folder."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<unk>", "<s>", "</s>", "what", "is", "this", "and", ":", "?", *(f"w{n}" for n in range(9, 96))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<fake_token_around_image>", "<image>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = dict(pad_token="<unk>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special)
    found = transformers.IdeficsProcessor(transformers.IdeficsImageProcessor(image_size=16), fast)
    found.save_pretrained(path)
    return found


def test_prompts_are_those_of_their_processor(tmp_path):
    theirs = folder(tmp_path / "theirs", **PUBLISHED)
    prompts = processor(tmp_path / "theirs")
    one, two, three = photographs(3)
    expected = prompts(text=[["what is this", one, two, "and this ?"], ["what ?"], [three, "is this"]])
    ours = zoo.load(tmp_path / "theirs")
    texts = ["what is this<image><image>and this ?", "what ?", "<image>is this"]
    batch = ours.preprocess(text=texts, images=[one, two, three], padding="left")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    around = "<fake_token_around_image>"  # their processor drops the spaces beside an image, which a tokenizer may keep
    written = ours.preprocess.expand(" what is <image> <image> and\n", iter([1, 1]))
    assert written == f"what is{around}<image>{around}<image>{around}and\n"
    found = zoo.generate(ours, text=texts, images=[one, two, three], max_new_tokens=5, eos_token_id=None)
    options = dict(max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    with torch.no_grad():
        tokens = theirs.generate(**expected, **options)[:, expected["input_ids"].shape[1] :]
    assert found == prompts.tokenizer.batch_decode(tokens)
    zoo.save(ours, tmp_path / "zoo")
    assert zoo.load(tmp_path / "zoo").preprocess.around == "<fake_token_around_image>"
    verified = zoo.verify(tmp_path / "theirs")
    assert verified.ok and "not compared" not in str(verified)
    zoo.export(ours, tmp_path / "ours")
    again = type(prompts).from_pretrained(tmp_path / "ours")
    assert torch.equal(again(text=[["what", one]])["pixel_values"], prompts(text=[["what", one]])["pixel_values"])
