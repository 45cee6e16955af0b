"""muP: activations change by the same amount at every width, and each weight has the rate of its kind."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from ranks import ranks
from tiny_run import tiny_run
from torch import Tensor, nn

import zoo
from zoo.parallel import Plan
from zoo.parallel.place import parallelize
from zoo.tasks import CausalLMTask, adamw, initialize_mup, mup_rates, mup_scales, param_groups
from zoo.tasks.config import OptimSettings
from zoo.tasks.mup import describe_mup
from zoo.training.run_dir import differences

BASE = 16
TEXT = dict(vocab_size=12, max_length=16, depth=2)


def model_of(name: str, width: int, mup: bool = True, **fields: Any) -> Any:
    """A new model of heads of size 8, in training mode."""
    sizes = dict(width=width, heads=width // 8, mlp_dim=4 * width) | fields
    model = zoo.create_model(name, seed=0, **sizes).train()
    if mup:
        initialize_mup(model, BASE)
    return model


def optimizer_of(model: Any, mup: bool, lr: float = 0.02) -> torch.optim.Optimizer:
    return adamw(param_groups(model, lr, 0.0, scales=mup_rates(model, BASE) if mup else None), eps=1e-20)


def batch_of(model: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Random inputs and labels."""
    generator = torch.Generator().manual_seed(0)
    if model.inputs[0] == "pixel_values":
        pixels = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
        return {"pixel_values": pixels}, torch.randint(0, 10, (6,), generator=generator)
    ids = torch.randint(0, 12, (4, 9), generator=generator)
    inputs = {"input_ids": ids[:, :-1]}
    return inputs | ({"decoder_input_ids": ids[:, :-1]} if "decoder_input_ids" in model.inputs else {}), ids[:, 1:]


def changes(name: str, width: int, mup: bool, **fields: Any) -> list[float]:
    """By how much three steps change the outputs of the blocks and the scores: roots of the mean square."""
    model = model_of(name, width, mup, **fields).double()
    optimizer, (inputs, labels) = optimizer_of(model, mup), batch_of(model)
    blocks = (model.decoder if hasattr(model, "decoder") else model).blocks
    seen: dict[int, Tensor] = {}
    for i, block in enumerate(blocks):
        block.register_forward_hook(lambda _, __, y, i=i: seen.__setitem__(i, y.detach()))
    found = []
    for _ in range(4):
        logits = model(**inputs)
        found.append([*seen.values(), logits.detach()])
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [float((after - before).square().mean().sqrt()) for before, after in zip(found[0], found[-1], strict=True)]


@pytest.mark.parametrize(("name", "fields"), [
    ("gpt_nano", TEXT),
    ("gpt_nano", TEXT | dict(tie_word_embeddings=False)),
    ("vit_cifar_tiny", dict(image_size=8, patch_size=4, depth=2, num_classes=10)),
], ids=["shared embeddings", "own head", "images"])  # fmt: skip
def test_activations_do_not_grow_with_the_width(name: str, fields: dict[str, Any]) -> None:
    """The coordinate check of the paper (appendix D.1), in float64, from one width to 4 times of it."""
    narrow, wide, plain = (
        changes(name, width, mup, **fields) for width, mup in ((32, True), (128, True), (128, False))
    )
    assert all(0.6 * one < other < 1.4 * one for one, other in zip(narrow, wide, strict=True))
    assert all(without > 3 * one for one, without in zip(narrow[:-1], plain[:-1], strict=True))
    assert plain[-1] > 1.5 * narrow[-1]


def kinds(name: str, **fields: Any) -> dict[str, tuple[str, float, float]]:
    """The kind, rate and initial factor of parameters by their names without numbers; inputs are left out."""
    scales = mup_scales(zoo.create_model(name, seed=0, **fields), BASE)
    return {re.sub(r"\d+", "N", key): tuple(one) for key, one in scales.items() if one != ("input", 1.0, 1.0)}  # type: ignore[misc]


QKVO = [f"blocks.N.mixer.{name}.weight" for name in ("q", "k", "v", "out")]
MLP = ["blocks.N.mlp.up.weight", "blocks.N.mlp.down.weight"]
WIDTH = dict(width=64, depth=2)


