"""Labels that are a copy of the inputs are refused: a model trained on them would learn to repeat its last token."""

import pytest
import torch
from fault_inputs import one_step

import zoo
from zoo.tasks import CausalLMTask


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="they are taken as the tokens that follow")
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
