"""wav2vec 2.0 and HuBERT: the same files through us and through transformers, clip by clip and padded."""

from copy import deepcopy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from audio_peers import STABLE, WAVEFORM, answer, noise, transformers_audio
from kernel_timers import fastest
from peers import error
from safetensors.torch import load_file, save_file
from table_swaps import check_swaps

import zoo
from zoo.inference.optimized_parts import FrameProducts
from zoo.models.wav2vec2.mapping import read

PEERS = {
    "base": ("Wav2Vec2Model", {}),
    "base characters": ("Wav2Vec2ForCTC", {}),
    "base classifier": ("Wav2Vec2ForSequenceClassification", {}),
    "base mixture of layers": ("Wav2Vec2ForSequenceClassification", dict(use_weighted_layer_sum=True)),
    "stable": ("Wav2Vec2Model", STABLE),
    "stable characters": ("Wav2Vec2ForCTC", STABLE),
    "stable classifier": ("Wav2Vec2ForSequenceClassification", STABLE),
    "stable mixture of layers": ("Wav2Vec2ForSequenceClassification", STABLE | dict(use_weighted_layer_sum=True)),
    "base frames": ("Wav2Vec2ForAudioFrameClassification", dict(use_weighted_layer_sum=True)),
    "stable frames": ("Wav2Vec2ForAudioFrameClassification", STABLE),
    "stable norms on group norm": ("Wav2Vec2Model", dict(do_stable_layer_norm=True, conv_bias=True)),
    "other options": (
        "Wav2Vec2ForCTC",
        dict(
            feat_extract_norm="layer", num_conv_pos_embeddings=7, hidden_act="relu", feat_extract_activation="gelu_new",
            layer_norm_eps=1e-6, conv_dim=(16, 24), conv_kernel=(10, 3), conv_stride=(5, 2), pad_token_id=3,
        ),
    ),
    "hubert": ("HubertModel", {}),
    "hubert characters": ("HubertForCTC", STABLE),
    "hubert classifier": ("HubertForSequenceClassification", dict(use_weighted_layer_sum=True)),
    "hubert without feature norm": ("HubertModel", STABLE | dict(feat_proj_layer_norm=False)),
}  # fmt: skip
MASKED = [name for name, (_, options) in PEERS.items() if options.get("feat_extract_norm") == "layer"]
LENGTHS = (400, 800, 613)


