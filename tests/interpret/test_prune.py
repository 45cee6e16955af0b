"""`zoo.prune`: models without some heads compute what the whole ones do with these heads at zero."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peers import error, randomize
from torch import Tensor, nn

import zoo
from zoo.checkpoints.bridge import encoder_alone
from zoo.checkpoints.golden import named_outputs
from zoo.inference.cost import measure
from zoo.inference.cost_by_kind import cost_by_kind
from zoo.inference.word_times import kept_heads
from zoo.interpret.choose_heads import choose_in_all_layers, options_of
from zoo.models.base import Model
from zoo.models.example_batch import example_batch
from zoo.models.registry import family, family_names
from zoo.nn import Context, Core
from zoo.nn.core import CoreSpec
from zoo.nn.position_biases import ALiBi, BiasOfHeads, BiasView
from zoo.nn.pruned_heads import attention_layers
from zoo.parallel.tensor import TensorAttention

TINY = dict(width=32, depth=2, heads=4, mlp_dim=48)
TEXT = TINY | dict(vocab_size=50, max_length=64)
PAIRS = {"image.depth": 1, "text.depth": 1, "text.vocab_size": 50, "text.eos_token_id": 49}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert_tiny", TEXT),
    "llama": ("llama_nano", TEXT | dict(kv_heads=2)),
    "bigbird": ("bigbird_nano", TEXT | dict(block_size=2, num_random_blocks=1)),
    "longformer": ("longformer_nano", TEXT | dict(attention_window=4)),
    "t5": ("t5_nano", TEXT | dict(head_dim=8)),
    "vit": ("vit_cifar_tiny", TINY | dict(num_classes=3)),
    "clip": ("clip_tiny", PAIRS),
}
WITHOUT_HEADS = {"mamba", "mamba2", "rwkv", "retnet", "dvae", "rnn_seq2seq"}


def small(name: str, **more: Any) -> Model:
    """A small model of a family with random weights in float64."""
    own = family(name)
    variants = [variant for variant in own.variants if "nano" in variant or "tiny" in variant] or list(own.variants)
    variant, fields = SMALL.get(name, (variants[0], {}))
    return randomize(zoo.create_model(variant, seed=0, **fields | more)).double().eval()


def inputs(model: Model) -> dict[str, Any]:
    return {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in example_batch(model).items()}


def outputs(model: Model, **more: Any) -> Tensor:
    with torch.no_grad():
        return torch.cat([x.flatten() for x in named_outputs(model(**inputs(model) | more)).values()])


def some_heads(model: Model) -> dict[str, list[int]]:
    """Other heads of each layer, one layer whole."""
    keep = {}
    for number, (name, attention) in enumerate(attention_layers(model).items()):
        spec = attention.core.spec
        shared = spec.heads // spec.kv_heads
        keep[name] = [0, spec.heads - 1] if number % 3 == 0 and spec.heads > 1 else [max(0, shared - 1)]
    return {name: heads for number, (name, heads) in enumerate(keep.items()) if number != 2}


@contextmanager
def heads_at_zero(model: nn.Module, keep: Mapping[str, list[int]]) -> Iterator[None]:
    """All heads but these give zeros."""
    handles = []
    for name, attention in attention_layers(model).items():
        if name in keep:
            factors = torch.zeros(attention.core.spec.heads, attention.head_dim, dtype=torch.float64)
            factors[keep[name]] = 1.0
            hook = lambda _, args, f=factors: (args[0] * f.flatten(),)  # noqa: E731
            handles.append(attention.out.register_forward_pre_hook(hook))
    yield
    for handle in handles:
        handle.remove()


def check_pruned(model: Model, keep: Mapping[str, list[int]], **more: Any) -> Model:
    """The model without the other heads, after the comparison."""
    small_model = zoo.prune(model, keep)
    with heads_at_zero(model, keep):
        expected = outputs(model, **more)
    assert error(outputs(small_model, **more), expected) <= 1e-12
    assert error(outputs(model, **more), expected) > 1e-3, "the removed heads have no effect here"
    before, after = (sum(p.numel() for p in own.parameters()) for own in (model, small_model))
    assert after < before
    return small_model


@pytest.mark.parametrize("name", SMALL)
def test_the_same_numbers_as_with_the_heads_at_zero_and_after_loading(name: str, tmp_path: Path) -> None:
    model = small(name)
    more = {}
    if name == "bigbird":  # blocks enough to see some at random
        more = {"input_ids": torch.arange(3, 49)[None].expand(2, -1), "attention_mask": torch.ones(2, 46, dtype=int)}
    pruned = check_pruned(model, some_heads(model), **more)
    loaded = zoo.load(zoo.save(pruned, tmp_path / "pruned"))
    assert loaded.config == pruned.config
    assert error(outputs(loaded, **more), outputs(pruned, **more)) <= 1e-12
    assert zoo.verify(tmp_path / "pruned").ok


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in family_names() if name not in SMALL.keys() | WITHOUT_HEADS])
def test_every_other_family(name: str, tmp_path: Path) -> None:
    model = small(name)
    pruned = check_pruned(model, some_heads(model))
    loaded = zoo.load(zoo.save(pruned, tmp_path / "pruned"))
    assert loaded.config == pruned.config
    assert error(outputs(loaded), outputs(pruned)) <= 1e-12


@pytest.mark.parametrize("name", ["mamba", "dvae"])
def test_families_without_heads_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="Mamba, mixers" if name == "mamba" else "has no attention"):
        zoo.prune(small(name), {0: [0]})


def test_a_mixer_in_a_hybrid_is_refused_and_its_attention_pruned() -> None:
    model = small("bert", mixer=["s4d", "attention"])
    with pytest.raises(ValueError, match=r"blocks\.0\.mixer is a S4D, a mixer whose heads cannot be taken apart"):
        zoo.prune(model, {"blocks.0.mixer": [0]})
    check_pruned(model, {"blocks.1.mixer": [1, 2]})


@pytest.mark.parametrize("kind", ["additive", "performer", "gated_linear", "gated_delta"])
def test_kinds_with_parameters_for_each_head(kind: str) -> None:
    model = small("llama", attention=kind)
    check_pruned(model, {"blocks.0.mixer": [2, 3], "blocks.1.mixer": [1, 2]})


def test_tokens_are_generated_with_a_cache_of_the_heads_that_stay() -> None:
    ids = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(0))
    t5 = zoo.prune(small("t5", eos_token_id=None), {"decoder.*": [1, 3], "encoder.blocks.0.mixer": [0]})
    read = torch.zeros(2, 1, dtype=torch.long)
    for _ in range(5):
        with torch.no_grad():
            read = torch.cat([read, t5(input_ids=ids, decoder_input_ids=read)[:, -1:].argmax(-1)], 1)
    assert zoo.generate(t5, ids, max_new_tokens=5).tolist() == read.tolist()
    llama = zoo.prune(small("llama"), {0: [0, 1], 1: [1, 2]})
    read = ids
    for _ in range(5):
        with torch.no_grad():
            read = torch.cat([read, llama(input_ids=read)[:, -1:].argmax(-1)], 1)
    assert zoo.generate(llama, ids, max_new_tokens=5).tolist() == read.tolist()
    assert [state.mixer.k.shape[1] for state in llama.new_state(1)] == [1, 2]


def test_removed_in_two_steps_and_labels_and_report() -> None:
    model = small("vit")
    model.labels, model.temperature = ["a", "b", "c"], 2.0
    model.blocks[0].requires_grad_(False)
    once = zoo.prune(model, {0: [0, 3], 1: [1]})
    twice = zoo.prune(zoo.prune(model, {0: [0, 2, 3], 1: [0, 1]}), {0: [0, -1], 1: [1]})
    assert once.config.pruned_heads == {"blocks.0.mixer": (1, 2), "blocks.1.mixer": (0, 2, 3)}
    assert twice.config.pruned_heads == once.config.pruned_heads
    assert error(outputs(once), outputs(twice)) <= 1e-12
    assert (once.labels, once.temperature) == (model.labels, model.temperature)
    assert not once.blocks[0].mixer.q.weight.requires_grad
    assert "5 of 8 heads were removed, in 2 of 2 layers" in str(once.load_report)
    whole, part = measure(model), measure(once)
    assert part.parameters < whole.parameters and part.flops < whole.flops


def test_the_cost_of_a_kind_of_attention_is_that_of_the_heads_that_stay() -> None:
    model = small("bert", depth=4)
    whole, part = (cost_by_kind(own, 8, names=["softmax"])[0] for own in (model, zoo.prune(model, {3: [0]})))
    assert not part.refused and part.flops and whole.flops and part.flops < whole.flops


def test_it_is_trained_further() -> None:
    model = zoo.prune(small("llama"), {0: [0, 1]}).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    ids = torch.randint(3, 50, (4, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found[-1] < found[0] - 0.1
    assert model.blocks[0].mixer.q.weight.grad.abs().sum() > 0


# --- which heads stay -------------------------------------------------------------------------------------------------


def possible(spec: CoreSpec) -> list[tuple[int, ...]]:
    """All choices of heads under which groups stay equal."""
    shared, found = spec.heads // spec.kv_heads, []
    for number in range(1, spec.heads + 1):
        for heads in itertools.combinations(range(spec.heads), number):
            groups = [head // shared for head in heads]
            if len({groups.count(group) for group in groups}) == 1:
                found.append(heads)
    return found


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_heads_with_the_greatest_sum_stay(kv_heads: int) -> None:
    spec = CoreSpec(heads=4, kv_heads=kv_heads, head_dim=2)
    specs = {"a": spec, "b": spec}
    values = torch.randn(2, 4, generator=torch.Generator().manual_seed(kv_heads), dtype=torch.float64)
    scores = dict(zip("ab", values, strict=True))
    for number, (total, heads) in options_of(spec, values[0]).items():
        best = max(float(values[0][list(each)].sum()) for each in possible(spec) if len(each) == number)
        assert len(heads) == number and total == pytest.approx(best)
    for count in range(2, 9):
        chosen = choose_in_all_layers(specs, scores, count)
        pairs = [(a, b) for a in possible(spec) for b in possible(spec) if len(a) + len(b) <= count]
        most = max(len(a) + len(b) for a, b in pairs)
        best = max(float(values[0][list(a)].sum() + values[1][list(b)].sum()) for a, b in pairs
                   if len(a) + len(b) == most)  # fmt: skip
        assert sum(map(len, chosen.values())) == most
        assert sum(float(scores[name][list(heads)].sum()) for name, heads in chosen.items()) == pytest.approx(best)


def test_a_number_or_a_fraction_of_all_heads_or_of_each_layer() -> None:
    model = small("bert")
    scores = torch.tensor([[9.0, 8, 7, 6], [1, 4, 3, 2]])
    removed = [zoo.prune(model, keep, importance=scores, per_layer=each).config.pruned_heads
               for keep, each in ((5, False), (0.5, True), (1, True), (1.0, False))]  # fmt: skip
    assert removed[0] == {"blocks.1.mixer": (0, 2, 3)}
    assert removed[1] == {"blocks.0.mixer": (2, 3), "blocks.1.mixer": (0, 3)}
    assert removed[2] == {"blocks.0.mixer": (1, 2, 3), "blocks.1.mixer": (0, 2, 3)}
    assert removed[3] is None
    only = zoo.prune(model, 2, importance={"blocks.1.mixer": [1.0, 4, 3, 2]})
    with pytest.raises(ValueError, match="the part of the model with scores has 4 heads"):
        zoo.prune(model, 5, importance={"blocks.1.mixer": [1.0, 4, 3, 2]})
    assert only.config.pruned_heads == {"blocks.1.mixer": (0, 3)}


SCORES = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("keep", "importance", "message"),
    [
        ({0: [4]}, None, "has 4 heads, from 0 to 3, and no head 4"),
        ({0: []}, None, "would have no heads: a layer keeps at least one of its 4 heads"),
        ({7: [0]}, None, "no block with this number"),
        ({"blocks.0.mixr": [0]}, None, "did you mean 'blocks.0.mixer'"),
        ({0: [1, 1]}, None, "names a head twice"),
        ({0: "a"}, None, "expected the numbers of heads"),
        ({0: 1, "blocks.0.mixer": 0}, None, "name each layer once"),
        ({0: 1}, SCORES, "omit importance="),
        (0.5, None, "importance=zoo.head_importance"),
        ("half", SCORES, "a number of heads, or a fraction"),
        (0, SCORES, "expected a number from 2 to 8"),
        (1.5, SCORES, "expected a number from 2 to 8"),
        (0.1, SCORES, r"keep=0.1 \(1 heads\)"),
        (0.5, SCORES[:, :3], "scores of another model"),
        (0.5, SCORES[:1], "2 layers of attention"),
        (0.5, {"encoder.blocks.0.mixer": [1.0] * 4}, "which this model does not have"),
        (0.5, {"blocks.0.mixer": [1.0] * 5}, "has 4 heads: these are scores of another model"),
        (0.5, SCORES * torch.nan, "not finite"),
    ],
)
def test_what_cannot_be_removed_is_named(keep: Any, importance: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.prune(small("bert"), keep, importance=importance)


def test_groups_stay_equal() -> None:
    with pytest.raises(ValueError, match="2 of group 0, 1 of group 1: keep equally many query heads"):
        zoo.prune(small("llama"), {0: [0, 1, 2]})


def test_other_models_are_refused(tmp_path: Path) -> None:
    model = small("bert")
    with pytest.raises(ValueError, match="unwrap it first"):
        zoo.prune(nn.DataParallel(model), {0: [0]})  # type: ignore[arg-type]
    adapted: Any = copy.deepcopy(model)
    adapted.blocks[0].mixer.q = nn.Sequential(adapted.blocks[0].mixer.q)
    with pytest.raises(ValueError, match="merge adapters"):
        zoo.prune(adapted, {0: [0]})
    pruned = zoo.prune(model, {0: [0]})
    with pytest.raises(ValueError, match=r"no other library has a field for the heads .* format=\"onnx\""):
        zoo.export(pruned, tmp_path / "peer")
    assert not (tmp_path / "peer").exists()
    with pytest.raises(ValueError, match="convert the whole model"):
        zoo.to_gqa(pruned, 1)


def test_configs_that_name_other_layers_or_heads_are_refused() -> None:
    for heads, message in (
        ({"blocks.9.mixer": (0,)}, "no attention called 'blocks.9.mixer'"),
        ({"blocks.0.mixer": (4,)}, "no head 4"),
        ({"blocks.0.mixer": (0, 1, 2, 3)}, "would have no heads"),
        ({"blocks.0.mixer": (1, 0)}, "increasing numbers"),
        ({"blocks.0.mixer": "0"}, "increasing numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            zoo.create_model("bert_tiny", **TEXT | {"pruned_heads": heads})


def test_configs_of_whole_models_are_those_of_earlier_folders() -> None:
    config = zoo.create_model("bert_tiny", **TEXT).config
    fields = config.to_dict()
    assert "pruned_heads" not in fields and type(config).from_dict(fields) == config


class TalkingHeads(Core):
    """A core whose heads read each other."""

    def weights(self, q: Tensor, k: Tensor, mask: Any = None, bias: Any = None) -> Tensor:
        scores = self.scores(q, k, mask, bias)
        return (scores + scores.mean(1, keepdim=True)).softmax(-1)


class Squared(Core):
    """A core of separate heads."""

    def weights(self, q: Tensor, k: Tensor, mask: Any = None, bias: Any = None) -> Tensor:
        weights = self.scores(q, k, mask, bias).exp().square()
        return weights / weights.sum(-1, keepdim=True)


def test_custom_kinds_whose_heads_read_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="the heads of TalkingHeads read each other"):
        zoo.prune(small("bert", attention=TalkingHeads), {0: [0]})
    check_pruned(small("bert", attention=Squared), {"blocks.0.mixer": [0, 2]})


# --- parts of it ------------------------------------------------------------------------------------------------------


def test_the_bias_of_some_heads() -> None:
    view = BiasView(ALiBi(4))
    some = BiasOfHeads.of(view, (1, 3))
    expected = view.dense(5, 7)[:, [1, 3]]
    torch.testing.assert_close(some.dense(5, 7), expected)
    b, h, q, k = torch.meshgrid(*(torch.arange(n) for n in (1, 2, 5, 7)), indexing="ij")
    torch.testing.assert_close(some.on_device(7, "cpu")(b, h, q + 2, k), expected)
    torch.testing.assert_close(some(b, h, q + 2, k), expected)
    assert (some.heads, some.batch) == (2, 1)


def test_tensor_parallel_refuses_biases_of_some_heads() -> None:
    attention: Any = SimpleNamespace(tensor_group=None, region=None, kept_heads=(1,))
    with pytest.raises(ValueError, match="set tensor=1"):
        TensorAttention.forward(attention, torch.zeros(1, 2, 4), Context(bias=ALiBi(4)))


def test_whisper_keeps_its_alignment_heads_and_its_encoder() -> None:
    model: Any = small("whisper")
    pruned: Any = zoo.prune(model, {"decoder.blocks.0.cross": [1, 3], "encoder.blocks.0.mixer": [2]})
    assert kept_heads(pruned, [(0, 0), (0, 3), (1, 2)]) == [(0, 1), (1, 2)]
    assert encoder_alone(pruned).config.pruned_heads == {"encoder.blocks.0.mixer": (0, 1, 3)}


@pytest.mark.full
def test_it_is_exported_to_onnx(tmp_path: Path) -> None:
    pruned = zoo.prune(small("bert").float(), {0: [0], 1: [1, 2]})
    assert (zoo.export(pruned, tmp_path / "onnx", "onnx") / "model.onnx").exists()
