"""Generating images with what does not fit: texts, tokenizers, guidance, and parts to complete."""

import pytest
import torch

import zoo
from zoo.models.base import Model
from zoo.tasks import TextToImageTask

SMALL = dict(width=16, depth=1, heads=2, text_vocab_size=40, text_length=6, image_vocab_size=20, image_grid=(3, 4))
IDS = torch.tensor([[5, 6, 7]])
TOKENS = torch.arange(12).view(1, 3, 4)


@pytest.fixture(scope="module", params=["dalle", "maskgit"])
def model(request) -> Model:
    return zoo.create_model(f"{request.param}_nano", seed=0, **SMALL).eval()


def dvae(**changes) -> Model:
    return zoo.create_model(
        "dvae_tiny", seed=0, **{"image_size": (12, 16), "widths": (8, 8), "depth": 1, "vocab_size": 20} | changes
    )


def test_a_codebook_or_a_grid_of_another_size(model):
    for call in (model.set_image_tokenizer, lambda other: zoo.generate_images(model, IDS, image_tokenizer=other)):
        with pytest.raises(ValueError, match="tokenizer has 30 codes, and the model image_vocab_size=20: use the"):
            call(dvae(vocab_size=30))
        with pytest.raises(ValueError, match=r"makes 4 x 4 tokens, and the model has image_grid=\(3, 4\): set"):
            call(dvae(image_size=(16, 16)))
    with pytest.raises(ValueError, match="image_tokenizer: expected a model such as dvae_small, given a ViT"):
        zoo.generate_images(model, IDS, image_tokenizer=zoo.create_model("vit_cifar_tiny"))
    assert model.image_tokenizer is None and model.config.image_tokenizer is None
    with pytest.raises(ValueError, match=r"image_ids has ids from 0 to 25.*codebook of another size"):
        model(input_ids=IDS, image_ids=torch.arange(0, 36, 3).clamp(max=25)[None])


def test_guidance_of_a_model_that_was_trained_without_dropped_texts(model):
    with pytest.raises(ValueError, match=r"guidance_scale=3: .*without dropped texts \(text_dropout=0\)"):
        zoo.generate_images(model, IDS, guidance_scale=3)


def test_texts_that_are_too_long_or_no_texts(model):
    with pytest.raises(ValueError, match="the text has 7 tokens, expected at most text_length=6"):
        zoo.generate_images(model, torch.ones(1, 7, dtype=torch.long))
    with pytest.raises(ValueError, match="input_ids has ids from 5 to 40, expected 0 to 39: use the text tokenizer"):
        zoo.generate_images(model, torch.tensor([[5, 40]]))
    with pytest.raises(ValueError, match=r"the model has no text tokenizer: set model.preprocess"):
        zoo.generate_images(model, "a red bird")
    with pytest.raises(ValueError, match="texts: expected a text, a list of texts or token ids, given a int"):
        zoo.generate_images(model, 3)


