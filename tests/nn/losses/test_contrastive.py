"""Contrastive losses: the plain formula, on one process and on several, whole and in chunks, to the last digits."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis_examples import examples
from ranks import ranks
from torch import Tensor

from zoo.nn.losses import contrastive
from zoo.nn.losses.contrastive import clip_loss, siglip_loss

torch.set_num_threads(1)
N, D = 24, 6
IDS = torch.tensor([5, 1, 2, 5, 3, 4, 5, 1, *range(10, 26)])
KINDS = ("clip", "siglip")


def inputs(n: int = N, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """a, b, scale, bias."""
    g = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(n, D, generator=g, dtype=torch.float64), dim=1) for _ in range(2))
    return [x.to(dtype) for x in (a, b, torch.tensor(7.0), torch.tensor(-2.0))]


def reference(kind: str, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, ids: Tensor | None = None) -> Tensor:
    """The formula over the whole matrix, with autograd."""
    same = torch.eye(len(a), dtype=torch.bool) if ids is None else ids[:, None] == ids
    if kind == "siglip":
        return -F.logsigmoid((scale * a @ b.T + bias) * (2.0 * same.to(a.dtype) - 1)).sum() / len(a)
    target = same.to(a.dtype) / same.sum(1, keepdim=True)
    z = scale * a @ b.T
    return (F.cross_entropy(z, target) + F.cross_entropy(z.T, target)) / 2


def ours(kind: str, a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, **options: Any) -> Tensor:
    return clip_loss(a, b, scale, **options) if kind == "clip" else siglip_loss(a, b, scale, bias, **options)


def graded(loss: Any, kind: str, given: list[Tensor], *args: Any, **options: Any) -> list[Tensor]:
    """[loss, gradients of a, b, scale and (siglip) bias]."""
    leaves = [x.clone().requires_grad_() for x in given]
    value = loss(kind, *leaves, *args, **options)
    return [value.detach(), *torch.autograd.grad(value, leaves[: 3 + (kind == "siglip")])]


def far(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The greatest relative difference of any of the tensors."""
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("ids", [None, IDS], ids=["pairs", "positives"])
@pytest.mark.parametrize("chunk", [None, 1, 7, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_in_chunks(kind: str, chunk: int | None, ids: Tensor | None) -> None:
    expected = graded(reference, kind, inputs(), ids)
    assert far(graded(ours, kind, inputs(), chunk=chunk, positives=ids), expected) <= 1e-12


@pytest.mark.parametrize("ids", [None, IDS[:5]], ids=["pairs", "positives"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_differences(kind: str, ids: Tensor | None) -> None:
    leaves = [x.clone().requires_grad_() for x in inputs(5)]
    leaves = leaves[: 3 + (kind == "siglip")]
    bias = [] if kind == "siglip" else [torch.tensor(0.0)]
    assert torch.autograd.gradcheck(lambda *x: ours(kind, *x, *bias, chunk=2, positives=ids), leaves)


@settings(max_examples=examples(40), deadline=None)
@given(n=st.integers(2, 12), chunk=st.integers(1, 13), seed=st.integers(0, 99), kinds=st.sampled_from(KINDS),
       labels=st.none() | st.lists(st.integers(-2, 3), min_size=12, max_size=12))  # fmt: skip
def test_any_batch(n: int, chunk: int, seed: int, kinds: str, labels: list[int] | None) -> None:
    ids = None if labels is None else torch.tensor(labels[:n])
    expected = graded(reference, kinds, inputs(n, seed), ids)
    found = graded(ours, kinds, inputs(n, seed), chunk=chunk, positives=ids)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


def test_identical_texts_need_no_positives_in_infonce() -> None:
    """What the docstring says: `positives` matters where features differ, and for the sigmoid."""
    a, b, scale, bias = inputs()
    ids = IDS.clamp(max=9)

    def shared(kind: str, **options: Any) -> list[Tensor]:
        """With the gradients of equal texts added up, as they are in the tower that they come from."""
        loss, *found = graded(ours, kind, [a, b[ids], scale, bias], **options)
        return [loss, found[0], torch.zeros_like(b).index_add_(0, ids, found[1])]

    assert far(shared("clip", positives=ids), shared("clip")) <= 1e-12
    assert far(shared("siglip", positives=ids), shared("siglip")) > 1e-2


def part(rank: int, kind: str, sizes: list[int], ids: Tensor | None, chunk: int | None) -> list[Tensor]:
    """What one process finds from its rows of the batch."""
    a, b, scale, bias = inputs(sum(sizes))
    a, b = (x.split(sizes)[rank] for x in (a, b))
    ids = None if ids is None else ids[: sum(sizes)].split(sizes)[rank]
    return graded(ours, kind, [a, b, scale, bias], chunk=chunk, positives=ids)


@pytest.mark.parametrize("ids", [None, IDS], ids=["pairs", "positives"])
@pytest.mark.parametrize(("sizes", "chunk"), [([12, 12], None), ([6, 6, 6, 6], 4), ([9, 1, 11], 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_on_several_processes(kind: str, sizes: list[int], chunk: int | None, ids: Tensor | None) -> None:
    """Each returns the whole batch's loss; averaged over processes, as DDP does, gradients are the whole batch's."""
    total, world = sum(sizes), len(sizes)
    expected = graded(reference, kind, inputs(total), None if ids is None else ids[:total])
    found = ranks(world, part, kind, sizes, ids, chunk)
    for answer in found:
        assert far(answer[:1], expected[:1]) <= 1e-12
    rows = [torch.cat([answer[i] for answer in found]) / world for i in (1, 2)]
    shared = [torch.stack([answer[i] for answer in found]).mean(0) for i in range(3, len(expected))]
    assert far([*rows, *shared], expected[1:]) <= 1e-12


def unlike(rank: int) -> list[Tensor]:
    a, b, scale, _ = inputs()
    leaves = [x.split(N // 2)[rank].clone().requires_grad_() for x in (a, b)]
    loss = (1.0 + rank) * clip_loss(*leaves, scale)
    return list(torch.autograd.grad(loss, leaves))


def test_gradients_are_of_the_sum_of_what_processes_return() -> None:
    expected = graded(reference, "clip", inputs())[1:3]
    found = [torch.cat(parts) / 3 for parts in zip(*ranks(2, unlike), strict=True)]  # of 1 * loss + 2 * loss
    assert far(found, expected) <= 1e-12


def alone(rank: int) -> Tensor:
    a, b, scale, _ = inputs(4, seed=rank)
    return clip_loss(a, b, scale, group="local")


def test_a_process_can_use_its_own_rows_only() -> None:
    for rank, value in enumerate(ranks(2, alone)):
        torch.testing.assert_close(value, reference("clip", *inputs(4, seed=rank)), rtol=1e-12, atol=0)


def crowded(rank: int) -> str:
    a, b, scale, _ = inputs(3)
    clip_loss(a, b, scale)
    try:
        clip_loss(a[:rank], b[:rank], scale)
    except ValueError as error:
        return str(error)
    return ""


def test_a_batch_of_one_raises_on_all_processes() -> None:
    assert all("batch of 1" in message for message in ranks(2, crowded))


@pytest.mark.parametrize("kind", KINDS)
def test_against_open_clip(kind: str) -> None:
    loss = pytest.importorskip("open_clip.loss")
    a, b, scale, bias = inputs(16)
    theirs = loss.ClipLoss()(a, b, scale) if kind == "clip" else loss.SigLipLoss()(a, b, scale, bias)
    torch.testing.assert_close(ours(kind, a, b, scale, bias), theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_needs_no_gradient(kind: str, frozen: int) -> None:
    """A locked tower, a fixed temperature."""
    leaves = [x.clone().requires_grad_(i != frozen) for i, x in enumerate(inputs())]
    wanted = [x for i, x in enumerate(leaves[: 3 + (kind == "siglip")]) if i != frozen]
    expected = torch.autograd.grad(reference(kind, *leaves), wanted)
    assert far(list(torch.autograd.grad(ours(kind, *leaves, chunk=5), wanted)), list(expected)) <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_plain_numbers_and_shapes_of_parameters(kind: str) -> None:
    a, b, scale, bias = inputs()
    expected = ours(kind, a, b, scale, bias)
    assert torch.equal(ours(kind, a, b, 7.0, -2.0), expected)  # type: ignore[arg-type]
    one = scale.reshape(1).clone().requires_grad_()
    loss = ours(kind, a, b, one, bias.reshape(1))
    assert torch.equal(loss, expected) and torch.autograd.grad(loss, one)[0].shape == (1,)


@pytest.mark.parametrize("kind", KINDS)
def test_low_precision_inputs_are_computed_in_float32(kind: str) -> None:
    """Scores of half precision would be off by half of one at a scale of 100."""
    a, b, scale, bias = inputs(dtype=torch.bfloat16)
    leaves = [x.clone().requires_grad_() for x in (a, b)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = ours(kind, *leaves, scale, bias)
        found = torch.autograd.grad(loss, leaves)
    assert loss.dtype == torch.float32 and found[0].dtype == torch.bfloat16
    expected = graded(reference, kind, [x.double() for x in (a, b, scale, bias)])
    torch.testing.assert_close(loss.double(), expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0].double(), expected[1], rtol=1e-2, atol=1e-3 * expected[1].abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_far_apart_and_close_together(kind: str) -> None:
    """Perfect and hopeless pairs at the highest temperature, in single precision, at which exponentials overflow."""
    for sign in (1.0, -1.0):
        a = torch.eye(8)
        expected = graded(
            reference, kind, [x.double() for x in (a, sign * a, torch.tensor(1000.0), torch.tensor(-10.0))]
        )
        found = graded(ours, kind, [a, sign * a, torch.tensor(1000.0), torch.tensor(-10.0)])
        for x, y in zip(found, expected, strict=True):
            torch.testing.assert_close(x.double(), y, rtol=1e-6, atol=1e-9)


def test_memory_grows_with_rows_times_chunk() -> None:
    """What is allocated at once, seen by the allocator of CPU tensors."""
    n = 1024
    a, b = (torch.randn(n, 4, requires_grad=True) for _ in range(2))
    with torch.profiler.profile(profile_memory=True, acc_events=True) as seen:
        clip_loss(a, b, 1.0, chunk=8, positives=torch.arange(n) // 2).backward()
    most = max(event.cpu_memory_usage for event in seen.events())
    assert most < 64 * 8 * n


@pytest.mark.parametrize(("rows", "total", "chunk"), [
    (8192, 8192, 8192), (32768, 32768, 1024), (4096, 32768, 1024), (2048, 32768, 2048), (1 << 27, 1 << 27, 1),
])  # fmt: skip
def test_chunks_on_a_gpu(rows: int, total: int, chunk: int) -> None:
    """All scores at once where they take 256 MB, chunks of half as much beyond."""
    assert contrastive._chunk_size(rows, total, "cuda") == chunk
    assert contrastive._chunk_size(rows, total, "cpu") == max(1, (1 << 22) // total)


X = torch.randn(3, 4)


@pytest.mark.parametrize(("call", "says"), [
    (lambda: clip_loss(X, torch.randn(3, 5), 1.0), r"\[3, 4\] and \[3, 5\]"),
    (lambda: clip_loss(X, X[:2], 1.0), r"\[2, 4\]"),
    (lambda: clip_loss(X[0], X[0], 1.0), r"\[B, D\]"),
    (lambda: clip_loss(X[:1], X[:1], 1.0), "at least 2 pairs, got a batch of 1"),
    (lambda: siglip_loss(X[:1], X[:1], 1.0, 0.0), "at least 2 pairs, got a batch of 1"),
    (lambda: clip_loss(X, X, 1.0, chunk=0), "chunk=0"),
    (lambda: clip_loss(X, X, torch.ones(2)), r"must be scalars, got shape \[2\]"),
    (lambda: clip_loss(X, X, 1.0, positives=torch.arange(2)), r"integers \[3\], one per row, got torch.int64 \[2\]"),
    (lambda: siglip_loss(X, X, 1.0, positives=torch.ones(3)), "got torch.float32"),
])  # fmt: skip
def test_errors(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("ids", [None, IDS], ids=["pairs", "positives"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_products_in_half_precision(kind: str, dtype: torch.dtype, ids: Tensor | None, monkeypatch: Any) -> None:
    """As on a GPU: what is rounded are the features and the slopes, not the scores."""
    seen: list[torch.dtype] = []

    def product(a: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(a.dtype)
        return plain(a, *args, **options)

    plain = contrastive.product
    monkeypatch.setattr(contrastive, "product", product)
    given = inputs(dtype=torch.float32)
    exact = graded(reference, kind, inputs(), ids)
    with torch.autocast("cpu", dtype):
        unchanged = graded(ours, kind, given, positives=ids, chunk=7)
        assert set(seen) == {torch.float32}
        monkeypatch.setattr(contrastive, "products_in_half", lambda a: True)
        seen.clear()
        found = graded(ours, kind, given, positives=ids, chunk=7)
    assert set(seen) == {dtype} and [x.dtype for x in found] == [torch.float32] * len(found)
    assert far(unchanged, graded(ours, kind, given, positives=ids, chunk=7)) == 0
    assert 1e-6 < far(found, exact) < 2e-2
    seen.clear()
    narrow = graded(ours, kind, [x.to(dtype) if x.ndim else x for x in given], positives=ids)
    assert set(seen) == {dtype} and far(narrow, exact) < 4e-2
    seen.clear()
    graded(ours, kind, given, positives=ids)
    assert set(seen) == {torch.float32}  # neither autocast nor features in half precision


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_products_in_half_precision_on_a_gpu(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(1024, 64, generator=g), dim=1) for _ in range(2))
    given = [a, b, torch.tensor(14.0), torch.tensor(-2.0)]
    exact = graded(reference, kind, [x.double() for x in given])
    with torch.autocast("cuda", torch.bfloat16):
        found = graded(ours, kind, [x.cuda() for x in given], chunk=300)
    assert far([x.cpu() for x in found], exact) < 2e-2
