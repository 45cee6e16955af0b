"""Small models of images and texts with tokenizers of their own, for the tests of `zoo.interpret`."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch

import zoo
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train

TEXT = "a red bird sat on a green frog"
PIXELS = torch.randint(256, (3, 80, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
IMAGE, BEGIN, END = "<image>", "<start_of_image>", "<end_of_image>"
SMALL: dict[str, Any] = {"width": 16, "heads": 2, "mlp_dim": 16}
GRIDS = {"llava_nano": (4, 4), "paligemma_nano": (4, 4), "idefics_nano": (4, 4), "gemma3_vision_nano": (2, 2)}


@cache
def words() -> TextProcessor:
    """A tokenizer with the tokens of an image and one before a text."""
    from tokenizers import Tokenizer

    trained = train("bpe", [TEXT] * 5, 300, max_length=64)
    backend = Tokenizer.from_str(trained.tokenizer)
    backend.add_special_tokens(["<bos>", IMAGE, BEGIN, END])
    return replace(trained, tokenizer=backend.to_str(), special={**trained.special, "bos": "<bos>"})


def small_bridge(name: str) -> Any:
    """A model that reads images among the words of a text: a name of GRIDS, with the grid of the tokens of an image."""
    text = words()
    own = {f"{tower}.{field}": value for tower in ("image", "text") for field, value in SMALL.items()}
    own |= {"image.depth": 2, "text.depth": 2, "text.kv_heads": 1, "text.vocab_size": text.vocab_size}
    own |= {} if name in ("llava_nano", "idefics_nano") else {"text.head_dim": 8}
    own |= {"image_token_id": text.backend.token_to_id(IMAGE)}
    if name == "gemma3_vision_nano":
        own |= {"boi_token_id": text.backend.token_to_id(BEGIN), "eoi_token_id": text.backend.token_to_id(END)}
    model = zoo.create_model(name, seed=0, **own).eval()
    model.text.preprocess = text
    model.preprocess = model.default_preprocess()
    return model


def small_captioner(name: str, max_length: int = 16, **options: Any) -> Any:
    """A model that writes captions of images of 8 x 8 patches: "blip_nano" or "coca_nano"."""
    text = train("wordpiece", [TEXT] * 5, 100, max_length=max_length)
    start, end, pad = (text.id(role) for role in ("cls", "sep", "pad"))
    ids = {"bos_token_id": start, "decoder_start_token_id": start, "eos_token_id": end, "pad_token_id": pad}
    model = zoo.create_model(name, seed=0, vocab_size=text.vocab_size, max_length=max_length, head="lm", **ids,
                             **options).eval()  # fmt: skip
    model.preprocess = MultimodalProcessor(image=model.default_preprocess().image, text=text)
    return model


def small_painter(name: str, **options: Any) -> Any:
    """A model that makes the tokens of images of texts, 4 x 4 of 16: "dalle_nano" or "maskgit_nano", without an image
    tokenizer."""
    text = replace(words(), max_length=12)
    model = zoo.create_model(name, image_vocab_size=16, image_grid=(4, 4), text_vocab_size=text.vocab_size,
                             text_length=12, depth=2, seed=0, **SMALL, **options).eval()  # fmt: skip
    model.preprocess = text
    return model