@pytest.mark.parametrize(("name", "fields", "hidden", "others"), [
    ("vit_cifar_tiny", WIDTH | dict(heads=2), [*QKVO, *MLP, "patches.proj.N.weight"],
     {"head.proj.weight": ("output", 1 / 4, 1 / 2)}),
    ("bert_tiny", WIDTH, [*QKVO, *MLP, "head.dense.weight"],
     {"head.norm.weight": ("output", 1 / 4, 1 / 4), "head.norm.bias": ("output", 1 / 4, 1 / 4)}),
    ("wav2vec2_tiny", WIDTH | dict(heads=2, head="ctc", position_groups=2), [*QKVO, *MLP, "waves.positions.direction"],
     {"head.proj.weight": ("output", 1 / 4, 1 / 2)}),
    ("mamba_130m", WIDTH | dict(vocab_size=12),
     [f"blocks.N.mixer.{part}.weight" for part in ("in_proj", "x_proj", "dt_proj", "out_proj")],
     {"blocks.norm.weight": ("output", 1 / 4, 1 / 4)}),
    # word embeddings times sqrt(width), which the output layer shares; one key and value head for all
    ("gemma_2b", WIDTH | dict(vocab_size=12, heads=4, head_dim=16, mlp_dim=96),
     [*QKVO, *MLP, "blocks.N.mlp.gate.weight"],
     {"tokens.word.weight": ("input", 1 / 2, 1.0), "blocks.norm.weight": ("output", 1 / 2, 1 / 2)}),
    # scores times 1 / sqrt(width)
    ("t5_nano", dict(width=64, vocab_size=12),
     [f"{side}.{part}" for side in ("encoder", "decoder") for part in (*QKVO, *MLP)]
     + [part.replace("mixer", "cross").replace("blocks", "decoder.blocks") for part in QKVO],
     {"decoder.blocks.norm.weight": ("output", 1 / 2, 1 / 2)}),
])  # fmt: skip
def test_kinds_of_weights(name: str, fields: dict[str, Any], hidden: list[str], others: dict[str, Any]) -> None:
    """At 4 times the base width."""
    assert kinds(name, **fields) == dict.fromkeys(hidden, ("hidden", 1 / 4, 1.0)) | others


def test_each_tower_has_its_own_ratio() -> None:
    found = kinds("siglip_tiny", **{"image.width": 192, "image.heads": 3, "text.width": 64})
    assert found["image.blocks.N.mlp.up.weight"] == ("hidden", 1 / 12, 1.0)
    assert found["text.blocks.N.mlp.up.weight"] == ("hidden", 1 / 4, 1.0)
    assert found["text_proj.weight"] == ("hidden", 1 / 4, 1.0)  # the shared space has the width of the image tower
    assert found["image.head.probe"] == ("input", 1.0, pytest.approx(12**0.5))  # begins with width ** -0.5


def test_shared_embeddings_train_as_with_a_factor_of_the_scores() -> None:
    """The gain of the last norm takes the factor 1 / r of the scores, with its rate (table 8 of the paper)."""
    losses = []
    for explicit in (False, True):
        model = model_of("gpt_nano", 64, mup=not explicit, **TEXT).double()
        rates = {name: scale.lr for name, scale in mup_scales(model, BASE).items()}
        if explicit:
            rates |= {"blocks.norm.weight": 1.0, "blocks.norm.bias": 1.0}
            model.head.register_forward_hook(lambda _, __, logits: logits / 4)
        optimizer = adamw(param_groups(model, 0.02, 0.1, scales=rates), eps=1e-20)
        inputs, labels = batch_of(model)
        for _ in range(4):
            loss = F.cross_entropy(model(**inputs).flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:4] == pytest.approx(losses[4:], rel=1e-10) and losses[3] < losses[0]


def test_the_base_width_itself_trains_as_without() -> None:
    model, plain = model_of("gpt_nano", BASE, **TEXT), model_of("gpt_nano", BASE, mup=False, **TEXT)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert set(mup_rates(model, BASE).values()) == {1.0}


def test_rates_go_together_with_weight_decay_and_layer_decay() -> None:
    model = model_of("vit_cifar_tiny", 64, depth=2)
    groups = param_groups(model, 1.0, 0.1, 0.5, mup_rates(model, BASE))
    of = {id(p): group for group in groups for p in group["params"]}
    q, gain, head = (of[id(model.get_parameter(f"{name}.weight"))]
                     for name in ("blocks.0.mixer.q", "blocks.0.norm1", "head.proj"))  # fmt: skip
    assert (q["lr"], gain["lr"], head["lr"]) == (0.25 * 0.25, 0.25, 0.25)
    assert q["lr"] * q["weight_decay"] == pytest.approx(0.25 * 0.1) and gain["weight_decay"] == 0.0
    assert head["lr"] * head["weight_decay"] == pytest.approx(0.1)
    assert q["name"] == "decay-2-0.25" and gain["name"] == "plain-2"


