"""What several tests of faults need: a decoder that follows a table of what comes next, and one step of training."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from tokenizers import Tokenizer

import zoo
from zoo.preprocessing.text import TextProcessor

WIDTH = 320  # of one-hot embeddings: at least the size of the vocabulary


def follower(tokenizer: Tokenizer, after: Mapping[str, str], otherwise: str) -> zoo.Model:
    """A model whose best next token depends on the last one alone: `after` it, `otherwise` for tokens not in there."""
    size = tokenizer.get_vocab_size()
    model = zoo.create_model(
        "llama_nano", vocab_size=size, width=WIDTH, depth=1, heads=4, kv_heads=4, mlp_dim=16, max_length=64,
        tie_word_embeddings=False, seed=0,
    ).eval()  # fmt: skip
    following = torch.full((size,), tokenizer.token_to_id(otherwise))
    for token, then in after.items():
        following[tokenizer.token_to_id(token)] = tokenizer.token_to_id(then)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # blocks that add nothing; norms stay
                parameter.zero_()
        model.tokens.word.weight[torch.arange(size), torch.arange(size)] = 1
        model.head.proj.weight[following, torch.arange(size)] = 1
    model.preprocess = TextProcessor(tokenizer=tokenizer.to_str(), max_length=64)
    return model


class Feed:
    """A loader of these batches."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def one_step(task: L.LightningModule, batches: Sequence[Any], *callbacks: L.Callback) -> None:
    """One step of the optimizer over these micro-batches."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_steps=1, accelerator="cpu", accumulate_grad_batches=len(batches), callbacks=list(callbacks), **quiet
        )
        trainer.fit(task, Feed(batches))
