"""peft's task types on our models: train, save, load, merge."""

import warnings

import pytest
import torch

import zoo

peft = pytest.importorskip("peft", reason="adapters need the extra `lora`")

IDS = {"input_ids": torch.randint(5, 50, (2, 7)), "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2])}
PIXELS = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
TEXT = dict(vocab_size=50, width=16, depth=2, heads=2)
CASES = {
    "SEQ_CLS": ("bert_tiny", TEXT | dict(head="classify", num_classes=3), IDS),
    "TOKEN_CLS": ("bert_tiny", TEXT | dict(head="token", num_classes=3), IDS),
    "QUESTION_ANS": ("bert_tiny", TEXT | dict(head="qa"), IDS),
    "FEATURE_EXTRACTION": ("bert_tiny", TEXT | dict(head=None), IDS),
    "CAUSAL_LM gpt": ("gpt_nano", TEXT, IDS),
    "CAUSAL_LM llama": ("llama_nano", TEXT, IDS),
    "SEQ_CLS images": ("vit_cifar_tiny", dict(width=16, depth=2, heads=2), PIXELS),
    "FEATURE_EXTRACTION images": ("vit_cifar_tiny", dict(width=16, depth=2, heads=2, num_classes=0), PIXELS),
}


def model_of(case: str) -> zoo.Model:
    name, shape, _ = CASES[case]
    return zoo.create_model(name, seed=0, **shape).eval()


@pytest.mark.parametrize("case", CASES)
def test_a_task_type_trains_saves_and_merges(case: str, tmp_path) -> None:
    batch, trained = CASES[case][2], "CLS" in case
    config = peft.LoraConfig(
        task_type=case.split()[0], r=2, target_modules=["q", "v"], modules_to_save=["head"] if trained else None
    )
    adapted = peft.get_peft_model(model_of(case), config)
    with torch.no_grad():
        before = adapted(**batch)
        assert torch.allclose(before, model_of(case)(**batch), atol=1e-6)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    assert any("head" in name for name, p in adapted.named_parameters() if p.requires_grad) == trained
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**batch)[..., 0].square().mean().backward()  # a normalized row has a constant mean square
        optimizer.step()
    with torch.no_grad():
        after = adapted(**batch)
        assert not torch.allclose(after, before, atol=1e-4)
        adapted.save_pretrained(tmp_path / "adapter")
        loaded = peft.PeftModel.from_pretrained(model_of(case), tmp_path / "adapter")
        assert torch.allclose(loaded(**batch), after, atol=1e-6)
        merged = loaded.merge_and_unload()
        assert type(merged) is type(model_of(case)) and torch.allclose(merged(**batch), after, atol=1e-5)
    zoo.save(merged, tmp_path / "merged")
    with torch.no_grad():
        assert torch.allclose(zoo.load(tmp_path / "merged")(**batch), after, atol=1e-5)


def test_a_new_head_that_peft_freezes_is_reported() -> None:
    """peft trains modules called classifier or score; ours is called head."""
    adapted = peft.get_peft_model(
        model_of("SEQ_CLS"), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q", "v"])
    )
    adapted.train()
    with pytest.warns(UserWarning, match=r"modules_to_save=\['head'\]"):
        adapted(**IDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted(**IDS)  # once is enough
        adapted.eval()(**IDS)


def test_peft_generates_by_our_name() -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q"])
    adapted = peft.get_peft_model(model_of("CAUSAL_LM gpt"), config)
    with pytest.raises(AttributeError, match=r"zoo\.generate"):
        adapted.generate(input_ids=IDS["input_ids"])
    found = model_of("CAUSAL_LM gpt").prepare_inputs_for_generation(**IDS, use_cache=True)
    assert found.keys() == IDS.keys()
    assert not hasattr(model_of("SEQ_CLS"), "prepare_inputs_for_generation")


@pytest.mark.parametrize("config", [peft.LoraConfig, peft.IA3Config, peft.AdaLoraConfig, peft.LoHaConfig])
@pytest.mark.parametrize("case", ["SEQ_CLS", "FEATURE_EXTRACTION images"])
def test_default_layers_of_peft_are_refused_with_ours(config: type, case: str) -> None:
    options = {"total_step": 10} if config is peft.AdaLoraConfig else {}
    with pytest.raises(KeyError, match=r"name the layers, e\.g\. LoraConfig\(target_modules=\['q', 'v'\]\)"):
        peft.get_peft_model(model_of(case), config(task_type=case.split()[0], **options))


def test_two_towers_have_no_default_layers_either() -> None:
    towers = zoo.create_model("clip_tiny", seed=0)
    with pytest.raises(KeyError, match="name the layers"):
        peft.get_peft_model(towers, peft.LoraConfig(r=2))
    with pytest.raises(KeyError, match=r"^'absent'$"):
        towers.config.to_dict()["absent"]
