"""Names of timm's, transformers' and open_clip's models that ours do not have: an error that says ours."""

import copy
import pickle

import pytest
import torch
import transformers

import zoo
from zoo.models.foreign_names import CONFIG_NAMES, MODEL_NAMES
from zoo.models.registry import families


@pytest.fixture(scope="module")
def models() -> dict[str, zoo.Model]:
    made = {name: zoo.create_model(name, depth=1, seed=0) for name in ("vit_cifar_tiny", "bert_tiny", "ast_tiny")}
    return made | {"contrast": zoo.contrast(image="vit_cifar_tiny", text="bert_tiny", seed=0)}


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_name_works_or_says_ours(models: dict[str, zoo.Model], name: str) -> None:
    missing = 0
    for model in models.values():
        if not hasattr(model, name):
            missing += 1
            with pytest.raises(AttributeError) as caught:
                getattr(model, name)
            assert str(caught.value) == f"{type(model).__name__} has no attribute {name!r}: {MODEL_NAMES[name]}"
    assert missing, f"{name} works on every model: it has no place in the list"


def test_the_messages_name_what_exists(models: dict[str, zoo.Model]) -> None:
    """zoo.x, model.x and config.x of the messages."""
    import re

    vit, text, both = models["vit_cifar_tiny"], models["bert_tiny"], models["contrast"]
    distilled = zoo.create_model("vit_tiny_patch16_224", distilled=True, registers=0, depth=1, seed=0)
    for message in [*MODEL_NAMES.values(), *CONFIG_NAMES.values()]:
        for owner, path in re.findall(r"\b(zoo|model|config)((?:\.[a-z_]+)+)", message):
            objects = {"zoo": [zoo], "model": [vit, text, both, distilled], "config": [vit.config, both.config]}[owner]
            assert any(resolves(thing, path[1:].split(".")) for thing in objects), message


def resolves(thing: object, path: list[str]) -> bool:
    for name in path:
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True


def test_other_attributes_are_as_before(models: dict[str, zoo.Model]) -> None:
    model = models["vit_cifar_tiny"]
    with pytest.raises(AttributeError, match="'ViT' object has no attribute 'nonsense'"):
        _ = model.nonsense
    assert model.head is dict(model.named_children())["head"]
    with pytest.raises(AttributeError):
        _ = object.__new__(type(model)).head  # before __init__
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert again.config == model.config and not hasattr(again, "logits")


def test_names_of_configs(models: dict[str, zoo.Model]) -> None:
    config = models["bert_tiny"].config
    theirs = transformers.BertConfig(hidden_size=config.width, num_hidden_layers=1, num_attention_heads=config.heads)
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(config, name) == getattr(theirs, name)
    with pytest.raises(AttributeError, match="no attribute 'num_labels'; did you mean 'num_classes'"):
        _ = config.num_labels
    with pytest.raises(AttributeError, match=r"model\.labels"):
        _ = config.id2label
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        _ = config.nonsense
    assert not hasattr(models["contrast"].config, "hidden_size")  # its width is that of the shared space
    for family in families():
        assert not hasattr(family.config, "pad_token_id") or "pad_token_id" in family.config.names()


def test_arguments_that_ask_for_nothing_are_taken(models: dict[str, zoo.Model]) -> None:
    """Wrappers of transformers' models pass all arguments, None where there is nothing."""
    ids = torch.randint(5, 50, (2, 6))
    nothing = dict.fromkeys(["labels", "inputs_embeds", "output_attentions", "position_ids"]) | {"return_dict": False}
    model = models["bert_tiny"].eval()
    assert torch.equal(model(input_ids=ids, **nothing), model(input_ids=ids))
    for wrong in ({"labels": ids}, {"return_dict": True}, {"nonsense": None}):
        with pytest.raises(ValueError, match=f"does not use {next(iter(wrong))!r}"):
            model(input_ids=ids, **wrong)
    with pytest.raises(ValueError, match="'pixel_values' is missing"):
        models["vit_cifar_tiny"](labels=None)
    pixels = torch.randn(2, 3, 32, 32)
    assert models["vit_cifar_tiny"].eval()(pixel_values=pixels, input_ids=None).shape == (2, 10)
    assert models["contrast"](pixel_values=pixels, labels=None).image_features is not None
