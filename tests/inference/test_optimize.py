"""`zoo.optimize`: the same numbers, a model that cannot be misused, nothing optimized in silence that should not be."""

import copy
import cProfile
import threading

import pytest
import torch
from kernel_timers import fastest
from torch import nn
from torch.nn.utils import prune

import zoo
from zoo.inference import optimize as optimize_file
from zoo.inference.packed_linear import OneDNNLinear
from zoo.nn.mlp import MLP


@pytest.fixture(autouse=True)
def onednn_is_fastest(monkeypatch):
    """So that the layers are replaced, whatever the CPU of the tests."""
    fastest(monkeypatch, "onednn", "transposed")


def small(**overrides):
    fields = dict(image_size=48, patch_size=16, width=192, depth=2, heads=3, num_classes=7) | overrides
    model = zoo.create_model("vit_tiny_patch16_224", seed=0, **fields)
    torch.manual_seed(1)
    for p in model.parameters():
        p.data.add_(torch.randn_like(p) * 0.05)
    return model.eval()


def pixels(model, batch=3):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, model.config.in_chans, *model.patches.image_size, generator=generator)


def error(a, b):
    return float((a - b).abs().max() / max(1.0, float(b.abs().max())))


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"act": "gelu_tanh"},
        {"act": "quick_gelu"},
        {"act": "silu", "gated_mlp": True},
        {"kv_heads": 1},
        {"attention": "performer"},
        {"layer_scale": 0.1, "distilled": True},
        {"stem": "conv"},
        {"head": None},
        {"qkv_bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", ["many", "one"])
def test_same_numbers_in_float32(overrides, rows):
    model = small(**overrides)
    x = pixels(model)
    with torch.no_grad():
        assert error(zoo.optimize(model, rows=rows)(x), model(x)) <= 1e-5


def test_inputs_are_cast_to_bfloat16_and_outputs_to_float32():
    model = small()
    fast = zoo.optimize(model, dtype=torch.bfloat16)
    x = pixels(model)
    y = fast(pixel_values=x)
    assert y.dtype == torch.float32
    assert fast.encode(x).dtype == torch.float32
    with torch.no_grad():
        assert 0 < error(y, model(x)) < 0.1
    assert fast.config == model.config


def test_the_original_is_untouched():
    model = small()
    before = copy.deepcopy(model.state_dict())
    training = model.train().training
    zoo.optimize(model, dtype=torch.bfloat16)(pixels(model))
    assert model.training == training
    dropping = small(dropout=0.5, attention_dropout=0.5).train()
    fast, x = zoo.optimize(dropping), pixels(dropping)
    assert error(fast(x), dropping.eval()(x).detach()) <= 1e-5
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_all_layers_are_replaced_by_faster_ones():
    fast = zoo.optimize(small())
    assert OneDNNLinear in {type(m) for m in fast.modules()}
    assert not any(isinstance(m, nn.Linear | nn.Conv2d) for m in fast.modules())


def test_training_and_saving_are_refused():
    fast = zoo.optimize(small())
    with pytest.raises(ValueError, match="for inference only"):
        fast.train()
    with pytest.raises(ValueError, match="save the model it was made from"):
        fast.state_dict()
    with pytest.raises(ValueError, match="optimized already"):
        zoo.optimize(fast)
    assert not fast(pixels(fast)).requires_grad


@pytest.mark.parametrize("how", ["step", "load", "assign", "two", "head", "layer", "weight norm"])
def test_stale_weights_are_noticed(how):
    model = small()
    fast = zoo.optimize(model)
    x = pixels(model)
    fast(x)
    if how == "step":
        model(x).sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    elif how == "head":
        model.reset_head(3)
    elif how == "layer":
        layer = model.blocks[0].mlp
        layer.up = nn.Sequential(layer.up, nn.Identity())  # as an adapter: the weight is still in use
    elif how == "weight norm":
        nn.utils.parametrizations.weight_norm(model.blocks[0].mlp.up)
    for _ in range({"load": 1, "assign": 1, "two": 2}.get(how, 0)):  # a third weight may have the id of the first
        model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}, assign=how != "load")
    with pytest.raises(RuntimeError, match=r"call zoo\.optimize again"):
        fast(x)


def test_tied_weights_remain_one_tensor():
    model = zoo.create_model("gpt_nano", seed=0).eval()
    assert model.config.tie_word_embeddings
    fast = zoo.optimize(model, dtype=torch.bfloat16, choices=everything_plain(model))
    assert fast.head.proj.weight is fast.tokens.word.weight and fast.head.proj.weight.dtype == torch.bfloat16


def everything_plain(model):
    report = zoo.optimize(model, dtype=torch.bfloat16).optimize_report
    report.choices = {key: dict.fromkeys(chosen, "plain") for key, chosen in report.choices.items()}
    return report


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        model = small()
        x = pixels(model)
        assert error(zoo.optimize(model)(x), model(x)) <= 1e-5


def test_it_lives_on_when_the_original_is_gone():
    model = small()
    x = pixels(model)
    with torch.no_grad():
        expected = model(x)
    fast = zoo.optimize(model)
    del model
    assert error(fast(x), expected) <= 1e-5


def test_layers_that_are_more_than_a_weight_are_called_and_named():
    model = small()
    model.blocks[0].mixer.q.register_forward_hook(lambda module, args, y: y * 2)
    with pytest.warns(UserWarning, match=r"blocks\.0\.mixer\.q"):
        fast = zoo.optimize(model)
    x = pixels(model)
    with torch.no_grad():
        assert error(fast(x), model(x)) <= 1e-5


