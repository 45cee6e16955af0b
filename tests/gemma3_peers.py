"""Tiny Gemma 3 models with images of transformers, every parameter random, in folders on disk."""

from pathlib import Path
from typing import Any

import torch
from paligemma_peers import VISION
from peers import randomize
from torch import Tensor, nn

TEXT = dict(
    hidden_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=12, vocab_size=99,
    intermediate_size=56, max_position_embeddings=96, eos_token_id=2, bos_token_id=1, pad_token_id=0,
    sliding_window=5, sliding_window_pattern=2, query_pre_attn_scalar=10, tie_word_embeddings=True,
)  # fmt: skip
TOKEN, BEGIN, END, TOKENS = 98, 96, 97, 4  # of images
WORDS = ["what", "is", "this", "a", "cow", "on", "the", "bench", "?", "user", "model"]


def transformers_gemma3(folder: Path, seed: int = 0, **options: Any) -> nn.Module:
    """Gemma3ForConditionalGeneration as transformers saves it: 16 patches an image, averaged to 4 tokens."""
    import transformers

    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**VISION | {"image_size": 32}),
        text_config=transformers.Gemma3TextConfig(**TEXT | options),
        image_token_index=TOKEN,
        boi_token_index=BEGIN,
        eoi_token_index=END,
        mm_tokens_per_image=TOKENS,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = randomize(transformers.Gemma3ForConditionalGeneration(config), seed).eval()
    model.save_pretrained(folder)
    return model


def batch(side: str = "right", seed: int = 0) -> dict[str, Tensor]:
    """Three rows: two images among words, none, and one image; padded on one side."""
    draw = torch.Generator().manual_seed(seed)
    image, words = [BEGIN, *[TOKEN] * TOKENS, END], torch.randint(3, 95, (3, 9), generator=draw).tolist()
    rows = [
        [1, *words[0][:2], *image, *words[0][2:5], *image, *words[0][5:7]],
        [1, *words[1]],
        [1, *image, *words[2][:6]],
    ]
    length = max(map(len, rows))

    def padded(values: list[list[int]]) -> Tensor:
        pads = [[0] * (length - len(row)) for row in values]
        return torch.tensor([row + pad if side == "right" else pad + row for row, pad in zip(values, pads)])

    return {
        "input_ids": padded(rows),
        "attention_mask": padded([[1] * len(row) for row in rows]),
        "token_type_ids": padded([[int(token == TOKEN) for token in row] for row in rows]),
        "pixel_values": torch.randn(3, 3, 32, 32, generator=draw),
    }


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<start_of_image>{% else %} {{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %} {% endfor %}{% if add_generation_prompt %}model{% endif %}"
)


def save_processor(folder: Path) -> Any:
    """Gemma3Processor with a tokenizer of words made here, saved in the folder."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    images = {"<start_of_image>": BEGIN, "<end_of_image>": END, "<image_soft_token>": TOKEN}
    vocabulary = {name: number for number, name in enumerate([*special, "\n", *WORDS])}
    filler = {f"w{n}": n for n in range(len(vocabulary), BEGIN)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary | filler | images, "<unk>"))
    split = [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.add_special_tokens([*special, *images])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        unk_token="<unk>", chat_template=TEMPLATE,
        extra_special_tokens={
            "image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"
        },
    )  # fmt: skip
    image = transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.Gemma3Processor(image, fast, chat_template=TEMPLATE, image_seq_length=TOKENS)
    processor.save_pretrained(folder)
    return processor
