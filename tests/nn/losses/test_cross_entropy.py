"""Cross-entropy from hidden states: the plain formula, in chunks of any size, and without its memory."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from zoo.nn.fused import Fused
from zoo.nn.losses import cross_entropy, products
from zoo.nn.losses.cross_entropy import linear_cross_entropy, losses_and_slope

T, D, V = 13, 6, 11


def inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """hidden, weight, bias."""
    g = torch.Generator().manual_seed(0)
    shapes = ((T, D), (V, D), (V,))
    return [torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def labels(ignored: tuple[int, ...] = (3, 12)) -> Tensor:
    y = torch.randint(V, (T,), generator=torch.Generator().manual_seed(1))
    y[list(ignored)] = -100
    return y


def plain(x: Tensor, w: Tensor, y: Tensor, b: Tensor | None = None, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(F.linear(x, w, b).to(torch.promote_types(x.dtype, torch.float32)), y, reduction=reduction)


def graded(loss: Any, leaves: list[Tensor], **options: Any) -> list[Tensor]:
    """[loss, gradients of hidden, weight and, if there is one, bias]."""
    x, w, *b = leaves
    value = loss(x, w, labels(), *b, **options)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def far(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The greatest difference relative to the greatest value of any of the tensors."""
    return max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [None, 1, 5, 100])
def test_in_chunks(chunk: int | None, bias: bool, reduction: Any) -> None:
    given = inputs()[: 2 + bias]
    ours = graded(linear_cross_entropy, given, chunk=chunk, reduction=reduction)
    assert far(ours, graded(plain, given, reduction=reduction)) < 1e-14