def test_initial_values_are_scaled_once_and_those_of_a_file_never(tmp_path: Path) -> None:
    plain, model = model_of("gemma_2b", 64, mup=False, **TEXT), model_of("gemma_2b", 64, **TEXT)
    gain = model.blocks.norm.weight
    torch.testing.assert_close(gain, torch.full_like(gain, -0.5))  # 1 + weight is 1 / 2
    torch.testing.assert_close(model.tokens.word.weight, plain.tokens.word.weight)
    before = gain.clone()
    initialize_mup(model, BASE)
    assert torch.equal(before, gain)
    with pytest.raises(ValueError, match=r"mup_base_width=32: the initial values .* a base width of 16"):
        mup_rates(model, 32)
    zoo.save(plain.eval(), tmp_path / "model")
    loaded = zoo.load(tmp_path / "model")
    initialize_mup(loaded, BASE)
    assert torch.equal(loaded.blocks.norm.weight, plain.blocks.norm.weight)
    rates = mup_rates(loaded, BASE)
    assert rates["blocks.norm.weight"] == 1.0 and rates["tokens.word.weight"] == 0.25  # that of an output
    text = describe_mup(loaded, BASE)
    total = len(list(loaded.parameters()))
    assert text.startswith("lr is that of width 16, here width 64 (4 times)") and f"{total} of {total}" in text
    assert "loaded" not in describe_mup(model, BASE)


def test_values_of_load_state_dict_are_loaded_ones() -> None:
    """Into the model itself or a module around it; also of an output layer under the name of the shared embedding."""
    trained, model = model_of("gemma_2b", 64, **TEXT), model_of("gemma_2b", 64, mup=False, **TEXT)
    state = trained.state_dict()
    nn.ModuleDict({"model": model}).load_state_dict({f"model.{name}": x for name, x in state.items()})
    assert not model.load_report.initialized and set(model.load_report.mapped) >= set(state)
    initialize_mup(model, BASE)
    assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items())
    assert mup_rates(model, BASE)["tokens.word.weight"] == 0.25
    part, before = model_of("gemma_2b", 64, mup=False, **TEXT), trained.head.proj.weight.clone()
    part.load_state_dict({"head.proj.weight": before}, strict=False)
    initialize_mup(part, BASE)
    assert torch.equal(part.tokens.word.weight, before) and part.blocks.norm.weight[0].item() == -0.5


def test_a_loop_is_continued_with_the_rates_of_its_beginning() -> None:
    first, later = (model_of("gemma_2b", 64, **TEXT) for _ in range(2))
    later.load_state_dict(first.state_dict())
    assert mup_rates(later, BASE) == mup_rates(first, BASE)


def test_removed_heads_change_no_rate() -> None:
    """Also those of which one query head stays in each of two groups, and two in the groups that a wider model adds."""
    model = model_of("llama_nano", 64, mup=False, kv_heads=4, tie_word_embeddings=False, **TEXT)
    pruned = zoo.prune(model, {0: [0, 2], 1: [1]})
    assert mup_scales(pruned, BASE) == mup_scales(model, BASE)


def test_a_new_head_comes_before() -> None:
    sizes = dict(image_size=8, patch_size=4, depth=1)
    with pytest.raises(ValueError, match=r"call reset_head before zoo\.tasks\.initialize_mup"):
        model_of("vit_cifar_tiny", 64, **sizes).reset_head(3)
    model = model_of("vit_cifar_tiny", 64, mup=False, **sizes)
    model.load_state_dict(model.state_dict())
    model.reset_head(3, seed=1)
    before = model.head.proj.weight.clone()
    assert model.load_report.initialized == ["head.proj.weight", "head.proj.bias"]
    initialize_mup(model, BASE)
    torch.testing.assert_close(model.head.proj.weight, before / 2)


# --- In a run ---------------------------------------------------------------------------------------------------------


def test_a_recipe_initializes_the_model_and_its_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models: list[Any] = []

    def vit(seed: int) -> nn.Module:
        sizes = dict(image_size=8, patch_size=4, width=64, depth=1, heads=2, mlp_dim=32, num_classes=4)
        models.append(zoo.create_model("vit_cifar_tiny", seed=seed, **sizes))
        models[-1].labels = list("abcd")
        return models[-1]

    words = ("epochs=null", "steps=1", "mixup=0", "precision=fp32", "baseline=false", "mup=true", "mup_base_width=16")
    tiny_run(tmp_path / "run", *words, model=vit)
    assert models[-1].mup_base_width == 16
    assert (
        "lr is that of width 16, here width 64 (4 times): matrices learn at lr divided by that"
        in capsys.readouterr().out
    )
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    rates = {group["initial_lr"] for group in state["optimizer_states"][0]["param_groups"]}
    assert rates == {1e-2, 1e-2 / 4}
    plain = zoo.create_model("vit_cifar_tiny", seed=0, image_size=8, patch_size=4, width=64, depth=1, heads=2,
                             mlp_dim=32, num_classes=4)  # fmt: skip
    for part in ("model", "ema"):
        ratio = state["state_dict"][f"{part}.head.proj.weight"].std() / plain.head.proj.weight.std()
        assert 0.4 < ratio < 0.65


