"""Tiny models that describe images, of transformers (BLIP) and open_clip (CoCa), in folders on disk, every parameter
random."""

import json
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


OPEN_CLIP: dict[str, Any] = {
    "embed_dim": 40,
    "vision_cfg": {
        "layers": 2, "width": 32, "head_width": 8, "mlp_ratio": 2, "patch_size": 8, "image_size": 32,
        "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 6, "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 16, "vocab_size": 99, "width": 40, "heads": 4, "layers": 2, "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 16, "vocab_size": 99, "width": 40, "heads": 4, "layers": 2},
    "custom_text": True,
}  # fmt: skip


def open_clip_coca(folder: Path, gain: float = 1.0, **changes: Any) -> nn.Module:
    """open_clip's CoCa in a folder as its hub export writes it. changes: of parts of `model_cfg`. gain: of the
    embeddings of tokens, so that captions of random models differ."""
    from open_clip.coca_model import CoCa
    from safetensors.torch import save_file

    config = json.loads(json.dumps(OPEN_CLIP))
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    own = {name: value for name, value in config.items() if name != "custom_text"}
    model = randomize(CoCa(**json.loads(json.dumps(own))))
    with torch.no_grad():
        model.text.token_embedding.weight.mul_(gain)
        model.text.positional_embedding.mul_(gain)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    values = {"model_cfg": config, "preprocess_cfg": {"size": 32}}
    (folder / "open_clip_config.json").write_text(json.dumps(values), encoding="utf-8")
    return model
