"""A model that is sharded over two processes computes what the whole one does, by every method that takes a batch."""

from typing import Any

import pytest
import torch
from live_memory import LiveMemory
from parallel_cases import Gradients, difference
from ranks import ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode

import zoo
from zoo.nn.heads import rescale_output
from zoo.nn.losses import cross_entropy
from zoo.parallel import Plan, fsdp, parallelize
from zoo.parallel.fsdp import shard
from zoo.parallel.shards import whole
from zoo.tasks.language_modeling import Predictions, output_layer
from zoo.training.planner.trace import imaginary_processes

TEXT = {"width": 16, "depth": 2, "heads": 2, "vocab_size": 50}
IDS = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))


def text_model() -> Any:
    return zoo.create_model("bert_tiny", head="masked_lm", seed=0, **TEXT).eval()


def two_towers() -> Any:
    image = {"name": "vit_cifar_tiny", "depth": 1, "width": 16, "heads": 2}
    text = {"name": "bert_tiny", "pool": "mean", "pooler": None, **TEXT}
    return zoo.contrast(image=image, text=text, width=8, seed=0).eval()


def outputs(model: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        if hasattr(model, "encode_text"):
            return [model.encode_text(IDS), model(input_ids=IDS).logit_scale.reshape(())]
        return [model.encode(IDS), model(input_ids=IDS)]


def sharded(rank: int, name: str) -> list[torch.Tensor]:
    model = shard({"text": text_model, "towers": two_towers}[name](), init_device_mesh("cpu", (2,)))
    return [getattr(x, "full_tensor", lambda x=x: x)() for x in outputs(model)]


def test_encode_before_any_forward() -> None:
    for found in ranks(2, sharded, "text"):
        for one, other in zip(found, outputs(text_model()), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_towers_and_a_scalar_parameter() -> None:
    for found in ranks(2, sharded, "towers"):
        for one, other in zip(found, outputs(two_towers()), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_the_root_is_gathered_once() -> None:
    """`forward` calls `encode`, which gathers as well: both at once gather each unit once in a pass."""
    with imaginary_processes(8):
        for make, inputs, blocks in (
            (text_model, {"input_ids": IDS}, 2),
            (two_towers, {"input_ids": IDS, "pixel_values": torch.zeros(2, 3, 32, 32)}, 3),
        ):
            model = shard(make(), init_device_mesh("cpu", (8,)))
            root: Any = model._get_fsdp_state()._fsdp_param_group  # type: ignore[operator]
            for _ in range(2):
                with CommDebugMode() as forward:
                    y = model(**inputs)
                with CommDebugMode() as backward:
                    (y if isinstance(y, torch.Tensor) else y.image_features + y.text_features).sum().backward()
                counts = [mode.get_comm_counts()[torch.ops.c10d._allgather_base_] for mode in (forward, backward)]
                assert counts == [blocks + 1, blocks] and root.is_sharded
            with torch.no_grad():
                model(**inputs)
            assert root.is_sharded or make is two_towers  # whose `forward` calls no method that gathers
            assert model not in fsdp._IN_FORWARD
            with pytest.raises(ValueError, match="does not use"):
                model(nothing=IDS)
            assert model not in fsdp._IN_FORWARD


# --- the loss of language models --------------------------------------------------------------------------------------


def rescaled(rank: int, sharded: bool) -> list[torch.Tensor]:
    """Output layers with one and three outputs in the units of their labels."""
    found = []
    for mean, std in ((1.5, 2.0), ([1.0, 0.0, -3.0], [2.0, 3.0, 4.0])):
        classes = len(mean) if isinstance(mean, list) else 1
        model = zoo.create_model("bert_tiny", width=16, depth=1, heads=2, vocab_size=50, num_classes=classes, seed=0)
        if sharded:
            shard(model, init_device_mesh("cpu", (2,)))
        proj: Any = model.head.proj
        rescale_output(proj, mean, std)
        found += [whole(x.detach()) for x in proj.parameters()]
    return found


def test_output_layers_are_rescaled() -> None:
    """Also with fewer outputs than processes."""
    for found in ranks(2, rescaled, True):
        assert all(torch.equal(ours, x) for ours, x in zip(found, rescaled(0, False), strict=True))


def language_model(tied: bool) -> Any:
    sizes = TEXT | dict(vocab_size=500, depth=1, max_length=32, dropout=0.0, tie_word_embeddings=tied)
    return zoo.create_model("gpt_nano", seed=0, **sizes).double()


def loss_of_labels(model: Any, rows: slice, *, chunked: bool) -> torch.Tensor:
    """The mean loss over chunks of 16 tokens, or from all logits."""
    ids = torch.randint(5, 500, (8, 32), generator=torch.Generator().manual_seed(0))
    layer = output_layer(model) if chunked else None
    assert (layer is not None) == chunked
    x = model(input_ids=ids[rows]) if layer is None else model.head.features(model.encode(input_ids=ids[rows]))
    return Predictions(x.flatten(0, 1), ids.roll(-1, 1)[rows].flatten(), layer).cross_entropy("sum") / 256


def gradients_and_memory(rank: int, plans: tuple[Plan, ...], tied: bool) -> list[tuple[Gradients, int, int]]:
    """(gradients, memory with chunks, memory with all logits) of each plan."""
    cross_entropy._ENTRIES, cross_entropy._LEAST_ROWS = 16 * 500, 1
    results = []
    for plan in plans:
        memory = {}
        for chunked in (False, True):
            model = parallelize(language_model(tied), plan, plan.mesh("cpu"))
            for _ in range(2):  # two passes, whose gradients are added up
                with LiveMemory() as measured:
                    loss_of_labels(model, slice(4 * rank, 4 * rank + 4), chunked=chunked).backward()
            memory[chunked] = measured.peak
        found = {name: 2 * whole(p.grad) for name, p in model.named_parameters()}
        results.append((found, memory[True], memory[False]))
    return results


@pytest.mark.parametrize(
    ("tied", "plans"),
    [
        (True, (Plan(data=2), Plan(shard=2, mixed_precision="bf16"))),
        (False, (Plan(shard=2, checkpointing="full", cpu_offload=True),)),
    ],
    ids=["shared embeddings", "own head"],
)
def test_the_loss_of_language_models_in_chunks(tied: bool, plans: tuple[Plan, ...]) -> None:
    """The gradients are those of one process from all logits, which are not stored."""
    model = language_model(tied)
    for _ in range(2):
        loss_of_labels(model, slice(None), chunked=False).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for own in ranks(2, gradients_and_memory, plans, tied):
        for plan, (found, memory, stored) in zip(plans, own, strict=True):
            assert difference(found, expected) < (5e-2 if plan.mixed_precision else 1e-12), plan
            assert stored - memory > 128 * 500 * (4 if plan.mixed_precision else 8), (plan, memory, stored)
