"""A pipeline of processes computes what gradient accumulation over the microbatches does in one."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed.pipelining  # here and not in each child
import torch.nn.functional as F
from parallel_cases import Gradients, difference, double, doubled, weights_like
from ranks import ranks
from speeds import full_unless
from torch import Tensor
from torch import distributed as dist
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from tests.models import test_contract as single_towers
from tests.models import test_encoder_decoder as encoder_decoders
from zoo.parallel.cuts import balanced, check_model, check_schedule, cut_blocks
from zoo.parallel.pipeline import Pipeline

MICROBATCHES = 4
IDS = torch.randint(5, 50, (8, 11), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[::2, 8:], MASK[1::3, :4], MASK[2, 3] = 0, 0, 0
DOCUMENTS = torch.tensor([[0] * 4 + [1] * 5 + [-1] * 2, [-1, 3, 3] + [0] * 8, [7] * 11, [0] + [1] * 10]).repeat(2, 1)
UNTIED = {"tie_word_embeddings": False}


def family(name: str, **overrides: Any) -> Any:
    return double(single_towers.small(name, **{"depth": 4} | overrides))


def rows(batch: dict[str, Any]) -> dict[str, Any]:
    """Eight rows, of those of a batch."""
    return {name: x[torch.arange(8) % len(x)] for name, x in doubled(batch).items()}


# the families whose layers and inputs differ: of the others only the front end and the head do
NAMES = ("vit", "bert", "modernbert", "longformer", "gpt2", "gemma", "mamba2", "rwkv", "retnet", "ast", "wav2vec2")
CASES: dict[str, Any] = {name: (partial(family, name), rows(single_towers.all_inputs(name))) for name in NAMES}
CASES |= {
    "rotary positions and padding": (partial(family, "llama", **UNTIED), {"input_ids": IDS, "attention_mask": MASK}),
    "documents": (partial(family, "llama", **UNTIED), {"input_ids": IDS, "document_ids": DOCUMENTS}),
    "documents longer than the texts of a model": (
        partial(family, "gpt2", max_length=11), {"input_ids": IDS, "document_ids": DOCUMENTS},
    ),
    "padded clips": (partial(family, "wav2vec2"), {
        "input_values": torch.randn(8, 231, generator=torch.Generator().manual_seed(0)).double(),
        "attention_mask": torch.arange(231) < torch.tensor([231, 200, 150, 231, 100, 90, 231, 231])[:, None],
    }),
    "points of a set": (partial(family, "set_transformer"), {
        "points": torch.randn(8, 11, 3, generator=torch.Generator().manual_seed(0)).double(),
        "attention_mask": torch.arange(11) < torch.tensor([11, 5, 7, 11, 2, 3, 11, 9])[:, None],
    }),
    "recomputed activations": (lambda: recomputed(family("llama")), {"input_ids": IDS}),
}  # fmt: skip


def recomputed(model: Any) -> Any:
    model.set_checkpointing()
    return model


def loss(output: Tensor, batch: Any) -> Tensor:
    return (output * weights_like(output)).mean()


def accumulated(case: str, microbatches: int = MICROBATCHES) -> tuple[float, Gradients]:
    """The loss and the gradients of accumulation in one process, which computes padding as a pipeline does."""
    make, batch = CASES[case]
    model, total = make(), 0.0
    model.drop_padding = False
    for part in range(microbatches):
        size = 8 // microbatches
        own = {name: x[part * size : (part + 1) * size] for name, x in batch.items()}
        mean = loss(model(**own), own) / microbatches
        mean.backward()
        total += float(mean.detach())
    return total, {name: p.grad for name, p in model.named_parameters()}


def stages(rank: int, cases: list[str], schedule: Any) -> list[tuple[float, Gradients]]:
    found = []
    for case in cases:
        make, batch = CASES[case]
        pipeline = Pipeline(make(), dist.group.WORLD, loss, schedule=schedule, microbatches=MICROBATCHES)
        mean = float(pipeline.step(batch))
        found.append((mean, {name: p.grad for name, p in pipeline.named_parameters()}))
    return found


def check(world: int, cases: list[str], schedule: str) -> None:
    found = ranks(world, stages, cases, schedule)
    for number, case in enumerate(cases):
        mean, expected = accumulated(case)
        tied = {"head.proj.weight": "tokens.word.weight"} if "head.proj.weight" not in expected else {}
        gradients: Gradients = {}
        for rank in range(world):
            total, own = found[rank][number]
            assert abs(total - mean) < 1e-12
            for name, gradient in own.items():
                name = tied.get(name, name)
                assert name not in gradients or torch.equal(gradients[name], gradient)
                gradients[name] = gradient
        assert gradients.keys() == expected.keys()
        assert difference(gradients, expected) < 1e-12, case


@pytest.mark.parametrize("half", full_unless([0], [0, 1]))
def test_families(half: int) -> None:
    check(2, list(CASES)[half::2], "1f1b")


@pytest.mark.parametrize(("world", "schedule"), [(2, "gpipe"), (2, "interleaved"), (4, "1f1b")])
def test_schedules(world: int, schedule: str) -> None:
    check(world, ["gpt2", "documents"], schedule)


def test_bit_equal_to_accumulation() -> None:
    expected = accumulated("rotary positions and padding")[1]
    for (_, own), *_ in ranks(2, stages, ["rotary positions and padding"], "1f1b"):
        for name, gradient in own.items():
            assert torch.equal(gradient, expected[name]), name


# --- Training, data parallelism, tied parameters ----------------------------------------------------------------------


def lm_loss(logits: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


def texts() -> dict[str, Tensor]:
    """Batches of 20 steps."""
    ids = torch.randint(5, 50, (20, 8, 13), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "labels": ids.roll(-1, 2)}


def steps(count: int, model: Any, optimizer: Any, backward: Any, clip: Any, average: list[Tensor]) -> list[float]:
    """Losses of steps with clipped gradients and a moving average; the first one is of two batches."""
    losses = []
    for step in range(count):
        optimizer.zero_grad()
        for micro in range(2 if step == 0 else 1):
            losses.append(float(backward({name: x[step + micro] for name, x in texts().items()})))
        clip()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 0.1)
    return losses


def one_process(count: int) -> tuple[list[float], Gradients]:
    model = family("gpt2")
    average = [p.detach().clone() for p in model.parameters()]

    def backward(batch: Any) -> Tensor:
        loss = lm_loss(model(input_ids=batch["input_ids"]), batch)
        loss.backward()
        return loss.detach()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = steps(
        count, model, optimizer, backward, lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5), average
    )
    return losses, dict(zip((name for name, _ in model.named_parameters()), average, strict=True))


def pipeline_steps(rank: int, count: int, data: int, shard: bool) -> tuple[list[float], Gradients]:
    """Pipelines of two processes, each with its part of a batch if there are several."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, data), mesh_dim_names=("pipeline", "data"))
    pipeline = Pipeline(family("gpt2"), mesh["pipeline"].get_group(), lm_loss, microbatches=2)
    if data > 1:
        for stage in pipeline.stages:
            (fully_shard if shard else replicate)(stage, mesh=mesh["data"])
    part = slice(mesh.get_local_rank("data") * 8 // data, (mesh.get_local_rank("data") + 1) * 8 // data)
    average = [p.detach().clone() for p in pipeline.parameters()]
    optimizer = torch.optim.AdamW(pipeline.parameters(), lr=3e-3)

    def backward(batch: Any) -> Tensor:
        loss = pipeline.step({name: x[part] for name, x in batch.items()})
        dist.all_reduce(loss, group=mesh["data"].get_group())
        return loss / data

    losses = steps(count, pipeline, optimizer, backward, lambda: pipeline.clip_grad_norm_(0.5), average)
    whole = (x.full_tensor() if isinstance(x, DTensor) else x for x in average)
    return losses, dict(zip((name for name, _ in pipeline.named_parameters()), whole, strict=True))


@pytest.mark.parametrize(
    ("count", "data", "shard"), full_unless([(20, 1, False)], [(20, 1, False), (2, 2, False), (2, 2, True)])
)
def test_steps_with_tied_embeddings(count: int, data: int, shard: bool) -> None:
    losses, average = one_process(count)
    for found, own in ranks(2 * data, pipeline_steps, count, data, shard):
        assert max(abs(a - b) for a, b in zip(found, losses, strict=True)) < 1e-10
        for name, value in own.items():
            name = "tokens.word.weight" if name == "head.proj.weight" else name
            torch.testing.assert_close(value, average[name], atol=1e-10, rtol=0)


def frozen_steps(rank: int, trained: tuple[str, ...]) -> tuple[float, Gradients]:
    model = family("gpt2", **UNTIED)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    pipeline = Pipeline(model, dist.group.WORLD, lm_loss, microbatches=2)
    pipeline.step({name: x[0] for name, x in texts().items()})
    norm = float(pipeline.clip_grad_norm_(1e-3))
    return norm, {name: p.grad for name, p in pipeline.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("trained", [("blocks.0.", "blocks.1."), ("blocks.2.", "blocks.3.")])
def test_all_of_a_stage_may_be_frozen(trained: tuple[str, ...]) -> None:
    (norm, first), (same, last) = ranks(2, frozen_steps, trained)
    assert norm == same > 1e-3
    gradients = first | last
    assert gradients and all(name.startswith(trained) for name in gradients)
    assert torch.stack([x.norm() for x in gradients.values()]).norm() == pytest.approx(1e-3, rel=1e-2)


def evaluated(rank: int) -> tuple[list[float], int]:
    pipeline = Pipeline(family("gpt2"), dist.group.WORLD, lm_loss, microbatches=2).eval()
    batch = {name: x[0] for name, x in texts().items()}
    short = {name: x[:4, :5] for name, x in batch.items()}
    losses = [float(pipeline.evaluate(each)) for each in (batch, short, batch)]
    return losses, sum(p.grad is not None for p in pipeline.parameters())


def test_evaluation_of_several_shapes() -> None:
    model, batch = family("gpt2").eval(), {name: x[0] for name, x in texts().items()}
    with torch.no_grad():
        whole, short = (float(lm_loss(model(input_ids=ids), {"labels": labels})) for ids, labels in (
            (batch["input_ids"], batch["labels"]), (batch["input_ids"][:4, :5], batch["labels"][:4, :5]),
        ))  # fmt: skip
    for losses, gradients in ranks(2, evaluated):
        assert losses == pytest.approx([whole, short, whole], abs=1e-12) and gradients == 0


def weighted(rank: int, batch: dict[str, Tensor]) -> tuple[float, Gradients]:
    pipeline = Pipeline(family("gpt2"), dist.group.WORLD, lm_loss, weight=lambda b: (b["labels"] >= 0).sum())
    mean = float(pipeline.step(batch))
    return mean, {name: p.grad for name, p in pipeline.named_parameters() if name.startswith("blocks")}


def test_the_mean_over_tokens_that_microbatches_do_not_share_equally() -> None:
    ids = texts()["input_ids"][0]
    batch = {"input_ids": ids, "labels": ids.masked_fill(torch.arange(13) > torch.arange(8)[:, None], -100)}
    model = family("gpt2")
    expected = lm_loss(model(input_ids=ids), batch)
    expected.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for mean, own in ranks(2, weighted, batch):
        assert mean == pytest.approx(float(expected.detach()), abs=1e-12)
        assert difference(own, {name: gradients[name] for name in own}) < 1e-12


# --- Cutting, and what is refused -------------------------------------------------------------------------------------


def test_stages_are_balanced() -> None:
    assert balanced([9, 1, 7, 1, 1, 9], 3) == [range(1), range(1, 4), range(4, 6)]
    model = single_towers.small("gpt2", depth=4, vocab_size=5000, **UNTIED)
    assert cut_blocks(model, 3) == [range(1), range(1, 3), range(3, 4)]
    assert cut_blocks(model, 3, (2, 3)) == [range(2), range(2, 3), range(3, 4)]


@pytest.mark.parametrize(
    ("stages", "cuts", "message"),
    [
        (5, None, "4 blocks cannot be cut into 5 stages, each of which needs one: choose pipeline=4 or less"),
        (3, (2,), "cuts=.2,.: expected 2 increasing numbers from 1 to 3"),
        (3, (2, 2), "cuts=.2, 2.: expected 2 increasing numbers"),
        (2, (4,), "expected 1 increasing numbers from 1 to 3"),
    ],
)
def test_cuts_that_do_not_fit(stages: int, cuts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut_blocks(single_towers.small("gpt2", depth=4), stages, cuts)


@pytest.mark.parametrize(
    ("schedule", "microbatches", "each", "message"),
    [
        ("zigzag", 4, 1, "schedule='zigzag': expected one of gpipe, 1f1b, interleaved"),
        ("1f1b", 3, 1, "microbatches=3 with schedule='1f1b' and pipeline=4: choose at least 4"),
        ("interleaved", 9, 2, "choose a multiple of 4, such as 12"),
        ("interleaved", 8, 1, "stages_per_process=1 with schedule='interleaved': expected 2 or more"),
        ("gpipe", 0, 1, "microbatches=0: expected at least 1"),
    ],
)
def test_schedules_that_do_not_fit(schedule: str, microbatches: int, each: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_schedule(schedule, microbatches, 4, each)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encoder_decoders.small("t5"), "T5 has the stacks encoder.blocks, decoder.blocks; .* use shard= or"),
        (lambda: single_towers.small("wav2vec2", layer_sum=True, head="token"), "Wav2Vec2 with layer_sum=True reads"),
        (lambda: single_towers.small("clip_text"), "shortens a batch to its longest text"),
    ],
)
def test_models_that_are_not_one_stack_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_model(make())


@pytest.mark.parametrize("autocast", ["bf16", torch.float64])
def test_types_of_autocast_are_named(autocast: Any) -> None:
    with pytest.raises(ValueError, match=f"autocast={autocast!r}: expected torch.bfloat16, torch.float16 or None"):
        Pipeline(family("llama"), dist.group.WORLD, loss, autocast=autocast)


def without_parts(rank: int, name: str) -> str:
    try:
        Pipeline(family("llama"), dist.group.WORLD, loss, **{name: 0})
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["microbatches", "stages_per_process"])
def test_zero_is_not_the_default(name: str) -> None:
    assert ranks(1, without_parts, name)[0].startswith(f"{name}=0")


