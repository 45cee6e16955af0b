"""Prompts of `zoo.generate` that are texts or conversations, and the texts that continue them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.inference.generation.stopping import CONTEXT, Decode, encoded, text_after, tokenizer_of
from zoo.preprocessing.text import TextProcessor


@dataclass(frozen=True)
class TextPrompts:
    """Texts as tokens [B, N] with their mask, padded on the left.

    texts: what the result begins with: the prompts, or nothing, for conversations, which are continued by one message,
    and for the texts that an encoder reads. is_source: they are such texts.
    """

    ids: Tensor
    mask: Tensor
    texts: list[str]
    is_one: bool
    is_source: bool = False

    def continued(self, tokens: Tensor, decode: Decode, ends: Sequence[int], pad: int | None) -> str | list[str]:
        """The texts with new tokens [B * copies, new], without what follows an end token and without padding."""
        copies = len(tokens) // len(self.ids)
        found = []
        for row, ids in enumerate(tokens.tolist()):
            new = ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]
            while new and new[-1] == pad:
                new.pop()
            prompt = row // copies
            context = [] if self.is_source else self.ids[prompt][self.mask[prompt].bool()][-CONTEXT:].tolist()
            found.append(self.texts[prompt] + text_after(decode, context, new))
        return found[0] if self.is_one and copies == 1 else found


def encode_prompts(model: Any, prompts: Any, mask: Tensor | None, tokenizer: Any) -> TextPrompts | None:
    """A text, a list of texts, a conversation (a list of messages) or a list of these as tokens; None for others."""
    is_one = isinstance(prompts, str) or is_conversation(prompts)
    batch = [prompts] if is_one else prompts
    if not isinstance(batch, list | tuple) or not batch:
        return None
    if mask is not None:
        raise ValueError("attention_mask belongs to a tensor of input_ids: omit it for texts")
    if all(isinstance(one, str) for one in batch):
        return encode_texts(model, list(batch), tokenizer, is_one)
    if all(is_conversation(one) for one in batch):
        found = tokenizer_of(model, tokenizer)
        if not isinstance(found, TextProcessor):
            raise ValueError(
                f"a conversation needs the chat template of model.preprocess, and the tokenizer is a "
                f"{type(found).__name__}: pass the tokens that its apply_chat_template returns"
            )
        tokens = replace(found, padding="left").apply_chat_template(list(batch), add_generation_prompt=True)
        return TextPrompts(tokens["input_ids"], tokens["attention_mask"], [""] * len(batch), is_one)
    return None


def encode_sources(model: Any, texts: Any, mask: Tensor | None, tokenizer: Any) -> TextPrompts | None:
    """A text or a list of texts for an encoder as tokens; None for others. Raises ValueError for a conversation."""
    if is_conversation(texts) or (isinstance(texts, list | tuple) and texts and is_conversation(texts[0])):
        raise ValueError(
            f"a conversation is for chat models, which are decoders alone, and the model is a {type(model).__name__}, "
            "with an encoder: pass a text, or a list of texts"
        )
    found = encode_prompts(model, texts, mask, tokenizer)
    return None if found is None else replace(found, texts=[""] * len(found.texts), is_source=True)


def encode_texts(model: Any, texts: list[str], tokenizer: Any, is_one: bool) -> TextPrompts:
    """Texts as tokens of a processor, of a tokenizers.Tokenizer or of one of transformers."""
    rows = rows_of(tokenizer_of(model, tokenizer), texts)
    if "" in texts or not all(rows):
        raise ValueError("the prompt is empty: expected at least one word")
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return TextPrompts(ids, mask, texts, is_one)


def rows_of(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The ids of each text; all at once with a processor, whose errors say which text is meant."""
    if not (isinstance(tokenizer, TextProcessor) and tokenizer.mask):
        return [encoded(tokenizer, text) for text in texts]
    batch = tokenizer(texts)
    return [ids[keep.bool()].tolist() for ids, keep in zip(batch["input_ids"], batch["attention_mask"])]


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)
