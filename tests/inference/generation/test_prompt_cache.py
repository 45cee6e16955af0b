"""Prompts with a cache: the tokens are those without it, and what was read is not read again."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor

import zoo
from zoo.inference.generation.prompt import DecodingSession
from zoo.inference.generation.prompt_cache import PromptCache

NEW = {"max_new_tokens": 6, "eos_token_id": None}


def decoder(seed: int = 0, **options: object) -> zoo.Model:
    torch.manual_seed(seed)
    model = zoo.create_model("gpt2", depth=2, width=32, heads=4, vocab_size=64, max_length=256, **options)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


def text(length: int, seed: int = 0) -> Tensor:
    return torch.randint(64, (1, length), generator=torch.Generator().manual_seed(seed))


@contextmanager
def counted_reads() -> Iterator[list[int]]:
    """The numbers of tokens that are read, of one call after the other."""
    sizes: list[int] = []
    read = DecodingSession.read

    def counted(self: DecodingSession, ids: Tensor, every: bool = False) -> Tensor:
        sizes.append(ids.shape[1])
        return read(self, ids, every)

    with mock.patch.object(DecodingSession, "read", counted):
        yield sizes


@pytest.mark.parametrize("options", [{}, {"attention": "linear"}, {"attention": {"kind": "local", "window": 4}}])
@pytest.mark.parametrize("optimized", [False, True])
def test_turns_of_a_conversation_have_the_tokens_of_whole_prompts(options: dict, optimized: bool) -> None:
    model = decoder(**options)
    model = zoo.optimize(model, rows="one") if optimized else model
    cache, prompt = PromptCache(), text(20)
    for turn in range(4):
        with counted_reads() as sizes:
            out = zoo.generate(model, prompt, cache=cache, **NEW)
        assert torch.equal(out, zoo.generate(model, prompt, **NEW))
        assert sizes[0] == (20 if turn == 0 else 6)  # the last token of an answer, and the message
        prompt = torch.cat([out, text(5, turn + 1)], 1)


def test_a_prompt_is_read_from_the_first_other_token_on() -> None:
    model, cache, first = decoder(), PromptCache(), text(30)
    zoo.generate(model, first, cache=cache, **NEW)
    other = first.clone()
    other[0, 12] = (other[0, 12] + 1) % 64
    for prompt, read in ((other, 18), (other[:, :9], 1), (other[:, :9], 1), (text(8, 7), None), (first, None)):
        with counted_reads() as sizes:
            out = zoo.generate(model, prompt, cache=cache, temperature=1.0, seed=3, **NEW)
        assert torch.equal(out, zoo.generate(model, prompt, temperature=1.0, seed=3, **NEW))
        assert read is None or sizes[0] == read


def test_sums_over_all_tokens_are_used_as_a_whole_or_not_at_all() -> None:
    model, cache, first = decoder(attention="linear"), PromptCache(), text(30)
    zoo.generate(model, first, cache=cache, **NEW)
    for prompt in (first[:, :12], first):
        with counted_reads() as sizes:
            out = zoo.generate(model, prompt, cache=cache, **NEW)
        assert torch.equal(out, zoo.generate(model, prompt, **NEW)) and sizes[0] == prompt.shape[1]


@pytest.mark.parametrize("options", [{}, {"attention": "linear"}])
@pytest.mark.parametrize("place", ["in a layer", "between tokens"])
def test_what_an_interrupted_call_read_is_right(options: dict, place: str) -> None:
    model, cache, prompt, count = decoder(**options), PromptCache(), text(20), [0]

    def interrupt(*_: object) -> None:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt

    hook = model.blocks[1].register_forward_hook(interrupt) if place == "in a layer" else None
    with pytest.raises(KeyboardInterrupt):
        zoo.generate(model, prompt, cache=cache, streamer=None if hook else interrupt, **NEW)
    if hook is not None:
        hook.remove()
    longer = torch.cat([zoo.generate(model, prompt, **NEW), text(4, 1)], 1)
    assert torch.equal(zoo.generate(model, longer, cache=cache, **NEW), zoo.generate(model, longer, **NEW))


def test_a_model_that_has_changed_reads_again() -> None:
    model, cache, prompt = decoder(), PromptCache(), text(20)

    def scale() -> None:
        with torch.no_grad():
            model.blocks[0].mixer.v.weight.mul_(-2)

    def replace() -> None:
        model.blocks[1].mlp = decoder(5).blocks[1].mlp

    for change in (scale, replace, model.double):
        zoo.generate(model, prompt, cache=cache, **NEW)
        change()
        with counted_reads() as sizes:
            out = zoo.generate(model, prompt, cache=cache, **NEW)
        assert sizes[0] == 20 and torch.equal(out, zoo.generate(model, prompt, **NEW)), change


def test_an_optimized_model_notices_new_weights_with_a_cache_as_without() -> None:
    model, cache = decoder(), PromptCache()
    fast = zoo.optimize(model, rows="one")
    zoo.generate(fast, text(20), cache=cache, **NEW)
    with torch.no_grad():
        model.blocks[0].mixer.v.weight.mul_(-2)
    with pytest.raises(RuntimeError, match="the weights of the original model have changed"):
        zoo.generate(fast, text(20), cache=cache, **NEW)


def test_a_draft_and_its_model_have_one_text_each() -> None:
    model, draft, cache, prompt = decoder(), decoder(1), PromptCache(), text(20)
    for turn in range(3):
        with counted_reads() as sizes:
            out = zoo.generate(model, prompt, draft=draft, cache=cache, **NEW)
        assert torch.equal(out, zoo.generate(model, prompt, **NEW))
        assert turn == 0 or max(sizes) < 20
        prompt = torch.cat([out, text(5, turn + 1)], 1)


@pytest.mark.parametrize("arguments, message", [
    ({"input_ids": text(5).repeat(2, 1)}, "one row without padding, given 2 rows"),
    ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1]])}, "one row without padding, given padding"),
    ({"num_beams": 2}, "of one row: omit it for num_beams="),
    ({"cache": 3}, "expected a PromptCache, given a int"),
])  # fmt: skip
def test_what_has_no_cache_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.generate(decoder(), **{"input_ids": text(5), "cache": PromptCache(), **NEW, **arguments})
