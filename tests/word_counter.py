"""A classifier of texts whose decisive words are known."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import zoo
from zoo.preprocessing.tokenizer_training import train


def word_counter(texts: Sequence[str], weights: Mapping[str, float], scale: float, **options: Any) -> Any:
    """A classifier of two classes that sums weights: each of these words raises the difference of the logits by `scale`
    times its weight, and nothing else matters. texts: those that its tokenizer is trained on."""
    tokenizer = train("wordpiece", list(texts), 200)
    model = zoo.create_model("bert_tiny", head="classify", num_classes=2, vocab_size=tokenizer.vocab_size, width=8,
                             depth=1, heads=1, mlp_dim=8, pool="mean", seed=0, **options)  # fmt: skip
    model.preprocess = tokenizer

    def forward(input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Tensor:
        values = model.tokens.word(input_ids)[..., 0]
        keep = torch.ones_like(values) if attention_mask is None else attention_mask
        score = scale * (values * keep).sum(1)
        return torch.stack([-score / 2, score / 2], 1)

    with torch.no_grad():
        model.tokens.word.weight.zero_()
        for word, weight in weights.items():
            assert len(tokenizer.backend.encode(word, add_special_tokens=False).ids) == 1
            model.tokens.word.weight[tokenizer.backend.token_to_id(word), 0] = weight
    model.forward = forward
    return model
