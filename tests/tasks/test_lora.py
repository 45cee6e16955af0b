"""Adapters: what trains, and that the merged model answers as the adapted one."""

import pytest
import torch

import zoo
from zoo.tasks import add_lora, merge_lora

pytest.importorskip("peft", reason="adapters need the extra `lora`")


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
