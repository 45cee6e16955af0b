"""The gradients of a bfloat16 convolution are finite whatever lies in freed memory, on CPUs with AMX, too."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from zoo.nn.frontends import waveform
from zoo.nn.frontends.waveform import ConvLayer, ConvPositions
from zoo.training.devices import best_precision
from zoo.training.recipes.config import CTCSettings
from zoo.training.result import DatasetInfo
from zoo.training.run import Run
from zoo.utils.cpu_features import CPUFeatures

with_amx = pytest.mark.skipif(not CPUFeatures.detect().amx, reason="the fault is of oneDNN on CPUs with AMX")
SIZES = [64, 128, 300, 700, 1500, 3000, 6000, *(1 << n for n in range(13, 22))]


def poison() -> None:
    """Fill memory that is freed at once with NaN."""
    blocks = [torch.full((random.choice(SIZES),), float("nan"), dtype=torch.bfloat16) for _ in range(60)]
    del blocks


def bad_gradients(layer: nn.Module, shape: tuple[int, ...], calls: int = 10) -> int:
    """In how many backward passes a gradient of the layer is not finite."""
    random.seed(0)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = 0
    for _ in range(calls):
        layer.zero_grad()
        poison()
        y = layer(x)
        poison()
        y.float().square().mean().backward()
        found += not all(parameter.grad.isfinite().all() for parameter in layer.parameters())
    return found


def conv_layer() -> ConvLayer:
    torch.manual_seed(0)
    return ConvLayer((64, 128), 4, 2, bias=True, norm=None, act="gelu")


def positions() -> ConvPositions:
    layer = ConvPositions(128, 32, 8, "gelu")
    with torch.no_grad():
        layer.initialize(lambda name: torch.Generator().manual_seed(0))
    return layer


@with_amx
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="oneDNN reads scratch memory that it never wrote")
def test_convolution_of_torch() -> None:
    """The smallest case. If it is fixed in torch, `CPUFeatures.amx` and what depends on it can go."""
    torch.manual_seed(0)
    assert bad_gradients(nn.Conv1d(64, 128, 4, 2, bias=False, dtype=torch.bfloat16), (16, 64, 381)) == 0


@with_amx
@pytest.mark.parametrize(("make", "shape"), [
    (conv_layer, (16, 64, 381)),
    (positions, (8, 95, 128)),
    (lambda: nn.Conv2d(3, 192, 4, 4), (32, 3, 32, 32)),
    (lambda: nn.Conv2d(48, 96, 3, 2, 1, bias=False), (32, 48, 16, 16)),
    (lambda: nn.Linear(192, 768), (32, 65, 192)),
])  # fmt: skip
def test_layers_of_the_models(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    assert bad_gradients(make().to(torch.bfloat16), shape) == 0


# --- on any CPU, as on one with AMX -----------------------------------------------------------------------------------

AMX = CPUFeatures(bf16=True, amx=True)


class Convolutions(TorchDispatchMode):
    """The types in which convolutions are computed, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in str(func):
            self.dtypes |= {x.dtype for x in args if isinstance(x, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("autocast", [True, False])
def test_waveforms_are_convolved_in_float32(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waveform, "CPU", AMX)
    layer, x = conv_layer(), torch.randn(4, 64, 99, requires_grad=True)
    exact = F.gelu(F.conv1d(x, layer.conv.weight, layer.conv.bias, 2))
    exact.sum().backward()
    expected = [x.grad, layer.conv.weight.grad, layer.conv.bias.grad]
    if not autocast:
        layer = layer.to(torch.bfloat16)
    other = x.detach().to(torch.float32 if autocast else torch.bfloat16).requires_grad_()
    layer.zero_grad()
    with Convolutions() as seen, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = layer(other)
        y.float().sum().backward()
    assert seen.dtypes == {torch.float32} and y.dtype == torch.bfloat16
    assert (y - exact).abs().max() < 0.02 * exact.abs().max()
    for found, right in zip((other.grad, layer.conv.weight.grad, layer.conv.bias.grad), expected, strict=True):
        assert (found - right).norm() < 0.02 * right.norm()


def test_inference_and_other_cpus_stay_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = conv_layer().to(torch.bfloat16), torch.randn(4, 64, 99, dtype=torch.bfloat16)
    monkeypatch.setattr(waveform, "CPU", CPUFeatures(bf16=True, amx=False))
    with Convolutions() as seen:
        layer(x).float().sum().backward()
    assert seen.dtypes == {torch.bfloat16}
    monkeypatch.setattr(waveform, "CPU", AMX)
    with Convolutions() as seen, torch.no_grad():
        layer(x)
    assert seen.dtypes == {torch.bfloat16}


def speech() -> zoo.Model:
    return zoo.create_model("wav2vec2_tiny", width=32, depth=1, heads=2, position_kernel=8, position_groups=2, seed=0)


def images() -> zoo.Model:
    return zoo.create_model("vit_cifar_tiny", width=32, depth=1, heads=2, seed=0)


@pytest.mark.parametrize(("cpu", "of_speech", "of_images"), [
    (CPUFeatures(bf16=True, amx=True), "fp32", "bf16"),
    (CPUFeatures(bf16=True, amx=False), "bf16", "bf16"),
    (CPUFeatures(bf16=False, amx=False), "fp32", "fp32"),
])  # fmt: skip
def test_the_default_precision(
    cpu: CPUFeatures, of_speech: str, of_images: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CPUFeatures, "detect", lambda: cpu)
    assert best_precision("cpu", speech()) == of_speech
    assert best_precision("cpu", images()) == best_precision("cpu") == of_images


def test_a_run_takes_the_default_of_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CPUFeatures, "detect", lambda: AMX)
    data = DatasetInfo("tones", False, "test", 8, 8)
    found = []
    for words in ([], ["precision=bf16"]):
        run = Run.of("tiny", ["accelerator=cpu", f"run_dir={tmp_path / str(len(words))}", *words], CTCSettings)
        run.open(data, speech())
        found.append(run.config.trainer.precision)
        run.folder.release()
    assert found == ["fp32", "bf16"]  # bf16 is right, too: the convolutions alone stay in float32


@pytest.mark.parametrize(("limit", "amx"), [("AVX512_CORE_BF16", False), ("DEFAULT", True), ("AVX512_CORE_AMX", True)])
def test_the_library_may_be_limited(limit: str, amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert CPUFeatures.detect().amx == amx
