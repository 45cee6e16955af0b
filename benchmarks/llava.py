"""Answers about an image by a model of LLaVA's form, against transformers' generate in the same process.

    python benchmarks/llava.py [new=32] [rounds=7] [size=base|small]

The model reads one image and 8 tokens of a prompt, and writes 32 tokens: ViT-B/32 at 224 pixels (CLIP's), a projector
of two layers, and a LLaMA of 12 layers of width 768 with a vocabulary of 32,000, in a folder of transformers with
random weights. Both sides get the same input_ids and pixel_values; the tokens of all float32 variants are compared, and
the calls of the image tower are counted: one.

Targets over transformers in float32: as loaded >= 1.1x, optimized >= 1.3x, in bfloat16 >= 1.8x.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from _measure import options, paired
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import zoo

SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": (
        dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=224,
             patch_size=32),
        dict(vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12),
    ),
    "small": (
        dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32,
             patch_size=16),
        dict(vocab_size=200, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4),
    ),
}  # fmt: skip


def models(size: str) -> tuple[Any, Any]:
    """(transformers' model, zoo's model) with the same random weights, which both read from a folder."""
    vision, text = SIZES[size]
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision), text_config=LlamaConfig(**text),
        image_token_index=text["vocab_size"] - 1,
    )  # fmt: skip
    theirs = LlavaForConditionalGeneration(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = zoo.load(folder)
        for name, tensor in list(ours.named_parameters()):  # copy out of the memory-mapped file
            owner, _, key = name.rpartition(".")
            setattr(ours.get_submodule(owner), key, torch.nn.Parameter(tensor.detach().clone(), requires_grad=False))
    return theirs, ours


def inputs(ours: Any) -> dict[str, torch.Tensor]:
    """One image, and its tokens before 8 of a prompt."""
    token, count = ours.config.image_token_id, ours.config.tokens_per_item
    size = ours.config.image.config.image_size
    words = torch.randint(3, token, (8,))
    ids = torch.cat([torch.tensor([1] + [token] * count), words])[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, size, size)}


def count_images(model: Any, call: Callable[[], object]) -> int:
    """How often the image tower of a model reads an image in a call."""
    calls = []
    handle = model.image.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        call()
    finally:
        handle.remove()
    return len(calls)


def decoding(theirs: Any, ours: Any, batch: dict[str, torch.Tensor], new: int) -> dict[str, Callable[[], object]]:
    """Name -> function that generates `new` tokens after the prompt."""
    fast, half = zoo.optimize(ours, rows="one"), zoo.optimize(ours, dtype=torch.bfloat16, rows="one")

    def transformers_generate() -> torch.Tensor:
        return theirs.generate(**batch, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0)

    def zoo_generate(model: Any) -> Callable[[], torch.Tensor]:
        return lambda: zoo.generate(model, **batch, max_new_tokens=new, eos_token_id=None)

    calls = {
        "transformers float32": transformers_generate,
        "zoo float32": zoo_generate(ours),
        "zoo optimized float32": zoo_generate(fast),
    }
    expected = transformers_generate()
    for name, call in calls.items():
        same = (call() == expected).float().mean()
        print(f"{name}: {100 * same:.0f} % of the tokens equal those of transformers")
    count = count_images(ours, calls["zoo float32"])
    if count != 1:
        raise RuntimeError(f"the image was encoded {count} times, expected once")
    return calls | {"zoo optimized bfloat16": zoo_generate(half)}


def main() -> None:
    o = options(dict(new=3, rounds=1, size="small"), new=32, rounds=7, size="base")
    torch.set_num_threads(1)
    theirs, ours = models(o.size)
    batch = inputs(ours)
    with torch.no_grad():
        length = batch["input_ids"].shape[1]
        paired(decoding(theirs, ours, batch, o.new), rounds=o.rounds, items=o.new,
               title=f"llava, {o.size}, one image, {o.new} new tokens after {length}")  # fmt: skip


if __name__ == "__main__":
    main()
