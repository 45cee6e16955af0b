"""Tiny LLaVA models of transformers, every parameter random, in folders on disk."""

from pathlib import Path
from typing import Any

import torch
from peers import randomize
from torch import Tensor, nn

VISION = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8
)
TEXT = dict(
    hidden_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=56,
    vocab_size=99, max_position_embeddings=64, eos_token_id=2, bos_token_id=1, pad_token_id=0,
)  # fmt: skip
TOKEN = 98  # of images


def transformers_llava(
    folder: Path,
    vision: str = "CLIPVisionConfig",
    text: str = "LlamaConfig",
    text_options: dict[str, Any] | None = None,
    **own: Any,
) -> nn.Module:
    """LlavaForConditionalGeneration as transformers saves it."""
    import transformers

    config = transformers.LlavaConfig(
        vision_config=getattr(transformers, vision)(**VISION),
        text_config=getattr(transformers, text)(**TEXT | (text_options or {})),
        image_token_index=TOKEN,
        **own,
    )
    model = randomize(transformers.LlavaForConditionalGeneration(config)).eval()
    model.save_pretrained(folder)
    return model


def image_tokens(model: Any) -> int:
    """The number of features of an image."""
    c = model.config
    cls = c.vision_config.model_type == "clip_vision_model"
    return (VISION["image_size"] // VISION["patch_size"]) ** 2 + (cls and c.vision_feature_select_strategy == "full")


def batch(model: Any, side: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Four rows: an image before a text, two images, none, one image within a text; padded on one side."""
    draw = torch.Generator().manual_seed(seed)
    image = [TOKEN] * image_tokens(model)
    words = torch.randint(3, 97, (4, 6), generator=draw).tolist()
    rows = [
        [1, *image, *words[0]],
        [1, *image, *words[1][:2], *image, *words[1][2:]],
        [1, *words[2]],
        [1, *words[3][:3], *image, *words[3][3:5]],
    ]
    length = max(map(len, rows))
    pads = [[0] * (length - len(row)) for row in rows]
    join = (lambda row, pad: row + pad) if side == "right" else (lambda row, pad: pad + row)
    return {
        "input_ids": torch.tensor([join(row, pad) for row, pad in zip(rows, pads)]),
        "attention_mask": torch.tensor([join([1] * len(row), pad) for row, pad in zip(rows, pads)]),
        "pixel_values": torch.randn(4, 3, 16, 16, generator=draw),
    }


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Of either library."""
    with torch.no_grad():
        y = model(**inputs)
    return y if isinstance(y, Tensor) else y.logits


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)


def llava_processor(folder: Path, strategy: str = "default") -> Any:
    """LlavaProcessor with a tokenizer of words made here, saved in the folder."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [
        *["<pad>", "<s>", "</s>", "<unk>"],
        *["user", "assistant", "what", "is", "this", "a", "red", "bird", "and", "green", "?"],
    ]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary | {f"w{n}": n for n in range(len(words), TOKEN)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>", "<image>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = dict(pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special)
    size = {"height": 16, "width": 16}
    image = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size)
    processor = transformers.LlavaProcessor(
        image, fast, patch_size=8, vision_feature_select_strategy=strategy, num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )  # fmt: skip
    processor.save_pretrained(folder)
    return processor


def photographs(count: int) -> list[Any]:
    """PIL images of several sizes."""
    from PIL import Image

    draw = torch.Generator().manual_seed(3)
    sizes = [(20, 30), (16, 16), (40, 18), (25, 25)][:count]
    return [Image.fromarray(torch.randint(256, (*s, 3), generator=draw).byte().numpy()) for s in sizes]