def test_images_that_cannot_be_completed(model):
    for keep, message in (
        (3, "keep=3: the image has 3 rows of tokens, expected 0 to 2 that stay"),
        (-1, "keep=-1: the image has 3 rows"),
        (torch.ones(3, 4, dtype=torch.bool), "all tokens stay"),
        (torch.ones(4, 4, dtype=torch.bool), r"booleans \[3, 4\], got \(4, 4\)"),
        (None, "images= needs keep="),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.generate_images(model, IDS, images=TOKENS, keep=keep)
    with pytest.raises(ValueError, match="keep= says which tokens of images= stay"):
        zoo.generate_images(model, IDS, keep=1)
    with pytest.raises(ValueError, match="images= are read by an image tokenizer: pass image_tokenizer="):
        zoo.generate_images(model, IDS, images=torch.randn(1, 3, 12, 16), keep=1)
    with pytest.raises(ValueError, match="expected one, or one for each of 1 texts, of 12 tokens, got 2 of 12"):
        zoo.generate_images(model, IDS, images=TOKENS.repeat(2, 1, 1), keep=1)
    if model.family == "dalle":
        below = torch.tensor([False, True, True])[:, None].expand(3, 4)
        with pytest.raises(ValueError, match="row by row, so only the first ones can stay; use a MaskGIT model"):
            zoo.generate_images(model, IDS, images=TOKENS, keep=below)


def test_options_and_models_that_do_not_fit(model):
    with pytest.raises(TypeError, match=r"no option 'temprature' for .*did you mean 'temperature'"):
        zoo.generate_images(model, IDS, temprature=1)
    other = dict(steps=4) if model.family == "dalle" else dict(top_k=4)
    with pytest.raises(TypeError, match=f"no option {next(iter(other))!r}"):
        zoo.generate_images(model, IDS, **other)
    with pytest.raises(ValueError, match="num_images=0: expected a whole number of at least 1"):
        zoo.generate_images(model, IDS, num_images=0)
    with pytest.raises(ValueError, match="rerank: expected a contrastive model"):
        zoo.generate_images(model, IDS, rerank=model)
    with pytest.raises(ValueError, match=r"models of image tokens \(dalle, maskgit\) with their head, given a GPT2"):
        zoo.generate_images(zoo.create_model("gpt_nano"), IDS)
    with pytest.raises(ValueError, match="no image tokenizer that makes pixels"):
        _ = zoo.generate_images(model, IDS, seed=0).images
    for prompt in (IDS, "a red circle"):
        with pytest.raises(ValueError, match=r"makes images of texts: use zoo.generate_images"):
            zoo.generate(model, prompt)
    with pytest.raises(ValueError, match="batches with pixel_values need an image tokenizer"):
        TextToImageTask(model).tokenize(torch.randn(1, 3, 12, 16))
    with pytest.raises(ValueError, match="TextToImageTask trains a dalle or maskgit model"):
        TextToImageTask(zoo.create_model("gpt_nano"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_dropout": 1.0}, "text_dropout=1.0"),
        ({"image_grid": (0, 4)}, "rows of image_grid"),
        ({"head": "lm"}, "head='lm'"),
        ({"pad_token_id": 40}, "pad_token_id=40: expected 0 to 39"),
        ({"image_tokenizer": {"family": "dvae"}}, "image_tokenizer=.*expected"),
        ({"attention": {"kind": "conv_like", "kernel": 4}}, "kernel=4: expected an odd number"),
        ({"embed_dim": 8}, "did you mean 'width'"),
    ],
)
@pytest.mark.parametrize("name", ["dalle_nano", "maskgit_nano"])
def test_configs_that_do_not_fit(name, fields, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model(name, **SMALL | fields)


def test_files_of_dalle_pytorch_that_cannot_be_read(tmp_path):
    hparams = dict(num_text_tokens=30, text_seq_len=6, dim=32, depth=1, shift_tokens=False, rotary_emb=False)
    vae = dict(image_size=16, num_tokens=20, num_layers=2)
    for changes, message in (
        ({"rotary_emb": True}, "rotary_emb=True is not supported"),
        ({"shift_tokens": True}, "shift_tokens=True is not supported"),
        ({"attn_types": ("sparse",)}, "attn_types has 'sparse'"),
        ({"dim": None}, "dim=None, expected a whole number"),
        ({}, "there are 0 tensors"),
    ):
        torch.save({"hparams": hparams | changes, "vae_params": vae, "weights": {}}, tmp_path / "dalle.pt")
        with pytest.raises(zoo.LoadError, match=message):
            zoo.load(tmp_path / "dalle.pt")
    other = zoo.create_model("dalle_nano", **SMALL)
    with pytest.raises(ValueError, match=r"dalle-pytorch cannot express|image_grid=\(3, 4\)"):
        zoo.export(other, tmp_path / "out", format="dalle_pytorch")
