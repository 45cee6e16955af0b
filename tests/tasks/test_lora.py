"""Adapters: what trains, and that the merged model answers as the adapted one."""

import pytest
import torch

import zoo
from zoo.models.example_batch import example_batch
from zoo.tasks import add_lora, merge_lora
from zoo.tasks.lora import without_adapters

pytest.importorskip("peft", reason="adapters need the extra `lora`")

SMALL = {"image.width": 16, "image.heads": 2, "image.depth": 2, "text.width": 24, "text.heads": 2, "text.depth": 2}


def small() -> zoo.Model:
    return zoo.create_model("bert_tiny", seed=0, head="classify", vocab_size=50, width=16, depth=2, heads=2).eval()


def test_adapters_and_head_train_alone_and_merge_into_a_plain_model(tmp_path) -> None:
    model, ids = small(), torch.randint(5, 50, (2, 7))
    plain = model(input_ids=ids)
    add_lora(model, 4, targets=["q", "v"], seed=1)
    assert torch.equal(model(input_ids=ids), plain)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len([n for n in trained if "lora_" in n]) == 8 and all(
        "lora_" in n or n.startswith("head.") for n in trained
    )
    assert {n for n in trained if n.startswith("head.")} == {f"head.{n}" for n, _ in small().head.named_parameters()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)
    adapted = model(input_ids=ids)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    merge_lora(model)
    assert model.state_dict().keys() == small().state_dict().keys()
    zoo.save(model, tmp_path / "m")
    assert torch.allclose(zoo.load(tmp_path / "m")(input_ids=ids), adapted, atol=1e-5)


def test_a_model_without_its_adapters_shares_the_tensors_of_the_one_with_them() -> None:
    model = small()
    assert without_adapters(model) is model
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    add_lora(model, 2)
    found = without_adapters(model)
    assert found.state_dict().keys() == plain.keys()
    assert all(torch.equal(value, plain[name]) for name, value in found.state_dict().items())
    pointers = {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert all(value.data_ptr() in pointers for value in found.state_dict().values())
    assert any(".lora_" in name for name, _ in model.named_parameters())  # the model itself keeps them


def test_the_same_seed_draws_the_same_adapters() -> None:
    one, other = small(), small()
    for model in (one, other):
        add_lora(model, 2, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    another = small()
    add_lora(another, 2, seed=6)
    changed = {n for n, value in one.state_dict().items() if not torch.equal(value, another.state_dict()[n])}
    assert changed and all("lora_A" in name for name in changed)


def test_adapters_are_scaled_by_alpha_over_rank() -> None:
    ids, outputs = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0)), []
    for alpha, size in ((16.0, 1.0), (4.0, 4.0), (4.0, 1.0)):
        model = small()
        add_lora(model, 2, alpha=alpha, seed=5)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.fill_(size / 10)
        outputs.append(model(input_ids=ids))
    torch.testing.assert_close(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1], outputs[2], atol=1e-4)


def test_unknown_targets() -> None:
    with pytest.raises(ValueError, match="no linear layer is named 'query'"):
        add_lora(small(), 2, targets=["query"])


def test_in_a_bridge_what_joins_the_towers_is_trained_whole_unless_it_is_a_target(tmp_path) -> None:
    def trained(*targets: str, by: str = "projector", locked: str = "") -> set[str]:
        model = zoo.create_model("bridge_nano", by=by, seed=0, **SMALL)
        if locked:
            model.lock(locked)
        add_lora(model, 2, **({"targets": targets} if targets else {}))
        names = [name.split(".") for name, p in model.named_parameters() if p.requires_grad]
        return {f"{name[0]}{' lora' if 'lora_A' in name or 'lora_B' in name else ''}" for name in names}

    assert trained() == {"image lora", "text lora", "connector"}
    assert trained(by="cross") == {"image lora", "text lora", "gated_cross"}
    assert trained(locked="image") == {"text lora", "connector"}
    assert trained("text.q", "connector.up") == {"text lora", "connector lora"}
    assert trained("image.q", locked="image") == {"image lora", "connector"}
    with pytest.raises(ValueError, match=r"no linear layer is named 'connector.q'; 'connector' has down, up"):
        trained("connector.q")
    with pytest.raises(ValueError, match=r"no linear layer is named 'image'; .* \(text is locked: name it"):
        trained("image", locked="text")


@torch.no_grad()
def test_a_bridge_with_adapters_answers_as_the_merged_one_that_is_saved(tmp_path) -> None:
    model = zoo.create_model("bridge_nano", seed=0, **SMALL).eval()
    batch = example_batch(model)
    plain = model(**batch)
    add_lora(model, 2, targets=["text.q", "text.v", "connector.up"])
    assert torch.equal(model(**batch), plain)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    logits = model(**batch)
    tokens = zoo.generate(model, **batch, max_new_tokens=4)
    assert not torch.allclose(logits, plain, atol=1e-2)
    with pytest.raises(ValueError, match="merge adapters first"):
        zoo.save(model, tmp_path / "unmerged")
    zoo.save(merge_lora(model), tmp_path / "merged")
    merged = zoo.load(tmp_path / "merged")
    assert torch.allclose(merged(**batch), logits, atol=1e-5)
    assert torch.equal(zoo.generate(merged, **batch, max_new_tokens=4), tokens)
