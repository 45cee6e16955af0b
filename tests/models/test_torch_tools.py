"""Tools for torch modules on every family: torch.fx, the meta device, copies, pickles, other dtypes and layouts."""

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrizations
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

import zoo
from tests.models.test_contract import ROWS


def made(family: str) -> tuple[zoo.Model, dict[str, Tensor]]:
    row = ROWS[family]
    return zoo.create_model(row.variant, seed=0, **row.small).eval(), row.batch()


@torch.no_grad()
@pytest.mark.parametrize("family", ROWS)
def test_copies_and_pickles(family: str) -> None:
    model, batch = made(family)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    expected = model(**batch)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(copied(**batch), expected)
    assert torch.equal(torch.func.functional_call(model, dict(model.named_parameters()), (), batch), expected)
    assert torch.equal(torch.nn.DataParallel(model)(**batch), expected)


@torch.no_grad()
@pytest.mark.parametrize("family", ROWS)
def test_layouts_dtypes_and_parametrizations(family: str) -> None:
    model, batch = made(family)
    expected = model(**batch)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert torch.allclose(last(**batch), expected, atol=1e-5)
    halves = {name: x.half() if x.is_floating_point() else x for name, x in batch.items()}
    assert copy.deepcopy(model).half()(**halves).dtype == torch.float16
    parametrizations.weight_norm(next(m for m in model.modules() if isinstance(m, torch.nn.Linear)))
    assert torch.allclose(model(**batch), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ROWS)
def test_meta_then_values(family: str) -> None:
    model, batch = made(family)
    with torch.device("meta"):
        empty = zoo.create_model(ROWS[family].variant, **ROWS[family].small)
    assert {x.device.type for x in [*empty.parameters(), *empty.buffers()]} == {"meta"}
    loaded = empty.to_empty(device="cpu").eval()
    loaded.load_state_dict(model.state_dict())
    assert torch.equal(loaded(**batch), model(**batch))


def test_meta_in_other_ways() -> None:
    with torch.device("meta"):
        both = zoo.contrast(image="vit_cifar_tiny", text="bert_tiny")
        random = zoo.create_model("vit_cifar_tiny", depth=1, attention="performer")
    assert {x.device.type for x in [*both.parameters(), *random.parameters(), *random.buffers()]} == {"meta"}


def test_tied_weights_stay_tied() -> None:
    with torch.device("meta"):
        model = zoo.create_model("gpt_nano", depth=1)
    model = torch.nn.Sequential(model).to_empty(device="cpu")[0]  # also inside of another module
    assert model.head.proj.weight is model.tokens.word.weight
    untied = zoo.create_model("gpt_nano", depth=1, tie_word_embeddings=False, seed=0).to(torch.float64)
    assert untied.head.proj.weight is not untied.tokens.word.weight


@torch.no_grad()
@pytest.mark.parametrize("family", ["vit", "ast"])
@pytest.mark.parametrize("training", [False, True])
def test_torchvisions_feature_extractor(family: str, training: bool) -> None:
    model, batch = made(family)
    model.train(training)
    names = get_graph_node_names(model)[1]
    assert [name for name in names if name.startswith("blocks")] == ["blocks.0", "blocks.1", "blocks.norm"]
    nodes = {"blocks.0": "first", "blocks.norm": "hidden", "head.proj": "scores"}
    found = create_feature_extractor(model, nodes)(**batch)
    hidden, (first,) = model.encode(**batch, layers=[0])
    assert torch.allclose(found["first"], first, atol=1e-6) and torch.allclose(found["hidden"], hidden, atol=1e-6)
    assert torch.allclose(found["scores"], model(**batch), atol=1e-6)
    assert torch.allclose(torch.fx.symbolic_trace(model)(**batch), model(**batch), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(
    "shape",
    [
        dict(class_token=True, pool="cls", distilled=True, stem="patch"),
        dict(class_token=False, pool="map"),
        dict(attention=["local", "performer"]),
        dict(head=None),
    ],
)
def test_other_image_models_are_traced(shape: dict) -> None:
    row = ROWS["vit"]
    model, batch = zoo.create_model(row.variant, seed=0, **row.small | shape).eval(), row.batch()
    assert torch.allclose(torch.fx.symbolic_trace(model)(**batch), model(**batch), atol=1e-6)


@pytest.mark.parametrize("family", sorted(set(ROWS) - {"vit", "ast"}))
def test_what_cannot_be_traced_says_what_to_use(family: str) -> None:
    with pytest.raises(ValueError, match=r"torch.fx cannot trace .*layers=.*zoo.capture"):
        get_graph_node_names(made(family)[0])
