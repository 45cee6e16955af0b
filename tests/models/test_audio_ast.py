"""AST: the same files through us and through transformers, published folders, and a start from a ViT."""

import json

import pytest
import torch
import torch.nn.functional as F
from audio_peers import answer, noise, transformers_audio
from kernel_timers import fastest
from peers import error
from safetensors.torch import save_file
from table_swaps import check_swaps

import zoo
from zoo.models.ast.model import crop_or_interpolate, from_vit

PEERS = {
    "classifier": ("ASTForAudioClassification", {}),
    "hidden states": ("ASTModel", {}),
    "other options": (
        "ASTForAudioClassification",
        dict(qkv_bias=False, hidden_act="gelu_new", layer_norm_eps=1e-6, frequency_stride=5, time_stride=4),
    ),
    "no overlap": ("ASTForAudioClassification", dict(frequency_stride=4, time_stride=4)),
}


def peer(folder, name):
    return transformers_audio(folder, PEERS[name][0], **PEERS[name][1])


def spectrograms(model, rows=2):
    return noise(rows, model.config.max_length, model.config.mel_bins)


@pytest.mark.parametrize("name", PEERS)
def test_same_numbers_from_the_same_files(tmp_path, name):
    theirs, ours = peer(tmp_path, name), zoo.load(tmp_path)
    x = spectrograms(ours)
    assert error(answer(ours, x), answer(theirs, x)) <= 1e-5
    assert not (ours.load_report.initialized or ours.load_report.resampled or ours.training)
    assert zoo.verify(tmp_path).ok


def test_pooled_features(tmp_path):
    theirs = peer(tmp_path, "hidden states")
    ours = zoo.load(tmp_path, head="pool")
    x = spectrograms(ours)
    with torch.no_grad():
        assert error(ours(x), theirs(x).pooler_output) <= 1e-5


@pytest.mark.parametrize("name", PEERS)
def test_round_trip_through_their_format(tmp_path, name):
    peer(tmp_path / "first", name)
    ours = zoo.load(tmp_path / "first")
    zoo.export(ours, tmp_path / "second")
    assert zoo.verify(tmp_path / "second").ok
    again = zoo.load(tmp_path / "second")
    assert again.config == ours.config and torch.equal(
        answer(again, spectrograms(ours)), answer(ours, spectrograms(ours))
    )


@pytest.mark.parametrize("overrides, message", [
    ({"pool": "mean"}, "pool='mean'"), ({"distilled": False}, "distilled=False"),
    ({"attention": "performer"}, "attention='performer'"), ({"patch_size": (4, 8)}, r"patch_size=\(4, 8\)"),
    ({"layer_scale": 0.1}, "layer_scale=0.1"),
])  # fmt: skip
def test_what_transformers_cannot_express_is_named(tmp_path, overrides, message):
    tiny = dict(width=32, depth=1, heads=4, max_length=24, mel_bins=16, patch_size=8, stride=4)
    model = zoo.create_model("ast_tiny", seed=0, **tiny | overrides)
    with pytest.raises(ValueError, match=f"cannot express {message}|{message}"):
        zoo.export(model, tmp_path)


def test_eps_shows_where_activations_are_small(tmp_path):
    theirs = peer(tmp_path, "classifier")
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if "embed" in key or "token" in key:
                parameter.mul_(1e-3)
    theirs.save_pretrained(tmp_path)
    ours = zoo.load(tmp_path)
    x = spectrograms(ours)
    assert error(answer(ours, x), answer(theirs, x)) <= 1e-5
    assert error(answer(zoo.load(tmp_path, norm_eps=1e-6), x), answer(theirs, x)) > 1e-4


def test_swapping_any_two_lines_of_the_table_is_caught(tmp_path):
    theirs = peer(tmp_path, "classifier")
    x = spectrograms(zoo.load(tmp_path))
    check_swaps(tmp_path, lambda model: answer(model, x), answer(theirs, x), 15)


def losses(model, logits, steps=20):
    """Of a loop of 20 steps on two batches."""
    model = model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    history = []
    for step in range(steps):
        x = noise(6, 24, 16, seed=step % 2)
        loss = F.cross_entropy(logits(model(x)), torch.arange(6) % 7)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return torch.tensor(history, dtype=torch.float64)


def test_twenty_steps_of_training_are_theirs(tmp_path):
    theirs = peer(tmp_path, "classifier")
    ours = zoo.load(tmp_path)
    expected = losses(theirs, lambda output: output.logits)
    assert torch.allclose(losses(ours, lambda output: output), expected, rtol=1e-4, atol=0)


# --- Published folders ------------------------------------------------------------------------------------------------

