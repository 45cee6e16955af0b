"""Models of which only some layers are attention: generation, training and deployment take them, or refuse by name."""

from collections.abc import Iterator

import pytest
import torch
from decoder_peers import nano, prompt
from mixer_cases import SumOfRow
from text_peers import ragged

import zoo
from zoo.inference.generation.prompt_cache import PromptCache
from zoo.models.llama.mapping import write_qwen
from zoo.nn.kv_cache import RecurrentState
from zoo.nn.mixers.base import MIXERS
from zoo.nn.window_cache import WindowCache
from zoo.parallel.fsdp import shard
from zoo.tasks.lora import add_lora, merge_lora
from zoo.tasks.optimizer import param_groups

NEW = {"max_new_tokens": 12, "eos_token_id": None}
LOCAL = {"kind": "local", "window": 4}


@pytest.fixture(params=["gpt_nano", "llama_nano"])
def model(request: pytest.FixtureRequest) -> Iterator[zoo.Model]:
    zoo.register_mixer("sum_of_row", SumOfRow)
    yield nano(request.param, depth=4, mixer=["sum_of_row", "attention"], attention=[LOCAL, "softmax"])
    MIXERS.pop("sum_of_row")


def test_each_layer_has_a_cache_of_its_kind(model: zoo.Model) -> None:
    kinds = [type(layer.mixer).__name__ for layer in model.new_state(1)]
    assert kinds == ["RecurrentState", "KVCache"] * 2
    local = nano(depth=4, attention=[LOCAL, "softmax"]).new_state(1)
    assert [type(layer.mixer) is WindowCache for layer in local] == [True, False, True, False]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"temperature": 1.0, "seed": 1, "num_return_sequences": 2}])
def test_rows_of_padded_batches_generate_as_alone(model: zoo.Model, options: dict) -> None:
    batch = ragged((9, 4), vocab=61, side="left")
    found = zoo.generate(model, **batch, **NEW, **options)
    if not options.get("temperature"):
        alone = zoo.generate(model, batch["input_ids"][1:, 5:], **NEW, **options)
        assert torch.equal(found[1, 5:], alone[0])
    ids = found[:: options.get("num_return_sequences", 1)][:1]
    greedy = model(input_ids=ids[:, :-1])[:, 8:].argmax(-1)
    assert options or torch.equal(ids[:, 9:], greedy)


def test_drafts_are_refused_and_prompts_are_read_again(model: zoo.Model) -> None:
    assert isinstance(model.new_state(1)[0].mixer, RecurrentState)
    with pytest.raises(ValueError, match=r"RecurrentState is the state of a recurrence.*draft= needs"):
        zoo.generate(model, prompt(), draft=model, **NEW)
    cache, text = PromptCache(), prompt(1, length=20)
    other = text.clone()
    other[0, 10] += 1
    for ids in (text, other, text[:, :7]):
        assert torch.equal(zoo.generate(model, ids, cache=cache, **NEW), zoo.generate(model, ids, **NEW))


def test_graphs_are_for_modules_that_are_known(model: zoo.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.inference.generation import graph_decoding

    runs: list[int] = []
    run = graph_decoding.Decoding.run
    monkeypatch.setattr(graph_decoding.Decoding, "run", lambda self: (runs.append(1), run(self))[1])
    expected = zoo.generate(model, prompt(), **NEW)
    monkeypatch.setattr(graph_decoding, "DEVICE_TYPES", ("cpu",))
    monkeypatch.setattr(graph_decoding, "WORTH_RECORDING", 1)
    assert torch.equal(zoo.generate(model, prompt(), **NEW), expected)  # a module of others, which may run any code
    assert not runs
    monkeypatch.setattr(SumOfRow, "__module__", "zoo.nn.mixers.sum_of_row")
    assert torch.equal(zoo.generate(model, prompt(), **NEW), expected) and runs


def test_optimized_compiled_and_stored_models_compute_the_same(model: zoo.Model, tmp_path) -> None:
    batch = ragged((9, 4), vocab=61)
    expected = model(**batch)
    torch.testing.assert_close(zoo.optimize(model, dtype=torch.float32)(**batch), expected, atol=1e-4, rtol=0)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager")(**batch), expected, atol=1e-4, rtol=0)
    zoo.save(model, tmp_path / "saved")
    assert torch.equal(zoo.load(tmp_path / "saved")(**batch), expected)
    kernels = {layer.layer: layer.kernel for layer in zoo.kernels(model).layers}
    assert kernels["blocks.0.mixer"] == "SumOfRow" and kernels["blocks.1.mixer"] != "SumOfRow"


def test_exports_are_refused_by_name(model: zoo.Model, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"cannot express (mixer|attention)="):
        zoo.export(model, tmp_path / "theirs")


def test_gradients_checkpointing_decay_adapters_and_sharding(model: zoo.Model) -> None:
    batch, found = ragged((9, 4), vocab=61), []
    model.train()
    for model.blocks.checkpointing in (False, True):
        model.zero_grad()
        model(**batch).square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for kept, recomputed in zip(*found, strict=True):
        torch.testing.assert_close(kept, recomputed)
    model.blocks.checkpointing = False
    grouped = {id(p): group["weight_decay"] for group in param_groups(model, 1e-3, 0.1) for p in group["params"]}
    proj = model.blocks[0].mixer.proj
    assert len(grouped) == len(list(model.parameters()))
    assert grouped[id(proj.weight)] == 0.1 and (proj.bias is None or grouped[id(proj.bias)] == 0.0)
    assert callable(shard)
    model.eval()
    before = model(**batch)
    add_lora(model, 2)
    adapted = {name.rpartition(".lora_")[0] for name, p in model.named_parameters() if ".lora_" in name}
    assert adapted == {f"blocks.{i}.mixer.{part}" for i in (1, 3) for part in "qv"}
    torch.testing.assert_close(model(**batch), before)
    merge_lora(model)
    add_lora(model, 2, targets=["q", "v", "proj"])
    assert any(name.startswith("blocks.0.mixer.proj.lora_A") for name, _ in model.named_parameters())


def test_adapters_without_a_layer_to_adapt_are_refused(model: zoo.Model) -> None:
    recurrent = nano(mixer="sum_of_row")
    with pytest.raises(ValueError, match=r"no linear layer is named 'q'; the model has .*proj"):
        add_lora(recurrent, 2)


def test_lists_of_kinds_repeat_in_exported_settings() -> None:
    config = zoo.create_model("qwen2_0_5b", seed=0, depth=4, width=32, heads=4, kv_heads=2, mlp_dim=32, vocab_size=50,
                              head_dim=8, attention=["softmax", LOCAL]).config  # fmt: skip
    assert write_qwen(config)["layer_types"] == ["full_attention", "sliding_attention"] * 2
