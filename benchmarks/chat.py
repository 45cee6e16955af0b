"""The turns of a conversation with GPT-2: with the cache that `zoo chat` keeps, without it, and transformers.

    python benchmarks/chat.py [turns=6] [message=40] [new=32] [rounds=3] [size=gpt2|small|llama]

A round is a whole conversation of `turns` messages, each of `message` tokens and answered by `new` tokens; transformers
reads all of it for each answer, as its `generate` does unless a cache is passed by hand.
"""

from collections.abc import Callable

import torch
from _measure import options, paired
from decode import models

import zoo
from zoo.inference.generation.prompt_cache import PromptCache

Answer = Callable[[torch.Tensor, object], torch.Tensor]


def main() -> None:
    o = options({"turns": 2, "message": 4, "new": 2, "rounds": 1, "size": "small"},
                turns=6, message=40, new=32, rounds=3, size="gpt2")  # fmt: skip
    theirs, ours = models(o.size, "cpu")
    messages = torch.randint(256, (o.turns, 1, o.message), generator=torch.Generator().manual_seed(0))

    def conversation(answer: Answer) -> torch.Tensor:
        cache, text = PromptCache(), messages[0]
        for turn in range(o.turns):
            text = answer(torch.cat([text, messages[turn]], 1) if turn else text, cache)
        return text

    new = {"max_new_tokens": o.new, "eos_token_id": None}
    answers: dict[str, Answer] = {
        "zoo, read again": lambda ids, cache: zoo.generate(ours, ids, **new),
        "zoo, with the cache": lambda ids, cache: zoo.generate(ours, ids, cache=cache, **new),
        "transformers": lambda ids, cache: theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                                                           pad_token_id=0, **new),
    }  # fmt: skip
    first, *others = [conversation(answer) for answer in answers.values()]
    print("the tokens are the same:", *[bool(torch.equal(first, other)) for other in others])
    calls = {name: (lambda answer=answer: conversation(answer)) for name, answer in answers.items()}
    paired(calls, rounds=o.rounds, title=f"{o.turns} turns of {o.message} + {o.new} tokens, {o.size}")


if __name__ == "__main__":
    main()