D, C = 32, 5
LAYER = {
    "attention.attention.query": (D, D), "attention.attention.key": (D, D), "attention.attention.value": (D, D),
    "attention.output.dense": (D, D), "intermediate.dense": (4 * D, D), "output.dense": (D, 4 * D),
    "layernorm_before": (D,), "layernorm_after": (D,),
}  # fmt: skip
LABELS = {str(i): f"Sound, number {i}" for i in range(C)}
CONFIG = {
    "architectures": ["ASTForAudioClassification"], "attention_probs_dropout_prob": 0.0, "frequency_stride": 10,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": D, "id2label": LABELS, "initializer_range": 0.02,
    "intermediate_size": 4 * D, "label2id": {label: int(i) for i, label in LABELS.items()}, "layer_norm_eps": 1e-12,
    "max_length": 1024, "model_type": "audio-spectrogram-transformer", "num_attention_heads": 4,
    "num_hidden_layers": 2, "num_mel_bins": 128, "patch_size": 16, "qkv_bias": True, "time_stride": 10,
    "torch_dtype": "float32", "transformers_version": "4.25.0.dev0",
}  # fmt: skip
EXTRACTOR = {
    "do_normalize": True, "feature_extractor_type": "ASTFeatureExtractor", "feature_size": 1, "max_length": 1024,
    "mean": -4.2677393, "num_mel_bins": 128, "padding_side": "right", "padding_value": 0.0,
    "return_attention_mask": False, "sampling_rate": 16000, "std": 4.5689974,
}  # fmt: skip
COMMANDS = {"mean": -6.845978, "std": 5.5654526, "max_length": 128}
REPOSITORIES = {
    "MIT/ast-finetuned-audioset-10-10-0.4593": ({}, {}, 1212),
    "MIT/ast-finetuned-audioset-14-14-0.443": ({"frequency_stride": 14, "time_stride": 14}, {}, 657),
    "MIT/ast-finetuned-speech-commands-v2": ({"max_length": 128}, COMMANDS, 144),
}


def published(folder, repository):
    """The folder of a repository, at a small width."""
    config, extractor, patches = REPOSITORIES[repository]
    base, norms = "audio_spectrogram_transformer.", {}
    shapes = {f"{base}embeddings.{name}_token": (1, 1, D) for name in ("cls", "distillation")}
    shapes |= {f"{base}embeddings.position_embeddings": (1, patches + 2, D)}
    modules = {f"{base}embeddings.patch_embeddings.projection": (D, 1, 16, 16), f"{base}layernorm": (D,)}
    modules |= {f"{base}encoder.layer.{n}.{name}": shape for n in range(2) for name, shape in LAYER.items()}
    modules |= {"classifier.layernorm": (D,), "classifier.dense": (C, D)}
    norms = {f"{name}.{kind}": shape[:1] if kind == "bias" else shape
             for name, shape in modules.items() for kind in ("weight", "bias")}  # fmt: skip
    tensors = {name: 0.15 * noise(*shape, seed=i) for i, (name, shape) in enumerate((shapes | norms).items())}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | extractor))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_published_folders_load_and_agree(tmp_path, repository):
    folder = published(tmp_path / "repo", repository)
    result, model = zoo.verify(folder), zoo.load(folder)
    assert result.ok, result
    assert model.load_report.plain and model.labels == list(LABELS.values())
    assert model.patches.grid[0] * model.patches.grid[1] == REPOSITORIES[repository][2]


def test_classes_of_audioset_have_a_probability_each(tmp_path):
    """Its published files do not say so. A problem type in a file is kept, also after export."""
    theirs = transformers_audio(tmp_path / "peer", "ASTForAudioClassification", num_labels=527)
    edit = json.loads((tmp_path / "peer" / "config.json").read_text())
    names = {str(i): "Speech" if i == 0 else f"class {i}" for i in range(527)}
    for problem, kind in (
        (None, "multi_label_classification"),
        ("single_label_classification", "single_label_classification"),
    ):
        (tmp_path / "peer" / "config.json").write_text(json.dumps(edit | {"id2label": names, "problem_type": problem}))
        model = zoo.load(tmp_path / "peer")
        assert model.config.resolved_problem_type == kind and torch.equal(
            model.head.proj.bias, theirs.classifier.dense.bias
        )
        zoo.export(model, tmp_path / kind, format="transformers")
        assert zoo.load(tmp_path / kind).config == model.config
    assert (
        zoo.load(tmp_path / "multi_label_classification", num_classes=3).config.resolved_problem_type
        == "single_label_classification"
    )


def test_a_fresh_classifier_on_other_lengths(tmp_path):
    folder = published(tmp_path / "repo", "MIT/ast-finetuned-speech-commands-v2")
    model = zoo.load(folder, labels=["yes", "no"], max_length=256)
    assert model.load_report.resampled == ["patches.positions"]
    assert model.load_report.initialized == ["head.proj.weight", "head.proj.bias"]
    assert model(spectrograms(model)).shape == (2, 2)


# --- From a ViT -------------------------------------------------------------------------------------------------------


def deit(**overrides):
    tiny = dict(image_size=32, patch_size=8, width=32, depth=2, heads=4)
    return zoo.create_model("deit_tiny_distilled_patch16_224", seed=1, **tiny | overrides).eval()


