"""Tiny PaliGemma models of transformers, every parameter random, in folders on disk."""

from pathlib import Path
from typing import Any

import torch
from peers import randomize
from torch import Tensor, nn

VISION = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8,
    vision_use_head=False,
)  # fmt: skip
TEXT = dict(
    hidden_size=40, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=12, vocab_size=99,
    intermediate_size=56, max_position_embeddings=64, eos_token_id=2, bos_token_id=1, pad_token_id=0,
)  # fmt: skip
OF_GEMMA2 = dict(sliding_window=5, query_pre_attn_scalar=10, attn_logit_softcapping=1.5, final_logit_softcapping=5.0)
TOKEN, TOKENS = 98, 4  # of images


def transformers_paligemma(folder: Path, text: str = "Gemma", seed: int = 0, **options: Any) -> nn.Module:
    """PaliGemmaForConditionalGeneration as transformers saves it; text: "Gemma" or "Gemma2"."""
    import transformers

    own = TEXT | (OF_GEMMA2 if text == "Gemma2" else {}) | options
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION),
        text_config=getattr(transformers, f"{text}Config")(**own),
        image_token_index=TOKEN,
        projection_dim=40,
        hidden_size=40,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = randomize(transformers.PaliGemmaForConditionalGeneration(config), seed).eval()
    model.save_pretrained(folder)
    return model


def batch(side: str = "right", seed: int = 0, suffix: bool = True) -> dict[str, Tensor]:
    """Three rows: an image and a prompt, of other lengths, and with a suffix that is causal; padded on one side."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(3, 97, (3, 12), generator=draw).tolist()
    sizes = ((3, 5), (6, 2), (2, 0))
    prefixes = [[TOKEN] * TOKENS + [1] + row[:prompt] for row, (prompt, _) in zip(words, sizes)]
    answers = [row[6 : 6 + answer] if suffix else [] for row, (_, answer) in zip(words, sizes)]
    rows = [prefix + answer for prefix, answer in zip(prefixes, answers)]
    types = [[0] * len(prefix) + [1] * len(answer) for prefix, answer in zip(prefixes, answers)]
    length = max(map(len, rows))

    def padded(values: list[list[int]]) -> Tensor:
        pads = [[0] * (length - len(row)) for row in values]
        return torch.tensor([row + pad if side == "right" else pad + row for row, pad in zip(values, pads)])

    return {
        "input_ids": padded(rows),
        "attention_mask": padded([[1] * len(row) for row in rows]),
        "token_type_ids": padded(types),
        "pixel_values": torch.randn(3, 3, 16, 16, generator=draw),
    }


def logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Of either library, zeros at padding."""
    with torch.no_grad():
        y = model(**inputs)
    y = y if isinstance(y, Tensor) else y.logits
    return y * inputs["attention_mask"][..., None] if "attention_mask" in inputs else y


WORDS = ["caption", "en", "what", "is", "this", "a", "cow", "on", "the", "bench", "two", "red", "circles"]


def save_processor(folder: Path) -> Any:
    """PaliGemmaProcessor with a tokenizer of words made here, saved in the folder."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<pad>", "<bos>", "<eos>", "<unk>", "\n", *WORDS]
    vocabulary = {name: number for number, name in enumerate(names)} | {"<image>": TOKEN}
    filler = {f"w{n}": n for n in range(len(names), TOKEN)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary | filler, "<unk>"))
    split = [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.add_special_tokens(["<pad>", "<bos>", "<eos>", "<unk>", "<image>"])
    special = dict(pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **special)
    images = transformers.SiglipImageProcessor(size={"height": 16, "width": 16})
    images.image_seq_length = TOKENS
    processor = transformers.PaliGemmaProcessor(images, fast)
    processor.save_pretrained(folder)
    return processor
