"""Tiny models that describe images, of transformers (BLIP) and open_clip (CoCa), in folders on disk, every parameter
random."""

from pathlib import Path
from typing import Any

import torch
from peers import randomize
from torch import nn

from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.utils.files import to_json

SENTENCES = ["a photo of two cats on a mat", "the dog runs in the red house"] * 20
VISION = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=32, patch_size=8
)  # fmt: skip
TEXT = dict(
    hidden_size=40, num_hidden_layers=3, num_attention_heads=5, intermediate_size=72, max_position_embeddings=24
)  # fmt: skip


def word_pieces() -> TextProcessor:
    return train("wordpiece", SENTENCES, 120, max_length=TEXT["max_position_embeddings"])


def transformers_blip(
    folder: Path, text: dict | None = None, vision: dict | None = None, gain: float = 1.0
) -> nn.Module:
    """BlipForConditionalGeneration with its processor. gain: of cross-attention and positions, so that captions of
    random models differ."""
    import transformers

    words = word_pieces()
    folder.mkdir(exist_ok=True)
    for name, content in words.transformers_files().items():
        (folder / name).write_text(content if isinstance(content, str) else to_json(content), encoding="utf-8")
    ids: dict[str, Any] = dict(bos_token_id=words.vocab_size, sep_token_id=words.id("sep"), pad_token_id=0)
    config = transformers.BlipConfig(
        text_config=TEXT | dict(vocab_size=words.vocab_size + 2) | ids | (text or {}),
        vision_config=VISION | (vision or {}),
    )
    model = randomize(transformers.BlipForConditionalGeneration(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "crossattention" in name or "position_embeddings" in name:
                parameter.mul_(gain)
    model.save_pretrained(folder)
    size = dict.fromkeys(("height", "width"), 32)
    tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    transformers.BlipProcessor(transformers.BlipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return model


def noise_images(count: int = 2) -> list[Any]:
    """Images of PIL, of several sizes."""
    from PIL import Image

    draw = torch.Generator().manual_seed(0)
    shapes = [(40 + 3 * i, 36, 3) for i in range(count)]
    return [Image.fromarray(torch.randint(256, s, generator=draw, dtype=torch.uint8).numpy()) for s in shapes]
