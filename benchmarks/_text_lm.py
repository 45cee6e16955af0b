"""What the benchmarks that train small language models on tinyshakespeare share: text, training and loss."""

import math
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from _measure import clock
from torch import Tensor
from torch.nn import functional as F

Logits = Callable[[Tensor], Tensor]
SKIPPED = 77  # exit status of a benchmark whose data is not here


def characters() -> tuple[Tensor, Tensor, int]:
    """(training text, held-out last tenth, number of different characters), as character ids."""
    from zoo.data.config import StreamSettings
    from zoo.data.text.corpus import load_corpus
    from zoo.utils.errors import DataError

    try:
        text = "\n".join(load_corpus(StreamSettings(name="tinyshakespeare")).texts)
    except (DataError, OSError) as error:
        print(f"tinyshakespeare is not here: {error}", file=sys.stderr)
        raise SystemExit(SKIPPED) from None
    index = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([index[character] for character in text])
    split = len(ids) * 9 // 10
    return ids[:split], ids[split:], len(index)


def train(model: Any, logits: Logits, ids: Tensor, o: SimpleNamespace, length: int, minutes: float, seed: int) -> int:
    """Train for so many minutes of `clock`, or for `o.steps` if it is set; returns the number of steps."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=o.lr, betas=(0.9, 0.99), weight_decay=0.1)
    started, step = clock(o.device), 0
    while (done := step / o.steps if o.steps else (clock(o.device) - started) / (60 * minutes)) < 1 or not step:
        for group in optimizer.param_groups:
            group["lr"] = o.lr * min(1.0, (step + 1) / 50) * (0.1 + 0.45 * (1 + math.cos(math.pi * min(done, 1.0))))
        starts = torch.randint(len(ids) - length - 1, (o.batch_size, 1), generator=generator)
        rows = ids[starts + torch.arange(length + 1)].to(o.device)
        loss = F.cross_entropy(logits(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    return step


@torch.no_grad()
def losses(logits: Logits, ids: Tensor, length: int, o: SimpleNamespace) -> Tensor:
    """Mean loss at each position [length], over held-out rows of `length` characters, the first `o.rows` at most."""
    rows = (len(ids) - 1) // length
    rows = min(rows, o.rows) if o.rows else rows
    inputs, labels = (ids[i : i + rows * length].view(rows, length).to(o.device) for i in (0, 1))
    size = max(1, 8192 // length)
    found = [F.cross_entropy(logits(x).transpose(1, 2), y, reduction="none") for x, y in
             zip(inputs.split(size), labels.split(size), strict=True)]  # fmt: skip
    return torch.cat(found).mean(0).cpu()