def test_a_resumed_run_has_the_same_setting() -> None:
    before: dict[str, Any] = {"optim": {"lr": 1.0}}
    off = {"optim": {"lr": 1.0, "mup": False, "mup_base_width": None}}
    on = {"optim": {"lr": 1.0, "mup": True, "mup_base_width": 64}}
    assert not differences(before, off) and not differences(on, on)
    assert differences(before, on).keys() == {"optim.mup", "optim.mup_base_width"}
    assert differences({"optim": on["optim"] | {"mup_base_width": 32}}, on) == {"optim.mup_base_width": (32, 64)}


def placed(rank: int, plan: Plan) -> dict[str, float]:
    """The rate of each parameter of a divided model."""
    model = model_of("gpt_nano", 64, **TEXT)
    parallelize(model, plan, plan.mesh("cpu"))
    groups = param_groups(model, 1.0, 0.0, scales=mup_rates(model, BASE))
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    return {name: rates[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize("plan", [Plan(shard=2), Plan(tensor=2)], ids=["shards", "parts"])
def test_divided_models_have_the_same_rates(plan: Plan) -> None:
    assert ranks(2, placed, plan) == [mup_rates(model_of("gpt_nano", 64, **TEXT), BASE)] * 2


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "message"), [
    (dict(mup=True), "mup=true: give mup_base_width="),
    (dict(mup_base_width=64), "mup_base_width=64 has no effect without mup=true"),
    (dict(mup=True, mup_base_width=0), "mup_base_width=0: expected at least 1"),
])  # fmt: skip
def test_settings_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimSettings(**fields)


def test_models_without_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a model of zoo\.create_model or zoo\.load, not Linear"):
        mup_scales(nn.Linear(2, 2), 16)
    with pytest.raises(ValueError, match="dvae has no width that all of its layers grow with"):
        mup_scales(zoo.create_model("dvae_tiny", seed=0), 16)
    model = model_of("gpt_nano", 64, mup=False, **TEXT)
    model.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"not known, .*: extra\.weight, extra\.bias"):
        initialize_mup(model, BASE)


@pytest.mark.parametrize("base_width", [0, "64", 1.5])
def test_a_base_width_is_a_positive_integer(base_width: Any) -> None:
    with pytest.raises(ValueError, match=f"base_width={base_width!r}: expected a positive integer"):
        mup_scales(nn.Linear(2, 2), base_width)


def test_adapters_are_refused() -> None:
    model = model_of("gpt_nano", 64, mup=False, **TEXT)
    model.blocks[0].mixer.q.lora_A = nn.Linear(64, 2, bias=False)
    with pytest.raises(ValueError, match="mup=true with LoRA adapters"):
        mup_rates(model, BASE)


def test_a_task_refuses_a_new_model_with_other_initial_values() -> None:
    task = CausalLMTask(model_of("gpt_nano", 64, mup=False, **TEXT), optim=OptimSettings(mup=True, mup_base_width=BASE))
    task.trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"call zoo\.tasks\.initialize_mup\(model, 16\) before the task is made"):
        task.configure_optimizers()


def test_a_loaded_model_with_a_new_head_is_no_exception(tmp_path: Path) -> None:
    sizes = dict(image_size=8, patch_size=4, width=64, depth=1, heads=2, mlp_dim=32, num_classes=4, seed=0)
    zoo.save(zoo.create_model("vit_cifar_tiny", **sizes), tmp_path / "model")
    model = zoo.load(tmp_path / "model", num_classes=3)
    with pytest.raises(ValueError, match=r"new parameters \(head\.proj\.weight, head\.proj\.bias\) are not those"):
        mup_rates(model, BASE)
    before = model.head.proj.weight.clone()
    initialize_mup(model, BASE)
    torch.testing.assert_close(model.head.proj.weight, before / 2)
    assert mup_rates(model, BASE)["head.proj.weight"] == 0.25