def test_an_ast_starts_from_a_deit():
    vit = deit()
    model = from_vit(vit, max_length=44, mel_bins=24, stride=6, num_classes=5)
    assert model.patches.grid == (3, 7) and model.family == "ast" and model(spectrograms(model)).shape == (2, 5)
    theirs, own = vit.state_dict(), model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in theirs.items() if key.startswith("blocks."))
    assert torch.equal(own["patches.proj.weight"], theirs["patches.proj.weight"].mean(1, keepdim=True))
    assert torch.equal(own["patches.dist"], theirs["patches.dist"])
    assert torch.equal(own["patches.positions"][:2], theirs["patches.positions"][:2])
    report = model.load_report
    assert report.resampled == ["patches.proj.weight", "patches.positions"]
    assert report.initialized == ["head.norm.weight", "head.norm.bias", "head.proj.weight", "head.proj.bias"]
    assert report.dropped == [f"head.{name}.{kind}" for name in ("proj", "proj_dist") for kind in ("weight", "bias")]


def test_tokens_of_a_gray_image_are_those_of_the_vit():
    """The same grid, the same patches: a spectrogram is an image of equal colors (summed, not averaged)."""
    vit = deit()
    model = from_vit(vit, max_length=32, mel_bins=32, stride=8, head=None)
    gray = noise(2, 32, 32)
    same = vit.encode((gray.mT / 3)[:, None].expand(-1, 3, -1, -1))
    with torch.no_grad():
        assert error(model(gray), same) <= 1e-5


@pytest.mark.parametrize("overrides", [
    dict(distilled=False), dict(distilled=False, class_token=False, pool="mean", pool_norm=True),
    dict(distilled=False, position_prefix=0, layer_scale=0.1), dict(act="silu", gated_mlp=True, kv_heads=2),
], ids=str)  # fmt: skip
def test_other_vits(overrides):
    model = from_vit(deit(**overrides), max_length=20, mel_bins=16, stride=(4, 6), attention="linear")
    assert model(spectrograms(model)).shape == (2, 527) and model(spectrograms(model)).isfinite().all()
    assert not [name for name in model.load_report.initialized if name.startswith("blocks.norm")]


def test_positions_are_crop_or_interpolateed():
    table = torch.arange(12.0).view(12, 1)  # 3 x 4
    assert crop_or_interpolate(table, (3, 4), (1, 2)).flatten().tolist() == [5.0, 6.0]
    wide = crop_or_interpolate(table, (3, 4), (1, 8)).flatten()
    assert wide[0] == 4 and wide[-1] == 7 and (wide.diff() >= 0).all()
    assert torch.equal(crop_or_interpolate(table, (3, 4), (3, 4)), table)


def test_invalid_sources_of_an_ast_raise():
    with pytest.raises(ValueError, match="expected a ViT or DeiT"):
        from_vit(zoo.create_model("bert_tiny", seed=0, depth=1))
    with pytest.raises(ValueError, match="registers"):
        from_vit(deit(distilled=False, registers=2))
    with pytest.raises(ValueError, match="width=64: the shape of the blocks is that of the ViT"):
        from_vit(deit(), width=64)
    with pytest.raises(ValueError, match="did you mean 'stride'"):
        from_vit(deit(), strides=4)


# --- Invalid inputs, and what works as for all models -----------------------------------------------------------------


def tiny(**overrides):
    fields = dict(width=32, depth=2, heads=4, max_length=24, mel_bins=16, patch_size=8, stride=4)
    return zoo.create_model("ast_tiny", seed=0, **fields | overrides).eval()


def test_spectrograms_that_do_not_fit():
    for wrong in (noise(2, 16, 24), noise(2, 25, 16), noise(24, 16), noise(2, 1, 24, 16)):
        with pytest.raises(ValueError, match=r"expected spectrograms \[B, 24 frames, 16 mel bins\]"):
            tiny()(wrong)
    with pytest.raises(ValueError, match=r"patch_size=\(8, 8\) is larger than the input \(4, 24\)"):
        tiny(mel_bins=4)
    with pytest.raises(ValueError, match="did you mean 'mel_bins'"):
        tiny(num_mel_bins=3)
    with pytest.raises(ValueError, match="class_token=False needs"):
        tiny(class_token=False)


def test_maps_and_a_custom_core():
    class Mine(zoo.nn.Core):
        def weights(self, q, k, mask=None, bias=None):
            return self.scores(q, k, mask, bias).softmax(-1)

    mine, softmax, x = tiny(attention=Mine), tiny(), noise(2, 24, 16)
    with torch.no_grad():
        assert error(mine(x), softmax(x)) <= 1e-5
        with zoo.capture(mine, layers=[-1]) as maps:
            mine(x)
    tokens = 2 + mine.patches.grid[0] * mine.patches.grid[1]
    assert maps["blocks.1.mixer"].shape == (2, 4, tokens, tokens)


def test_optimized_it_gives_the_same_numbers(monkeypatch):
    fastest(monkeypatch, "onednn")
    model, x = tiny(width=256, mlp_dim=384), noise(2, 24, 16)
    with torch.no_grad():
        expected = model(x)
    assert error(zoo.optimize(model)(x), expected) <= 1e-5
    assert 0 < error(zoo.optimize(model, dtype=torch.bfloat16)(x), expected) < 0.1
