"""Labels that are a copy of the inputs are refused: a model trained on them would learn to repeat its last token."""

import pytest
import torch
from fault_inputs import one_step

import zoo
from zoo.tasks import CausalLMTask, MaskedLMTask


@pytest.mark.parametrize("padded", [False, True], ids=["whole rows", "padding of -100"])
def test_a_copy_of_the_inputs_is_refused(padded: bool) -> None:
    ids = torch.randint(1, 200, (4, 16), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1:, 10:] = 0
    batch = {"input_ids": ids * mask, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    task = CausalLMTask(zoo.create_model("gpt_nano", width=32, depth=1, heads=2, seed=0), lr=1e-3)
    with pytest.raises(ValueError, match=r"(?s)labels.*input_ids|input_ids.*labels"):
        one_step(task, [batch])


def test_a_prompt_that_does_not_count_hides_no_copy() -> None:
    ids = torch.randint(1, 200, (4, 16), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :10] = -100
    task = CausalLMTask(zoo.create_model("gpt_nano", width=32, depth=1, heads=2, seed=0), lr=1e-3)
    with pytest.raises(ValueError, match="copy of input_ids"):
        one_step(task, [{"input_ids": ids, "labels": labels}])


def test_tokens_that_follow_are_no_copy() -> None:
    task = CausalLMTask(zoo.create_model("gpt_nano", width=32, depth=1, heads=2, seed=0), lr=1e-3)
    for ids in (torch.full((2, 9), 7), torch.randint(1, 200, (2, 9))):  # one token repeated, then others
        one_step(task, [{"input_ids": ids[:, :-1], "labels": ids[:, 1:]}])
    with pytest.raises(ValueError, match="copy of input_ids"):  # the repeated one decided nothing
        fresh = CausalLMTask(task.model, lr=1e-3)
        same, copied = torch.full((2, 8), 7), torch.randint(1, 200, (2, 8))
        one_step(fresh, [{"input_ids": same, "labels": same}, {"input_ids": copied, "labels": copied}])


def test_tokens_that_are_masked_already_are_refused() -> None:
    """As a collator of transformers gives them: the task would mask a second time, and predict mask tokens."""
    ids = torch.randint(5, 200, (2, 9))
    task = MaskedLMTask(zoo.create_model("bert_tiny", vocab_size=200, width=32, depth=1, heads=2), lr=1e-3, mask_id=4)
    with pytest.raises(ValueError, match="omit labels"):
        one_step(task, [{"input_ids": ids.masked_fill(ids > 180, 4), "labels": ids.masked_fill(ids <= 180, -100)}])
