"""LLaVA: the same files through us and through transformers, there and back."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from llava_peers import TOKEN, batch, logits, transformers_llava
from peers import edit_json, error
from safetensors.torch import load_file, save_file
from table_swaps import check_swaps

import zoo
from zoo.models.mapping.config_keys import differences
from zoo.models.registry import build, find_variant

PEERS = {
    "llava 1.5": {},
    "siglip and qwen2, several layers": dict(
        vision="SiglipVisionConfig", text="Qwen2Config", vision_feature_layer=[-1, 1],
        vision_feature_select_strategy="full", multimodal_projector_bias=False,
        projector_hidden_act="gelu_pytorch_tanh",
    ),
    "mistral, tied": dict(
        text="MistralConfig", vision_feature_layer=1, vision_feature_select_strategy="full",
        text_options=dict(tie_word_embeddings=True, sliding_window=7),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=PEERS)
def peer(request, tmp_path_factory):
    """(a folder, the model that transformers saved there), every parameter random."""
    folder = tmp_path_factory.mktemp("peer")
    return folder, transformers_llava(folder, **PEERS[request.param])


def test_same_numbers_from_the_same_files(peer):
    folder, theirs = peer
    ours = zoo.load(folder)
    report = ours.load_report
    assert not (report.initialized or report.resampled or ours.training)
    assert all("head" in name for name in report.dropped)  # the pooling of SigLIP
    inputs, real = batch(theirs), batch(theirs)["attention_mask"].bool()
    assert error(logits(ours, inputs)[real], logits(theirs, inputs)[real]) <= 1e-5
    exact, double = zoo.load(folder, dtype=torch.float64), inputs | {"pixel_values": inputs["pixel_values"].double()}
    assert error(logits(exact, double)[real], logits(deepcopy(theirs).double(), double)[real]) <= 5e-6
    assert zoo.verify(folder).ok


def test_round_trip_through_their_format(peer, tmp_path):
    folder, theirs = peer
    ours = zoo.load(folder)
    zoo.export(ours, tmp_path)
    again = zoo.load(tmp_path)
    assert not any(differences(again.config.parts[name], part) for name, part in ours.config.parts.items())
    assert again.config.replace(**ours.config.towers) == ours.config
    assert all(torch.equal(x, y) for x, y in zip(again.state_dict().values(), ours.state_dict().values(), strict=True))
    read, info = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    inputs = batch(theirs)
    real = inputs["attention_mask"].bool()
    assert error(logits(read.eval(), inputs)[real], logits(theirs, inputs)[real]) <= 1e-5


NAMES = {
    "published": {"vision_tower.": "vision_tower.vision_model."},
    "transformers 4.52": {
        "language_model.lm_head.": "lm_head.", "language_model.model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.vision_model.", "multi_modal_projector.": "model.multi_modal_projector.",
    },
    "a state dict": {
        "language_model.lm_head.": "lm_head.", "language_model.model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.", "multi_modal_projector.": "model.multi_modal_projector.",
    },
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES)
def test_names_of_tensors_of_other_versions(names, tmp_path):
    transformers_llava(tmp_path)
    before = zoo.load(tmp_path).state_dict()

    def renamed(name: str) -> str:
        for old, new in NAMES[names].items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    file = tmp_path / "model.safetensors"
    save_file({renamed(name): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    after = zoo.load(tmp_path).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_swapped_lines_of_the_table_are_noticed(tmp_path):
    theirs = transformers_llava(tmp_path)
    inputs = {name: x[:1] for name, x in batch(theirs).items()}
    real = inputs["attention_mask"].bool()
    # behind the second last layer of the image tower nothing is read
    edit_json(tmp_path / "config.json", vision_feature_layer=2)
    theirs.config.vision_feature_layer = 2
    expected = logits(theirs, inputs)[real]
    check_swaps(tmp_path, lambda model: logits(model, inputs)[real], expected, at_least=27, step=3)


def test_twenty_steps_of_training_are_those_of_transformers(tmp_path):
    theirs = transformers_llava(tmp_path).train()
    ours = zoo.load(tmp_path).train()
    inputs = batch(theirs)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    losses = []
    for model in (ours, theirs):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        found = []
        for _ in range(20):
            y = model(**inputs)
            y = y if isinstance(y, torch.Tensor) else y.logits
            loss = torch.nn.functional.cross_entropy(y[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0][-1] < losses[0][0]


COUNTS = {"llava15_7b": 7_063_427_072}


@pytest.mark.parametrize("variant", COUNTS)
def test_sizes_of_published_models(variant):
    own = find_variant(variant)
    model = build(own, own.config(**own.variants[variant]))
    assert sum(p.numel() for p in model.parameters()) == COUNTS[variant]


# -- files that are refused --------------------------------------------------------------------------------------------


def refused(folder: Path, match: str, **changes) -> None:
    edit_json(folder / "config.json", **changes)
    with pytest.raises(zoo.LoadError, match=match):
        zoo.load(folder)


def test_what_is_not_supported_is_refused_by_name(tmp_path):
    transformers_llava(tmp_path)
    refused(tmp_path, "vision_feature_layer=0: expected the output of a block, 1 to 3", vision_feature_layer=0)
    refused(tmp_path, "vision_feature_layer=4", vision_feature_layer=4)
    refused(tmp_path, "strategy='cls' is not supported, only default or full",
            vision_feature_layer=-2, vision_feature_select_strategy="cls")  # fmt: skip
    refused(tmp_path, "text_config has model_type 'phi', which is not supported here, only llama",
            vision_feature_select_strategy="default", text_config={"model_type": "phi"})  # fmt: skip


def test_what_transformers_cannot_express_is_named(tmp_path):
    transformers_llava(tmp_path)
    assert zoo.load(tmp_path).config.image_token_id == TOKEN
    model = zoo.load(tmp_path, feature_layer=-1)
    with pytest.raises(ValueError, match="feature_layer=-1"):
        zoo.export(model, tmp_path / "ours")