def test_wrong_options():
    with pytest.raises(ValueError, match="rows='few'"):
        zoo.optimize(small(), rows="few")
    with pytest.raises(ValueError, match="int8"):
        zoo.optimize(small(), dtype=torch.int8)


def test_several_threads_may_call_an_optimized_model():
    model, wrong = small(), []
    fast, x = zoo.optimize(model, dtype=torch.bfloat16), pixels(model)
    expected = fast(x)
    inside, release = threading.Event(), threading.Event()

    def wait(module, args):
        if threading.current_thread() is other:
            inside.set()
            release.wait(10)

    fast.blocks[0].register_forward_pre_hook(wait)
    other = threading.Thread(target=lambda: wrong.append(not torch.equal(fast(x), expected)))
    other.start()
    assert inside.wait(10)
    y = fast(x)  # while the other thread is inside of its call
    release.set()
    other.join()
    assert y.dtype == torch.float32 and torch.equal(y, expected) and wrong == [False]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_dtype_is_that_of_optimize_and_not_that_of_autocast(dtype):
    model = small()
    fast, x = zoo.optimize(model, dtype=dtype), pixels(model)
    with torch.autocast("cpu", torch.bfloat16):
        again = zoo.optimize(model, dtype=dtype)
        assert torch.equal(fast(x), again(x))
    assert torch.equal(fast(x), again(x))


def test_the_tanh_form_of_gelu_is_a_choice(monkeypatch):
    model = small()
    plain = zoo.optimize(model, dtype=torch.bfloat16)
    assert "gelu by" not in str(plain.optimize_report)
    monkeypatch.setattr(optimize_file, "why_not_approximated", lambda device, dtype: None)
    fast = zoo.optimize(model, dtype=torch.bfloat16, approximate_gelu=True)
    assert "gelu by its tanh form, up to 4.8e-4 from the exact one" in str(fast.optimize_report)
    assert any(key.startswith("linear 192 -> 768, gelu_tanh") for key in fast.optimize_report.choices)
    assert {mlp.act_name for mlp in fast.modules() if isinstance(mlp, MLP)} == {"gelu_tanh"}
    assert {mlp.act_name for mlp in model.modules() if isinstance(mlp, MLP)} == {"gelu"}
    x = pixels(model)
    with torch.no_grad():
        expected = model(x)
    assert 0 < error(fast(x), plain(x)) <= 0.02 and error(fast(x), expected) <= 0.05
    with pytest.raises(zoo.LoadError, match="is of another model"):  # choices know which form they are for
        zoo.optimize(model, dtype=torch.bfloat16, choices=fast.optimize_report)
    with pytest.warns(UserWarning, match="because no MLP has an exact GELU"):
        fast = zoo.optimize(small(act="gelu_tanh"), dtype=torch.bfloat16, approximate_gelu=True)
    assert "gelu as created: no MLP has an exact GELU" in str(fast.optimize_report)


def test_where_the_tanh_form_is_not_used():
    model = small()
    with pytest.warns(UserWarning, match="nothing is approximated, because .* on CUDA, and the model is on 'cpu'"):
        fast = zoo.optimize(model, dtype=torch.bfloat16, approximate_gelu=True)
    assert torch.equal(fast(pixels(model)), zoo.optimize(model, dtype=torch.bfloat16)(pixels(model)))
    cuda = torch.device("cuda")
    assert optimize_file.why_not_approximated(cuda, torch.bfloat16) is None
    assert "the dtype is torch.float16" in optimize_file.why_not_approximated(cuda, torch.float16)


def test_the_machine_of_a_report(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    assert optimize_file.machine(torch.device("cuda")) == f"a card, torch {torch.__version__}"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert optimize_file.machine(torch.device("cpu")).endswith(f", 3 threads, torch {torch.__version__}")


def test_a_launched_call_enters_no_more_functions_than_the_model_as_created():
    model = zoo.create_model("bert_tiny", seed=0, width=64, depth=12, heads=4, vocab_size=99).eval()
    fast = zoo.optimize(model, choices=None)
    ids = torch.randint(5, 99, (1, 8))

    def entered(m):
        with torch.inference_mode():
            for _ in range(2):
                profile = cProfile.Profile()
                profile.runcall(m, input_ids=ids)
        return sum(entry.callcount for entry in profile.getstats())

    assert entered(fast) <= entered(model) + 40  # casts, contexts and the check of the weights


@pytest.mark.gpu
def test_the_tanh_form_on_a_gpu():
    model = small().to("cuda")
    x = pixels(model).to("cuda")
    with torch.no_grad():
        expected = model(x)
    report = zoo.optimize(model, dtype=torch.bfloat16, approximate_gelu=True).optimize_report
    (key,) = (key for key in report.choices if "gelu_tanh" in key)
    for name in ("plain", "cublaslt"):
        report.choices[key] = {4096: name}
        fast = zoo.optimize(model, dtype=torch.bfloat16, approximate_gelu=True, choices=report)
        for _ in range(6):  # launched, then by a graph
            assert error(fast(x), expected) <= 0.05


def test_double_precision_is_kept():
    model = small().double()
    x = pixels(model).double()
    y = zoo.optimize(model)(x)
    assert y.dtype == torch.float64 and error(y, model(x).detach()) <= 1e-12


def test_a_pruned_layer_stays_pruned():
    model = small()
    prune.l1_unstructured(model.blocks[0].mlp.down, "weight", 0.5)
    with pytest.warns(UserWarning, match=r"blocks\.0\.mlp\.down"):
        fast = zoo.optimize(model)
    x = pixels(model)
    with torch.no_grad():
        assert error(fast(x), model(x)) <= 1e-5
