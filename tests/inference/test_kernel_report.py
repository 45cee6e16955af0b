"""`zoo.kernels`: what computes the attention of each layer, and why."""

import pytest
import torch
from gpu_twin import choose_as_on_a_gpu
from torch import nn

import zoo
from zoo.inference.kernel_report import KernelReport, LayerKernel, ranges
from zoo.nn import Mixer, kernels
from zoo.nn.kernels import Capabilities, missing_on_cuda
from zoo.nn.registry import BUILT_IN, MIXERS

OPTIONS = dict(width=32, depth=3, heads=4, vocab_size=50, max_length=32)
PADDED = dict(
    input_ids=torch.ones(3, 9, dtype=torch.long),
    attention_mask=torch.tensor([[1] * 9, [1] * 4 + [0] * 5, [1] * 6 + [0] * 3]),
)


def rows(report: KernelReport) -> list[tuple[str, ...]]:
    return [tuple(part.strip() for part in line.split("  ") if part) for line in str(report).splitlines()[1:]]


def test_layers_that_are_equal_share_a_row() -> None:
    gpt = zoo.create_model("gpt2", attention=["softmax", "linear", "softmax"], **OPTIONS).eval()
    report = zoo.kernels(gpt)
    assert report.device == "cpu" and [layer.layer for layer in report.layers] == [
        f"blocks.{i}.mixer" for i in range(3)
    ]
    assert rows(report) == [
        ("blocks.0,2.mixer", "flash", "torch's fused kernels, with a causal mask"),
        ("blocks.1.mixer", "linear", "it computes its own attention"),
    ]
    assert ranges([0, 1, 2, 4, 6, 7]) == "0-2,4,6-7" and ranges([]) == ""
    report = KernelReport("cpu", (LayerKernel("mixer", "flash", "x"), LayerKernel("a.0.b", "math", "y")))
    assert str(report) == "attention on cpu:\nmixer  flash  x\na.0.b  math   y"


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_kind_is_reported(kind: str) -> None:
    """Also those whose cores get gates beside queries, keys and values, and with rows of different lengths."""
    bert = zoo.create_model("bert_base", attention=kind, **OPTIONS).eval()
    for report in (zoo.kernels(bert), zoo.kernels(bert, PADDED)):
        assert [layer.layer for layer in report.layers] == [f"blocks.{i}.mixer" for i in range(3)]


def test_a_model_in_training_is_looked_at_as_in_a_step() -> None:
    """And its random numbers stay those that it would have had."""
    gpt = zoo.create_model("gpt2", **OPTIONS)
    before = torch.random.get_rng_state()
    assert rows(zoo.kernels(gpt))[0][1:] == (
        "plain",
        "torch's fused kernel needs more memory for dropout and learned biases on a CPU",
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in gpt.modules())


def test_rows_of_different_lengths_on_a_cpu() -> None:
    bert = zoo.create_model("bert_base", **OPTIONS).eval()
    assert rows(zoo.kernels(bert, PADDED)) == [
        ("blocks.0-2.mixer", "flash", "rows of equal length at a time; torch's fused kernels, with no mask")
    ]


def test_rows_of_different_lengths_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    choose_as_on_a_gpu(monkeypatch, flash_takes=(torch.float32,))
    kinds = ["softmax", "longformer", "linear"]
    bert = zoo.create_model("bert_base", attention=kinds, **OPTIONS).eval()
    one, two, three = rows(zoo.kernels(bert, PADDED))
    assert one == ("blocks.0.mixer", "varlen", "rows packed without padding")
    assert two[2].startswith("rows padded for the attention alone, no varlen: its masks are causal or a window, not")
    assert three == (
        "blocks.2.mixer",
        "linear",
        "rows padded for the attention alone, no varlen: LinearAttention computes its own attention; it computes its "
        "own attention",
    )


def test_an_old_gpu_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Capabilities("cuda", (7, 5), missing=missing_on_cuda((7, 5), "", True))
    choose_as_on_a_gpu(monkeypatch, old, flash_takes=(torch.float32,))
    kernels.warn_once.cache_clear()
    bert = zoo.create_model("bert_base", **OPTIONS).eval()
    with pytest.warns(UserWarning, match=r"padded for attention, .* compute capability 8.0, this GPU has 7.5") as found:
        (row,) = rows(zoo.kernels(bert, PADDED))
        bert(**PADDED)
    assert len(found) == 1 and "this GPU has 7.5" in row[2]


class Mean(Mixer):
    def __init__(self, spec) -> None:
        super().__init__(spec)
        self.proj = nn.Linear(spec.width, spec.width)

    def forward(self, x, context, state=None):
        return self.proj(x).mean(1, keepdim=True).expand_as(x)


def test_mixers_have_no_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "mean", Mean)
    model = zoo.create_model("bert_base", mixer="mean", **OPTIONS).eval()
    assert rows(zoo.kernels(model)) == [("blocks.0-2.mixer", "Mean", "it has no attention weights")]


@pytest.mark.parametrize("name", ["vit_cifar_tiny", "clip_vit_base_patch32", "wav2vec2_tiny"])
def test_every_modality_has_an_example_batch(name: str) -> None:
    options = {"image.depth": 1, "text.depth": 1} if "clip" in name else dict(depth=1)
    assert all(layer.kernel == "flash" for layer in zoo.kernels(zoo.create_model(name, **options).eval()).layers)


def test_only_models_have_kernels() -> None:
    with pytest.raises(ValueError, match=r"expected a zoo.Model, given Linear"):
        zoo.kernels(nn.Linear(2, 2))  # type: ignore[arg-type]