def test_gradients() -> None:
    y = labels()
    assert torch.autograd.gradcheck(lambda x, w, b: linear_cross_entropy(x, w, y, b, chunk=5), inputs())
    x, w, b = inputs()
    value = linear_cross_entropy(x, w, y, b, chunk=5)  # twice: nothing is changed in place
    first, second = (torch.autograd.grad(value, (x, w, b), retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_float32() -> None:
    given = inputs(torch.float32)
    assert far(graded(linear_cross_entropy, given, chunk=5), graded(plain, given)) < 1e-6


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, w, b = inputs()
    expected = torch.autograd.grad(plain(x, w, labels(), b), (x, w, b))
    for i in range(3):
        given = [leaf.detach().requires_grad_(i == j) for j, leaf in enumerate((x, w, b))]
        linear_cross_entropy(given[0], given[1], labels(), given[2], chunk=4).backward()
        assert [leaf.grad is not None for leaf in given] == [i == j for j in range(3)]
        assert (given[i].grad - expected[i]).abs().max() < 1e-14


def test_a_tied_embedding_gets_both_gradients() -> None:
    _, w, _ = inputs()
    ids = torch.arange(T) % V
    ours, theirs = (
        torch.autograd.grad(loss(F.embedding(ids, w), w, labels()), w)[0] for loss in (linear_cross_entropy, plain)
    )
    assert (ours - theirs).abs().max() < 1e-14


def test_the_loss_of_each_token() -> None:
    x, w, b = inputs()
    expected = plain(x, w, labels(), b, "none")
    with_gradients = linear_cross_entropy(x, w, labels(), b, reduction="none")
    with torch.no_grad():
        ours = linear_cross_entropy(x, w, labels(), b, chunk=5, reduction="none")
    assert torch.allclose(ours, expected, atol=1e-14) and torch.equal(ours == 0, labels() == -100)
    assert torch.allclose(with_gradients, expected, atol=1e-14)
    weights = torch.arange(T, dtype=torch.float64)
    grads = (torch.autograd.grad(losses @ weights, x, retain_graph=True)[0] for losses in (with_gradients, expected))
    assert torch.allclose(*grads, atol=1e-14)


def test_nothing_to_predict() -> None:
    x, w, b = inputs()
    ignored = torch.full((T,), -100)
    value = linear_cross_entropy(x, w, ignored, b, reduction="sum")
    assert value == 0 and all(g.abs().max() == 0 for g in torch.autograd.grad(value, (x, w, b)))
    assert linear_cross_entropy(x, w, ignored, b).isnan() and plain(x, w, ignored, b).isnan()
    empty = linear_cross_entropy(x[:0], w, ignored[:0], b, reduction="sum")
    assert empty == 0 and torch.autograd.grad(empty, w)[0].abs().max() == 0
    with torch.no_grad():
        assert linear_cross_entropy(x[:0], w, ignored[:0], reduction="none").shape == (0,)
    other = linear_cross_entropy(x, w, labels().masked_fill(labels() == -100, 99), b, ignore_index=99)
    assert torch.allclose(other, plain(x, w, labels(), b))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_half_precision(how: str, dtype: torch.dtype) -> None:
    """As near to the exact numbers as the plain form, whose scores are rounded as well; sums in float32."""
    given = inputs(dtype if how == "weights" else torch.float32)
    with torch.autocast("cpu", dtype, enabled=how == "autocast"):
        ours = graded(linear_cross_entropy, given, chunk=5)
        theirs = graded(plain, given)
    exact = graded(plain, [x.detach().double().requires_grad_() for x in given])
    assert ours[0].dtype == torch.float32 and [x.dtype for x in ours[1:]] == [x.dtype for x in given]
    assert far(ours, exact) < max(2 * far(theirs, exact), 4e-3)


def test_a_vocabulary_padded_to_aligned_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU in half precision."""
    given = inputs()
    expected = graded(plain, given)
    monkeypatch.setattr(cross_entropy, "_padding", lambda weight, dtype: 5)
    assert far(graded(linear_cross_entropy, given, chunk=5), expected) < 1e-14


@pytest.mark.parametrize(("tokens", "vocabulary"), [(1, 7), (4096, 50257), (16384, 50257), (3, 10**6), (10**6, 65)])
def test_chunks_are_few_and_of_about_one_size(tokens: int, vocabulary: int) -> None:
    size = cross_entropy._chunk_size(tokens, torch.empty(vocabulary, 1, device="meta"))
    assert 1 <= size <= tokens and (size * vocabulary <= 2 * cross_entropy._ENTRIES or size <= 256)
    assert size == tokens or size % 64 == 0


def test_no_more_scores_than_a_chunk_are_stored() -> None:
    """The greatest tensor that autograd keeps is the gradient of the weight, not [T, V]."""
    kept: list[int] = []
    x, w = torch.randn(512, 4, requires_grad=True), torch.randn(300, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        linear_cross_entropy(x, w, torch.zeros(512, dtype=torch.long), chunk=64)
    assert max(kept) <= 512 * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(2, 3, 4)}, r"hidden \[2, 3, 4\].*expected hidden \[T, D\]"),
        ({"labels": torch.zeros(5, dtype=torch.long)}, r"labels \[5\]"),
        ({"labels": torch.zeros(T)}, "labels are torch.float32: expected torch.int64"),
        ({"bias": torch.zeros(3)}, r"bias \[3\]: expected \[11\]"),
        ({"chunk": 0}, "chunk=0: expected at least 1"),
        ({"reduction": "max"}, "reduction='max': expected mean, sum or none"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    given = {"hidden": torch.zeros(T, D), "weight": torch.zeros(V, D), "labels": labels()}
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**given | change)


def test_compiles_whole() -> None:
    given = inputs(torch.float32)
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    assert far(graded(compiled, given, chunk=5), graded(plain, given)) < 1e-5


def test_what_is_fused_on_a_gpu_gives_the_same_numbers() -> None:
    scores, y = torch.randn(5, 7), torch.arange(5)
    fused = Fused(losses_and_slope, backend="aot_eager")
    for ours, theirs in zip(fused.compiled(scores, y, y > 1), losses_and_slope(scores, y, y > 1), strict=True):
        assert torch.allclose(ours, theirs)


def test_a_machine_that_cannot_compile_says_so_once(recwarn: pytest.WarningsRecorder) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("no compiler is here")

    torch._dynamo.reset()
    fused = Fused(torch.sin, backend=backend)
    x = torch.ones(3)
    assert torch.equal(fused.compiled(x), x.sin()) and torch.equal(fused(x), x.sin())
    assert [str(w.message) for w in recwarn if "torch.compile does not work here" in str(w.message)]
    with pytest.raises(RuntimeError, match="size"):  # an error of the function itself is not one of the compiler
        try:
            Fused(lambda a: a.view(7), backend="eager").compiled(x)
        except TorchDynamoException as error:
            raise RuntimeError(f"size {error}") from None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_add_product(dtype: torch.dtype) -> None:
    a, b, total = torch.randn(3, 5), torch.randn(5, 2), torch.randn(3, 2)
    expected = total + a.to(dtype).float() @ b.to(dtype).float()
    products.add_product(total, a.to(dtype), b.to(dtype))
    assert torch.allclose(total, expected, atol=1e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(1000, 64, generator=g).cuda(), torch.randn(5001, 64, generator=g).cuda() / 8
    y = torch.randint(5001, (1000,), generator=g).cuda()
    y[::7] = -100
    x, w = x.requires_grad_(), w.requires_grad_()
    expected = F.cross_entropy(x.double() @ w.double().T, y)
    exact = [expected, *torch.autograd.grad(expected, (x, w))]
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        value = linear_cross_entropy(x, w, y, chunk=300)
    ours = [value.detach(), *torch.autograd.grad(value, (x, w))]
    assert far(ours, exact) < (2e-5 if dtype == torch.float32 else 2e-2)
