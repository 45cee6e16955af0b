"""Padding is not part of a text: the repetition penalty does not count it, nor does the length check of CTC."""

from itertools import pairwise

import pytest
import torch
from fault_inputs import follower
from tokenizers import Tokenizer, models

import zoo
from zoo.nn.losses.ctc import ctc_loss, frames_needed


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 2}, {"draft": True}, {"temperature": 1e-4, "num_return_sequences": 2}], ids=str
)
@pytest.mark.parametrize("pad", [0, 1, 3])
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_the_repetition_penalty_of_padded_prompts(side: str, pad: int, options: dict) -> None:
    """The token after the prompt is the one that fills the rows (0 to the model, whatever its id in the batch)."""
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("abcd")}, unk_token="a"))
    model = follower(tokenizer, {"c": "d" if pad == 3 else "b" if pad else "a"}, otherwise="c")
    with torch.no_grad():
        other = 1 if pad == 3 else 3  # almost as good, and chosen if the best one is penalized
        model.head.proj.weight[other, 2] = 0.995 * model.head.proj.weight[pad, 2]
    prompt, fill = [2, 2], [pad] * 3
    row = {"left": [*fill, *prompt], "right": [*prompt, *fill], "both": [*fill, *prompt, *fill]}[side]
    mask = [int(i == 2) for i in row]
    longest = [1, *[2] * (len(row) - 1)]  # a row without padding
    options = options | {"draft": model} if "draft" in options else options
    new = zoo.generate(
        model, torch.tensor([row, longest]), torch.tensor([mask, [1] * len(row)]), max_new_tokens=3,
        repetition_penalty=1.3, eos_token_id=None, seed=0, **options,
    )[:, len(row) :]  # fmt: skip
    alone = zoo.generate(model, torch.tensor([prompt]), max_new_tokens=3, repetition_penalty=1.3, eos_token_id=None,
                         seed=0, **options)[:, 2:]  # fmt: skip
    assert new[: len(alone)].tolist() == alone.tolist()
    assert alone[0, 0] == pad or "num_beams" in options


@pytest.mark.parametrize("pad", [*range(5), -1, -100])
def test_the_length_check_of_ctc_with_any_padding(pad: int) -> None:
    texts = [[1, 1, 2], [1, 2, 2], [3], [4, 4, 4, 4], []]
    labels = torch.tensor([text + [pad] * (6 - len(text)) for text in texts])
    lengths = torch.tensor([len(text) for text in texts])
    needed = [len(text) + sum(a == b for a, b in pairwise(text)) for text in texts]
    assert frames_needed(labels, lengths).tolist() == needed
    logits, frames = torch.zeros(5, 7, 5), torch.tensor(needed).clamp(min=1)
    assert ctc_loss(logits, frames, labels, lengths).isfinite()
    for row in range(4):
        with pytest.raises(ValueError, match=f"row {row}: {lengths[row]} symbols need at least {needed[row]} frames"):
            ctc_loss(logits, frames - (torch.arange(5) == row).long(), labels, lengths)
