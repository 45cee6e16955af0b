"""Parity of every family with every library that it can be exported to, through files; a new family is found here.

The parity tests of single families go further (every head, published key lists, float64, training): this one needs no
entry in a list.
"""

import pytest
import torch

import zoo
from zoo.checkpoints.golden import cast_batch
from zoo.checkpoints.load import describe
from zoo.checkpoints.peers import Transformers
from zoo.checkpoints.verify import error
from zoo.models.example_batch import example_batch
from zoo.models.registry import families

EXPORTS = [(f.name, format) for f in families() for format in sorted(f.mappings) if f.modality != "multimodal"]
FIELDS = dict(width=32, depth=2, heads=4, mlp_dim=48, vocab_size=50, max_length=32, image_size=32, patch_size=8)
# Where the common fields are not enough: special tokens within the vocabulary (RoBERTa counts positions from its
# padding id, which the two random rows do not hold then), patches that fit, small convolutions.
OWN = {
    "roberta": dict(vocab_size=2000),
    "modernbert": dict(pad_token_id=0),
    "ast": dict(mel_bins=32, max_length=32, patch_size=16, stride=10),
    "clip_text": dict(eos_token_id=49),
    "marian": dict(pad_token_id=49, decoder_start_token_id=49),
    "granite": dict(mixer=["mamba2", "attention"], bos_token_id=1, eos_token_id=2, pad_token_id=0),
    "mamba": dict(mlp_dim=None),
    "mamba2": dict(mlp_dim=None),
    "wav2vec2": dict(conv_channels=(8,) * 7, position_kernel=6, position_groups=4),
    "gat": dict(head_heads=4),
    "set_transformer": dict(mlp_dim=None),
    "dvae": dict(head=None, widths=(8, 16, 32, 64), resample="pool"),
    "hubert": dict(conv_channels=(8,) * 7, position_kernel=6, position_groups=4),
}


@pytest.mark.parametrize(("name", "format"), EXPORTS)
def test_the_export_computes_the_same_in_the_other_library(tmp_path, name, format):
    pytest.importorskip(format)
    model, reason = exportable(name, format, tmp_path)
    if model is None:
        pytest.skip(f"no variant of {name} at test size can be written for {format}: {reason}")
    checked = zoo.verify(tmp_path)
    assert checked.ok, str(checked)
    again = zoo.load(tmp_path)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    if format == "transformers" and name not in NOTHING_INSIDE:
        assert inner_error(again, tmp_path) <= 1e-6


# No maps of transformers to compare with: models without attention, Longformer's of the window alone, BigBird's none.
NOTHING_INSIDE = ("dvae", "mamba", "mamba2", "longformer", "bigbird")


def inner_error(model: zoo.Model, folder) -> float:
    """The greatest error of `zoo.capture` beside transformers: attention maps, and the outputs of blocks."""
    peer, model = Transformers(describe(folder), torch.float64).model, model.double()
    peer.set_attn_implementation("eager")
    batch = cast_batch(example_batch(model), torch.float64)
    with torch.no_grad(), zoo.capture(model) as maps, zoo.capture(model, "residual") as blocks:
        model(**batch)
        theirs = peer(**batch, output_attentions=True, output_hidden_states=True)
    sides = [side for side in ("encoder", "decoder") if f"{side}_attentions" in theirs]
    norms = {side: getattr(model, side).blocks.norm for side in sides} or {"": model.blocks.norm}
    errors = []
    for side, norm in norms.items():
        start = f"{side}." if side else ""
        of_side = {key: weights for key, weights in maps.items() if key.startswith(f"{start}blocks.")}
        names = {"mixer": f"{side}_attentions" if side else "attentions", "cross": "cross_attentions"}
        for part, name in names.items():
            own = [weights for key, weights in of_side.items() if key.endswith(part)]
            expected = theirs[name] if own else ()
            assert len(own) == len(expected) and (own or part == "cross")
            errors += [error(a, b) for a, b in zip(own, expected, strict=True)]
        *early, last = [y for key, y in blocks.items() if key.startswith(f"{start}blocks.")]
        *states, final = theirs[f"{side}_hidden_states" if side else "hidden_states"][1:]
        errors += [error(a, b) for a, b in zip(early, states, strict=True)]
        errors.append(min(error(y, final) for y in ([last] if norm is None else [last, norm(last)])))
    return max(errors)


def exportable(name: str, format: str, folder) -> tuple[zoo.Model | None, str]:
    """The first variant of a family that can be written for a library, small and with every parameter random."""
    reason = ""
    own = next(f for f in families() if f.name == name)
    order = sorted(own.variants, key=lambda v: own.config(**own.variants[v]).width)
    for variant in order:
        fields = {**FIELDS, **OWN.get(name, {})}
        fields = {field: value for field, value in fields.items() if field in own.config.names()}
        try:
            model = zoo.create_model(variant, seed=0, **fields).eval()
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            model.preprocess = None if own.modality == "text" else model.preprocess
            zoo.export(model, folder, format=format)
        except ValueError as error:
            reason = str(error)
            continue
        return model, ""
    return None, reason