def peer(folder, name, **options):
    return transformers_audio(folder, PEERS[name][0], **PEERS[name][1] | options)


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Name -> (a folder, their model), each made once: tests leave both as they are."""

    @cache
    def make(name):
        folder = tmp_path_factory.mktemp("peer")
        return folder, peer(folder, name)

    return make


def ragged(lengths=LENGTHS):
    """Clips of these lengths, padded on the right with something that is not zero."""
    x = noise(len(lengths), max(lengths))
    return x, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def cut(model, y, lengths):
    """The real frames of each row of [B, N, ...]."""
    return [row[: model.frames(n)] for row, n in zip(y, lengths)] if y.ndim == 3 else list(y)


def alone(model, x, lengths):
    """The answers for each clip by itself."""
    return [answer(model, x[row : row + 1, :n])[0] for row, n in enumerate(lengths)]


@pytest.mark.parametrize("name", PEERS)
def test_same_numbers_from_the_same_files(peers, name):
    """Also for padded clips: theirs alone, ours in one batch, forgetting what stands in the padding."""
    folder, theirs = peers(name)
    ours = zoo.load(folder)
    assert not (ours.load_report.initialized or ours.load_report.resampled or ours.training)
    assert all(dropped.endswith("masked_spec_embed") for dropped in ours.load_report.dropped)
    x, mask = ragged()
    assert error(answer(ours, x), answer(theirs, x)) <= 1e-5
    exact, in_double = zoo.load(folder, dtype=torch.float64), x.double()
    for y, z in zip(cut(ours, answer(ours, x, mask), LENGTHS), alone(theirs, x, LENGTHS), strict=True):
        assert error(y, z) <= 1e-5
    theirs = deepcopy(theirs).double()
    assert error(answer(exact, in_double), answer(theirs, in_double)) <= 1e-9
    assert error(answer(ours.double(), in_double), answer(theirs, in_double)) <= 1e-9
    for y, z in zip(cut(exact, answer(exact, in_double, mask), LENGTHS), alone(theirs, in_double, LENGTHS)):
        assert error(y, z) <= 1e-9
    assert zoo.verify(folder).ok


@pytest.mark.parametrize("name", MASKED)
def test_their_padded_batches_where_padding_does_not_reach_into_the_clips(peers, name):
    folder, theirs = peers(name)
    ours = zoo.load(folder)
    x, mask = ragged()
    y, z = answer(ours, x, mask), answer(theirs, x, mask)
    for a, b in zip(cut(ours, y, LENGTHS), cut(ours, z, LENGTHS)):
        assert error(a, b) <= 1e-5


@pytest.mark.parametrize("name", PEERS)
def test_round_trip_through_their_format(tmp_path, peers, name):
    """Ours, exported: their loader runs on the folder without missing or left-over names."""
    ours = zoo.load(peers(name)[0])
    zoo.export(ours, tmp_path)
    assert zoo.verify(tmp_path).ok
    again, x = zoo.load(tmp_path), noise(2, 500)
    assert again.config == ours.config and again.load_report.plain and torch.equal(answer(again, x), answer(ours, x))
    import transformers

    cls = getattr(transformers, PEERS[name][0])
    _, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])


@pytest.mark.parametrize("name", ["base", "stable characters"])
def test_historical_names_of_weight_norm(tmp_path, name):
    peer(tmp_path, name)
    x, expected = noise(2, 500), answer(zoo.load(tmp_path), noise(2, 500))
    tensors = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in load_file(tmp_path / "model.safetensors").items()
    }
    assert any(key.endswith("conv.weight_g") for key in tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(answer(zoo.load(tmp_path), x), expected)


@pytest.mark.parametrize("name", ["base characters", "stable classifier", "hubert classifier"])
def test_swapping_any_two_lines_of_a_table_is_caught(tmp_path, name):
    theirs, x = peer(tmp_path, name, num_hidden_layers=1), noise(1, 300)
    check_swaps(tmp_path, lambda model: answer(model, x), answer(theirs, x), 17)


@pytest.mark.parametrize("name, eps", [("base", 1e-5), ("stable", 1e-5)])
def test_eps_shows_where_activations_are_small(tmp_path, name, eps):
    theirs = peer(tmp_path, name)
    with torch.no_grad():
        theirs.feature_projection.projection.weight.mul_(1e-3)
        theirs.feature_projection.projection.bias.mul_(1e-3)
        theirs.encoder.pos_conv_embed.conv.parametrizations.weight.original0.mul_(1e-3)
        theirs.encoder.pos_conv_embed.conv.bias.mul_(1e-3)
    theirs.save_pretrained(tmp_path)
    ours, x = zoo.load(tmp_path), noise(2, 500)
    assert ours.config.norm_eps == eps and error(answer(ours, x), answer(theirs, x)) <= 1e-5
    assert error(answer(zoo.load(tmp_path, norm_eps=1e-6), x), answer(theirs, x)) > 1e-4


def losses(model, logits, steps=20):
    """Of a loop of 20 steps on two batches, without dropout."""
    model = model.double().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    history = []
    for step in range(steps):
        x = noise(6, 300, seed=step % 2).double()
        loss = F.cross_entropy(logits(model(x)), torch.arange(6) % 7)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    return torch.tensor(history)


@pytest.mark.parametrize("name", ["base classifier", "stable classifier"])
def test_twenty_steps_of_training_are_theirs(tmp_path, name):
    """Weight norm too: a step in direction and gain is another than one in their product."""
    chances = dict(hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0)
    theirs = peer(tmp_path, name, layerdrop=0.0, mask_time_prob=0.0, **chances)
    expected = losses(theirs, lambda output: output.logits)
    ours = losses(zoo.load(tmp_path, dropout=0.0, attention_dropout=0.0), lambda output: output)
    assert torch.allclose(ours, expected, rtol=1e-8, atol=0)


# --- Padding, frames, refusals ----------------------------------------------------------------------------------------


def tiny(name="wav2vec2_tiny", **overrides):
    sizes = dict(
        conv_channels=(16, 24, 16), conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2), position_kernel=8,
        position_groups=4, width=32, depth=2, heads=4, mlp_dim=64, vocab_size=11, classifier_width=20,
    )  # fmt: skip
    return zoo.create_model(name, seed=0, **sizes | overrides).eval()


BASE = dict(conv_norm="group", conv_bias=False, order="post")


@pytest.mark.parametrize("options", [BASE, {}], ids=["group norm", "layer norm"])
@pytest.mark.parametrize("head", [None, "ctc", "classify", "token", "pool"])
def test_a_padded_clip_gives_what_it_gives_alone(options, head):
    model = tiny(head=head, **options)
    lengths = (333, 800, 0, 47, 340, 800)
    x = noise(len(lengths), 800)
    mask = (torch.arange(800) < torch.tensor(lengths)[:, None]).long()
    x[0, 333:] = float("nan")  # not even that
    y = answer(model, x, mask)
    for row, n in enumerate(lengths):
        if n:
            (expected,) = alone(model, x[row : row + 1], [n])
            assert error(y[row, : model.frames(n)] if y.ndim == 3 else y[row], expected) <= 1e-6
    if head is None:
        assert (y[2] == 0).all() and (y[0, model.frames(333) :] == 0).all()


@pytest.mark.parametrize("options", [BASE, {}], ids=["group norm", "layer norm"])
def test_gradients_do_not_see_padding(options):
    lengths, model = (300, 500), tiny(head="classify", dropout=0.0, attention_dropout=0.0, **options)
    x = noise(2, 500)
    mask = (torch.arange(500) < torch.tensor(lengths)[:, None]).long()
    model(x, mask).square().sum().backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row, n in enumerate(lengths):
        model(x[row : row + 1, :n]).square().sum().backward()
    for name, p in model.named_parameters():
        assert error(together[name], p.grad) <= 1e-5, name


def test_checkpointing_reaches_the_convolutions():
    model, x = tiny(dropout=0.0, attention_dropout=0.0).train(), noise(2, 400)
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[0, 300:] = 0
    model(x, mask).square().sum().backward()
    kept = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.set_checkpointing()
    calls = []
    model.waves.layers[0].conv.register_forward_hook(lambda *_: calls.append(1))
    model(x, mask).square().sum().backward()
    assert len(calls) == 4  # two clips, each forwards twice
    assert all(error(p.grad, kept[name]) <= 1e-6 for name, p in model.named_parameters())


def test_frames_follow_the_strides():
    model = tiny()
    for n in (46, 47, 65, 66, 800):
        x = noise(1, n) if n >= model.waves.min_samples else None
        assert model.frames(n) == (0 if x is None else model.encode(x).shape[1])
    assert model.frames(torch.tensor([10, 47, 800])).tolist() == [0, model.frames(47), model.frames(800)]
    assert model.config.samples(3) == min(n for n in range(300) if model.frames(n) == 3)
    base = zoo.models.registry.family("wav2vec2").config()
    assert base.samples(1) == 400 and base.samples(2) == 720


@pytest.mark.parametrize("x, mask, message", [
    (noise(2, 10), None, "10 samples are too short: a token needs 30"),
    (noise(2, 1, 400), None, r"expected waveforms \[B, S\] of a float dtype"),
    (torch.zeros(2, 400, dtype=torch.int16), None, "int16"),
    (noise(2, 400), torch.ones(2, 30), r"attention_mask has the shape \(2, 30\), expected \(2, 400\)"),
    (noise(2, 400), torch.ones(2, 400), "attention_mask is torch.float32"),
    (noise(2, 400), (torch.arange(400) < torch.tensor([[400], [7]])).long(), "row 1 has 7 samples"),
])  # fmt: skip
def test_waveforms_that_do_not_fit(x, mask, message):
    with pytest.raises(ValueError, match=message):
        tiny()(x, mask)


@pytest.mark.parametrize("overrides, message", [
    (dict(conv_kernels=(10, 3)), "the same number of each"), (dict(conv_strides=(5, 2, 0)), "at least 1"),
    (dict(blank=11), "blank=11"), (dict(position_groups=5), "position_groups=5"), (dict(head="lm"), "head='lm'"),
    (dict(conv_norm="batch"), "conv_norm='batch'"), (dict(conv_stride=(5,)), "did you mean 'conv_strides'"),
    (dict(conv_dim=(5,)), "did you mean 'conv_channels'"), (dict(do_stable_layer_norm=True), "did you mean 'order'"),
])  # fmt: skip
def test_invalid_configs_raise(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(**overrides)


@pytest.mark.parametrize("options, message", [
    (dict(add_adapter=True), "add_adapter=True"), (dict(adapter_attn_dim=4), "adapter_attn_dim=4"),
])  # fmt: skip
def test_what_we_do_not_compute_is_named(tmp_path, options, message):
    transformers_audio(tmp_path, "Wav2Vec2ForCTC", **STABLE | options)
    with pytest.raises(zoo.LoadError, match=message):
        zoo.load(tmp_path)


def test_a_batch_norm_in_the_positions_is_named(tmp_path):
    transformers_audio(tmp_path, "HubertModel", conv_pos_batch_norm=True)
    with pytest.raises(zoo.LoadError, match="conv_pos_batch_norm=True"):
        zoo.load(tmp_path)


def test_what_transformers_cannot_express_is_named(tmp_path):
    with pytest.raises(ValueError, match="feature_norm=False"):
        zoo.export(tiny(feature_norm=False), tmp_path)
    with pytest.raises(ValueError, match="attention='linear'"):
        zoo.export(tiny(attention="linear"), tmp_path)


@pytest.mark.parametrize("options", [BASE, {}], ids=["group norm", "layer norm"])
def test_maps_and_a_core_of_ones_own_on_padded_clips(options):
    class Mine(zoo.nn.Core):
        def weights(self, q, k, mask=None, bias=None):
            return self.scores(q, k, mask, bias).softmax(-1)

    mine, softmax, (x, mask) = tiny(attention=Mine, **options), tiny(**options), ragged()
    with torch.no_grad():
        assert error(mine(x, mask), softmax(x, mask)) <= 1e-5
        with zoo.capture(mine, layers=[-1]) as maps:
            mine(x, mask)
    weights, real = maps["blocks.1.mixer"], mine.frames(LENGTHS[0])
    assert weights.shape == (3, 4, mine.frames(800), mine.frames(800))
    assert error(weights[0, :, :real].sum(-1), torch.ones(4, real)) <= 1e-5 and (weights[0, :, real:] == 0).all()


@pytest.mark.parametrize("options", [BASE, {}], ids=["group norm", "layer norm"])
@pytest.mark.parametrize("head", ["ctc", "classify"])
def test_optimized_it_gives_the_same_numbers(options, head, monkeypatch):
    fastest(monkeypatch, "onednn")
    wide = dict(width=256, mlp_dim=384, conv_channels=(256, 256, 256), heads=4, layer_sum=head == "classify")
    model, (x, mask) = tiny(head=head, **options | wide), ragged()
    with torch.no_grad():
        expected, real = model(x, mask), model.frames(torch.tensor(LENGTHS))
    keep = torch.arange(expected.shape[1]) < real[:, None] if head == "ctc" else slice(None)
    fast, half = zoo.optimize(model), zoo.optimize(model, dtype=torch.bfloat16)
    assert any(isinstance(part, FrameProducts) for part in fast.modules()) == (not options)
    assert error(fast(x, mask)[keep], expected[keep]) <= 1e-5
    assert error(fast(x), model(x).detach()) <= 1e-5
    assert 0 < error(half(x, mask)[keep], expected[keep]) < 0.1


def test_a_fresh_alphabet_on_a_pretrained_body(tmp_path):
    transformers_audio(tmp_path, "Wav2Vec2ForPreTraining", codevector_dim=8, proj_codevector_dim=8)
    bare = zoo.load(tmp_path)
    quantizer = ["project_hid", "project_q", "quantizer.weight_proj"]
    expected = {f"{name}.{kind}" for name in quantizer for kind in ("weight", "bias")} | {"quantizer.codevectors"}
    assert bare.config.head is None and set(bare.load_report.dropped) == expected | {"wav2vec2.masked_spec_embed"}
    assert zoo.verify(tmp_path).ok
    model = zoo.load(tmp_path, head="ctc", vocab_size=5)
    assert model.load_report.initialized == ["head.proj.weight", "head.proj.bias"]
    assert model(noise(2, 400)).shape == (2, model.frames(400), 5)
    zoo.save(model, tmp_path / "characters")
    other = zoo.load(tmp_path / "characters", vocab_size=6)
    assert other.load_report.initialized == ["head.proj.weight", "head.proj.bias"]
    assert other(noise(2, 400)).shape[-1] == 6
    labeled = zoo.load(tmp_path, labels=["a", "b", "c"])
    assert (
        labeled(noise(2, 400)).shape == (2, 3) and labeled.config.classifier_width == WAVEFORM["classifier_proj_size"]
    )


def test_settings_that_files_leave_out_and_a_padding_token_that_is_not_a_symbol():
    """The defaults are those of transformers' config; CTC needs a blank, which is 0 there, too."""
    from transformers import Wav2Vec2Config

    fields = {"blank": 99, "vocab_size": 32}
    assert read(fields, {}) == {"order": "post", "vocab_size": 32, "blank": 0}
    assert not Wav2Vec2Config().do_stable_layer_norm and Wav2Vec2Config().pad_token_id == 0
    assert read(fields | {"blank": 5}, {"do_stable_layer_norm": True}) == {"order": "pre", "vocab_size": 32, "blank": 5}