def failing(rank: int, evaluates: bool) -> str:
    """What each stage raises where the loss, which the last one computes, raises an error for a microbatch."""

    def broken(output: Tensor, batch: Any) -> Tensor:
        if int(batch["number"].max()) == 5:
            raise ValueError("odd labels")
        return loss(output, batch)

    pipeline = Pipeline(family("llama", **UNTIED), dist.group.WORLD, broken, microbatches=MICROBATCHES)
    batch = {"input_ids": IDS, "number": torch.arange(8)}
    pipeline.step({"input_ids": IDS, "number": torch.zeros(8)})
    try:
        (pipeline.evaluate if evaluates else pipeline.step)(batch)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.parametrize("evaluates", [False, True])
def test_an_error_in_one_stage_ends_the_others_with_its_name(evaluates: bool) -> None:
    first, last = ranks(2, failing, evaluates, timeout=30)
    assert last.endswith("odd labels")
    assert first.startswith("RuntimeError: process 1 of the pipeline failed with") and first.endswith("odd labels")


def batch_errors(rank: int) -> list[str]:
    pipeline = Pipeline(family("mamba2"), dist.group.WORLD, loss, microbatches=4)
    errors = []
    for batch in (
        {"input_ids": IDS[:6]}, {"input_ids": IDS, "attention_mask": MASK[:4]}, {"input_ids": IDS, "lengths": [3] * 8},
        {"input_ids": IDS, "document_ids": DOCUMENTS},
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            pipeline.step(batch)
        errors.append(str(caught.value))
    return errors


def test_batches_that_cannot_be_divided_say_why() -> None:
    expected = (
        "6 rows cannot be divided into microbatches=4: choose 4 or 8 rows", "different numbers of rows",
        "lengths: a list", "document_ids: blocks.0 has Mamba2",
    )  # fmt: skip
    for errors in ranks(2, batch_errors):
        for error, part in zip(errors, expected, strict=True):
            assert part in error
