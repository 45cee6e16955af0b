"""The choice of kernels, a pure function of a record: for GPUs that are not here, too."""

import pytest
import torch

from zoo.nn import CAUSAL, NO_MASK, PaddingMask, Prefix, Strided, Window
from zoo.nn.kernels import (
    AttentionCall,
    Capabilities,
    capabilities,
    check_scores,
    choose,
    missing_on_cuda,
    packed_window,
)

H100 = Capabilities("cuda", (9, 0), (2, 12))
T4 = Capabilities("cuda", (7, 5), (2, 12), missing_on_cuda((7, 5), "", True))
CPU = capabilities(torch.device("cpu"))
PATTERN = {"ragged": False, "pattern": True, "queries": 1024, "keys": 1024}
CALL = AttentionCall(torch.bfloat16, 8, 8, 64, 128, 128, ragged=True)


def test_a_record_is_made_once_and_says_what_is_missing():
    assert capabilities(torch.device("cpu")) is CPU and CPU.device == "cpu" and not CPU.has("varlen")
    assert missing_on_cuda((9, 0), "", True) == {}
    assert missing_on_cuda((7, 5), "", True)["varlen"] == "it needs compute capability 8.0, this GPU has 7.5"
    assert (
        missing_on_cuda((9, 0), "", False)["flex"] == "torch cannot compile here: the package triton is not installed"
    )
    assert missing_on_cuda((6, 0), "", True)["flex"].endswith("this GPU has 6.0")
    assert set(missing_on_cuda((9, 0), "ROCm", True)) == {"varlen", "flash", "cudnn"}
    assert set(missing_on_cuda((9, 0), "no flash", True)) == {"varlen", "flash"}


@pytest.mark.parametrize(
    ("record", "changes", "kernel", "reason"),
    [
        (CPU, {}, "groups", "equal length"),
        (H100, {}, "varlen", "without padding"),
        (H100, {"mask": CAUSAL & Window(8, 8)}, "varlen", "without padding"),
        (H100, {"dtype": torch.float32}, "padded", "not float32"),
        (H100, {"head_dim": 68}, "padded", "not 68"),
        (H100, {"head_dim": 264}, "padded", "not 264"),
        (H100, {"head_dim": 256, "grad": True}, "varlen", "without padding"),
        (Capabilities("cuda", (8, 9)), {"head_dim": 256, "grad": True}, "padded", "no backward pass"),
        (H100, {"bias": "fixed"}, "padded", "adds no position bias"),
        (H100, {"dropout": 0.1, "kv_heads": 2}, "varlen", "without padding"),
        (H100, {"mask": CAUSAL | Prefix(3)}, "padded", "causal or a window"),
        (T4, {}, "padded", "7.5"),
        (H100, {"ragged": False}, "sdpa", "fused"),
        (H100, PATTERN, "flex", "computed in the kernel"),
        (
            H100,
            PATTERN | {"dtype": torch.float32, "grad": True, "kv_heads": 2, "bias": "learned"},
            "flex",
            "in the kernel",
        ),
        (H100, PATTERN | {"keys": 1023}, "sdpa", "no flex: below 1024"),
        (H100, PATTERN | {"queries": 1}, "sdpa", "no flex: below 1024"),
        (H100, PATTERN | {"dropout": 0.1}, "sdpa", "no dropout"),
        (H100, PATTERN | {"head_dim": 257}, "sdpa", "not 257"),
        (H100, PATTERN | {"dtype": torch.float64}, "sdpa", "not float64"),
        (Capabilities("cuda", (6, 0), (2, 12), missing_on_cuda((6, 0), "", True)), PATTERN, "sdpa", "has 6.0"),
        (CPU, PATTERN | {"dtype": torch.float32}, "sdpa", "fused"),
        (CPU, {"ragged": False}, "plain", "half precision on a CPU"),
        (CPU, {"ragged": False, "queries": 513}, "sdpa", "fused"),
        (CPU, {"ragged": False, "dtype": torch.float32}, "sdpa", "fused"),
        (CPU, {"ragged": False, "dtype": torch.float32, "dropout": 0.1}, "plain", "dropout"),
        (CPU, {"ragged": False, "dtype": torch.float32, "bias": "learned"}, "plain", "learned"),
        (H100, {"ragged": False, "dtype": torch.float32, "bias": "learned"}, "sdpa", "fused"),
    ],
)
def test_choice(record, changes, kernel, reason):
    choice = choose(record, CALL._replace(**changes))
    assert choice.kernel == kernel and reason in choice.reason


def test_windows_of_packed_rows():
    assert packed_window(NO_MASK) == (-1, -1)
    assert packed_window(CAUSAL) == (-1, 0)
    assert packed_window(Window(5, 0)) == packed_window(CAUSAL & Window(5, 2)) == (5, 0)
    assert packed_window(Window(5, 2) & Window(3, 4)) == (3, 2)
    assert packed_window(Window(5, 2) & PaddingMask(torch.ones(1, 3))) is None
    assert packed_window(Window(2, 2) | Strided(4)) is None


def test_scores_are_written_out_up_to_a_limit():
    call = CALL._replace(ragged=False, queries=16384, keys=16384, head_dim=320)
    check_scores(call, 2, "math", "")  # 2 x 8 x 16,384 x 16,384 are the limit
    check_scores(call, 64, "flash", "")
    for kernel in ("math", "plain"):
        message = r"with 8 heads of 320 in bfloat16 and 3 rows, writes out 6,442,450,944 scores.*takes it here \(why\)"
        with pytest.raises(ValueError, match=message + r".*limit on a GPU is 4,294,967,296.*attention='local'"):
            check_scores(call, 3, kernel, "why")
