"""T5, T5 v1.1, FLAN-T5 and mT5 against transformers, through files with all parameters random."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from peers import edit_json, error, randomize
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.models.registry import build, find_variant
from zoo.nn.position_biases import BiasView, T5RelativeBias

TINY = {
    "vocab_size": 99, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "dropout_rate": 0.0, "decoder_start_token_id": 0,
}  # fmt: skip
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

# name of a case: (transformers' class, its options)
CASES = {
    "t5": ("T5ForConditionalGeneration", {}),
    "t5 v1.1": ("T5ForConditionalGeneration", V1_1),
    "t5 gated, tied": ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-silu"}),
    "t5 exact gelu": ("T5ForConditionalGeneration", {"feed_forward_proj": "gelu"}),
    "t5 buckets": (
        "T5ForConditionalGeneration", {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 40}
    ),
    "t5 hidden states": ("T5Model", {}),
    "t5 encoder": ("T5EncoderModel", V1_1),
    "mt5": ("MT5ForConditionalGeneration", {"tie_word_embeddings": False}),
    "mt5 tied": ("MT5ForConditionalGeneration", {}),
    "mt5 hidden states": ("MT5Model", {}),
    "mt5 encoder": ("MT5EncoderModel", {}),
}  # fmt: skip
COUNTS = {
    "t5_small": 60_506_624, "t5_base": 222_903_552, "t5_large": 737_668_096, "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344, "t5_v1_1_small": 76_961_152, "t5_v1_1_base": 247_577_856,
    "t5_v1_1_large": 783_150_080, "t5_v1_1_xl": 2_849_757_184, "flan_t5_small": 76_961_152,
    "flan_t5_base": 247_577_856, "flan_t5_large": 783_150_080, "flan_t5_xl": 2_849_757_184,
    "flan_t5_xxl": 11_135_332_352, "mt5_small": 300_176_768, "mt5_base": 582_401_280,
}  # fmt: skip


def peer(folder: Path, name: str, seed: int = 0, **options) -> nn.Module:
    """A tiny model of transformers, saved in `folder`; an untied head has weights of its own."""
    transformers = pytest.importorskip("transformers")
    kind, own = CASES[name]
    cls = getattr(transformers, kind)
    options = TINY | own | options
    model = cls(cls.config_class(**options))
    if options.get("tie_word_embeddings") is False and hasattr(model, "lm_head"):
        model.lm_head.weight = nn.Parameter(torch.empty(model.lm_head.weight.shape))
    randomize(model, seed)
    model.save_pretrained(folder)
    return model


def batch(source=(11, 4, 7), target=(6, 3, 5), seed=1, side="right") -> dict[str, Tensor]:
    """Ragged rows of both sides; those of the decoder are padded on the right."""
    random = torch.Generator().manual_seed(seed)
    result = {}
    for prefix, lengths, right in (("", source, side == "right"), ("decoder_", target, True)):
        ids = torch.randint(3, 99, (len(lengths), max(lengths)), generator=random)
        place, count = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
        keep = place < count if right else place >= max(lengths) - count
        result |= {f"{prefix}input_ids": ids * keep, f"{prefix}attention_mask": keep.long()}
    return result


def outputs(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits, else hidden states; zeros at padding."""
    if not hasattr(model, "decoder") or model.decoder is None:
        inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    with torch.no_grad():
        output = model(**inputs)
    if not isinstance(output, Tensor):
        output = output.logits if "logits" in output else output.last_hidden_state
    keep = inputs.get("decoder_attention_mask", inputs["attention_mask"])
    return output * keep[..., None]


@pytest.fixture
def exact_norms(monkeypatch):
    """transformers' RMSNorm in the dtype of its inputs, instead of float32 where these are float64."""
    for name in ("t5", "mt5"):
        module = pytest.importorskip(f"transformers.models.{name}.modeling_{name}")

        def forward(self, x):
            return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

        monkeypatch.setattr(getattr(module, f"{name.upper()}LayerNorm"), "forward", forward)


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(tmp_path, name, exact_norms):
    theirs = peer(tmp_path, name)
    ours = zoo.load(tmp_path)
    assert not ours.load_report.initialized and not ours.load_report.dropped
    for inputs in (batch(), batch(source=(150, 20), target=(140, 9))):
        assert error(outputs(ours, inputs), outputs(theirs, inputs)) <= 1e-5
        assert error(outputs(ours.double(), inputs), outputs(theirs.double(), inputs)) <= 1e-9
        ours, theirs = ours.float(), theirs.float()


def test_the_greatest_distance_of_biases(tmp_path):
    """The buckets of 64 and 128 differ from distance 8 on only by rows of the table for far tokens."""
    inputs = batch(source=(140, 131), target=(135, 132))
    both = []
    for distance in (64, 128):
        theirs = peer(tmp_path / str(distance), "t5", relative_attention_max_distance=distance)
        ours = zoo.load(tmp_path / str(distance))
        assert ours.config.relative_attention_max_distance == distance
        assert error(outputs(ours, inputs), outputs(theirs, inputs)) <= 1e-5
        both.append(outputs(ours, inputs))
    assert error(*both) > 1e-2


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (32, 64), (16, 40), (64, 1000)])
def test_buckets_equal_those_of_transformers(bidirectional, buckets, longest):
    theirs = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention._relative_position_bucket
    distances = torch.arange(-3000, 3001)
    ours = T5RelativeBias(torch.zeros(buckets, 1), bidirectional, longest).bucket(distances)
    assert torch.equal(ours, theirs(distances, bidirectional, buckets, longest))


def test_the_eps_of_the_norms(tmp_path):
    theirs = peer(tmp_path, "t5 v1.1")
    with torch.no_grad():
        theirs.shared.weight.mul_(1e-3)
    theirs.save_pretrained(tmp_path)
    ours, inputs = zoo.load(tmp_path), batch()
    assert ours.config.norm_eps == 1e-6
    assert error(outputs(ours, inputs), outputs(theirs, inputs)) <= 1e-5
    other = zoo.load(tmp_path, norm_eps=1e-5)
    assert error(outputs(other, inputs), outputs(theirs, inputs)) > 1e-3


@pytest.mark.parametrize("name", ["t5", "t5 v1.1", "mt5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_equals_transformers(tmp_path, name, dtype, exact_norms):
    theirs = peer(tmp_path, name).to(dtype)
    ours = zoo.load(tmp_path, dtype=dtype)

    def losses(model: nn.Module) -> Tensor:
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        history = []
        for step in range(20):
            inputs = batch(source=(20, 9), target=(12, 6), seed=step)
            labels = inputs["decoder_input_ids"].roll(-1, 1).masked_fill(inputs["decoder_attention_mask"] == 0, -100)
            output = model(**inputs)
            logits = output if isinstance(output, Tensor) else output.logits
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        return torch.tensor(history, dtype=torch.float64)

    found, expected = losses(ours), losses(theirs)
    assert expected[-1] < expected[0]
    assert (found / expected - 1).abs().max() <= (1e-4 if dtype == torch.float32 else 1e-8)


# --- Padding, packing, decoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_equal_rows_alone(tmp_path, drop, side):
    peer(tmp_path, "t5")
    model = zoo.load(tmp_path)
    model.drop_padding = drop
    lengths, inputs = (140, 9, 77), batch(source=(140, 9, 77), target=(135, 8, 40), side=side)
    together = outputs(model, inputs)
    for row, (n, m) in enumerate(zip(lengths, (135, 8, 40))):
        real = slice(0, n) if side == "right" else slice(140 - n, 140)
        with torch.no_grad():
            alone = model(inputs["input_ids"][row : row + 1, real],
                          decoder_input_ids=inputs["decoder_input_ids"][row : row + 1, :m])  # fmt: skip
        assert error(together[row, :m], alone[0]) <= 1e-6


def test_decoding_equals_one_pass(tmp_path):
    peer(tmp_path, "t5")
    model, inputs = zoo.load(tmp_path), batch(source=(21, 140), target=(135, 135))
    ids = inputs["decoder_input_ids"]
    with torch.no_grad():
        expected = model(**inputs)
        memory = model.encode(inputs["input_ids"], inputs["attention_mask"])
        state = model.new_state(memory, inputs["attention_mask"], capacity=8)
        steps = [model.decode(ids[:, :100], state)]
        steps += [model.decode(ids[:, i : i + 1], state) for i in range(100, 135)]
    assert error(torch.stack(steps, 1), expected[:, 99:]) <= 1e-6


def test_decoding_ragged_rows_equals_one_pass(tmp_path):
    """Positions of the biases count real tokens."""
    peer(tmp_path, "t5")
    model, inputs = zoo.load(tmp_path), batch(source=(21, 9), target=(20, 20))
    ids, keep = inputs["decoder_input_ids"], torch.ones(2, 20, dtype=torch.long)
    keep[1, :12] = 0  # padded on the left
    with torch.no_grad():
        whole = model(inputs["input_ids"][1:, :9], decoder_input_ids=ids[1:, 12:])
        memory = model.encode(inputs["input_ids"], inputs["attention_mask"])
        state = model.new_state(memory, inputs["attention_mask"])
        steps = [model.decode(ids[:, :15], state, keep[:, :15])]
        steps += [model.decode(ids[:, i : i + 1], state, keep[:, : i + 1]) for i in range(15, 20)]
    assert error(torch.stack(steps, 1)[1], whole[0, 2:]) <= 1e-6


def test_a_new_token_computes_its_own_biases_alone(tmp_path, monkeypatch):
    peer(tmp_path, "t5")
    model, inputs = zoo.load(tmp_path), batch(source=(20, 20), target=(40, 40))
    with torch.no_grad():
        memory = model.encode(inputs["input_ids"])
        state = model.new_state(memory)
        model.decode(inputs["decoder_input_ids"][:, :39], state)
        sizes = []
        bucket = T5RelativeBias.bucket
        monkeypatch.setattr(
            T5RelativeBias, "bucket", lambda self, distance: sizes.append(distance.numel()) or bucket(self, distance)
        )
        model.decode(inputs["decoder_input_ids"][:, 39:], state)
    assert sizes == [40], "the biases of the 40 keys, once for all layers"


def test_the_cross_attention_has_no_biases(tmp_path):
    """The order of the encoder's states is nothing that the decoder sees."""
    peer(tmp_path, "t5")
    model = zoo.load(tmp_path)
    memory, ids = torch.randn(2, 9, 32), batch()["decoder_input_ids"][:2]
    with torch.no_grad():
        one, two = (model.decode(ids, model.new_state(m)) for m in (memory, memory.flip(1)))
    assert error(one, two) <= 1e-6


def test_capture_gives_the_maps_of_both_sides(tmp_path):
    theirs = peer(tmp_path, "t5")
    theirs.set_attn_implementation("eager")
    model = zoo.load(tmp_path)
    inputs = {name: value for name, value in batch(source=(11, 11), target=(6, 6)).items() if "mask" not in name}
    with torch.no_grad(), zoo.capture(model) as maps:
        model(**inputs)
        expected = theirs(**inputs, output_attentions=True)
    assert len(maps) == 2 + 3 + 3
    for prefix, kind, name in (("encoder", "mixer", "encoder_attentions"), ("decoder", "mixer", "decoder_attentions"),
                               ("decoder", "cross", "cross_attentions")):  # fmt: skip
        for layer, weights in enumerate(expected[name]):
            assert error(maps[f"{prefix}.blocks.{layer}.{kind}"], weights) <= 1e-5


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_export_is_read_by_transformers(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    theirs = peer(tmp_path / "theirs", name)
    zoo.export(zoo.load(tmp_path / "theirs"), tmp_path / "ours", "transformers")
    architecture = json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"][0]
    assert architecture == type(theirs).__name__.removeprefix("M"), "mT5 computes what T5 v1.1 does"
    cls = getattr(transformers, architecture)
    again, report = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    inputs = batch()
    assert torch.equal(outputs(again.eval(), inputs), outputs(theirs, inputs))
    before, after = (load_file(tmp_path / side / "model.safetensors") for side in ("theirs", "ours"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert zoo.load(tmp_path / "ours").config == zoo.load(tmp_path / "theirs").config
    if hasattr(again, "lm_head"):
        ids = inputs["input_ids"]
        options = dict(attention_mask=inputs["attention_mask"], max_new_tokens=5, use_cache=False)
        both = [m.generate(ids, **options) for m in (theirs, again)]  # its cache takes sides of equal depth
        assert torch.equal(*both) and not both[0][:, 0].any()
    assert transformers.AutoConfig.from_pretrained(tmp_path / "ours").decoder_start_token_id == 0


@pytest.mark.parametrize("name", ["t5", "t5 v1.1", "t5 encoder", "t5 hidden states", "mt5"])
def test_verify(tmp_path, name):
    peer(tmp_path / "theirs", name)
    assert zoo.verify(tmp_path / "theirs").ok
    zoo.save(zoo.load(tmp_path / "theirs"), tmp_path / "ours")
    assert zoo.verify(tmp_path / "ours").ok


STRAY = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
# What the repositories' config.json say beside the sizes.
T5_HUB = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 48, "d_kv": 12, "d_model": 32,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0,
    "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512, "num_heads": 4,
    "num_layers": 2, "output_past": True, "pad_token_id": 0, "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"early_stopping": True, "num_beams": 4, "prefix": "summarize: "}},
    "vocab_size": 99,
}  # fmt: skip
FLAN_HUB = {
    "architectures": ["T5ForConditionalGeneration"], "d_ff": 48, "d_kv": 12, "d_model": 32,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0, "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5",
    "n_positions": 512, "num_decoder_layers": 3, "num_heads": 4, "num_layers": 2, "output_past": True,
    "pad_token_id": 0, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False, "transformers_version": "4.23.1", "use_cache": True, "vocab_size": 99,
}  # fmt: skip


def published(folder: Path, name: str, config: dict, **options) -> tuple[nn.Module, dict[str, Tensor]]:
    """(transformers' model, its tensors), with the repository's config.json in the folder."""
    theirs = peer(folder, name, **options)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return theirs, tensors


def copies(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensors["shared.weight"].clone() for name in names}


def check(folder: Path, theirs: nn.Module, dropped: list[str], **options) -> zoo.Model:
    ours = zoo.load(folder, **options)
    assert error(outputs(ours, batch()), outputs(theirs, batch())) <= 1e-5
    assert sorted(ours.load_report.dropped) == sorted(dropped) and not ours.load_report.initialized
    return ours


def test_t5_of_the_hub(tmp_path):
    """google-t5/t5-small and -base: every copy of the embeddings, and biases that nothing uses."""
    theirs, tensors = published(tmp_path, "t5", T5_HUB, num_decoder_layers=2)
    more = copies(tensors, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    more[STRAY] = torch.randn(32, 4)
    torch.save(tensors | more, tmp_path / "pytorch_model.bin")
    ours = check(tmp_path, theirs, list(more))
    assert ours.config.tie_word_embeddings and ours.config.scale_decoder_outputs and ours.config.max_length == 512


def test_flan_t5_of_the_hub(tmp_path):
    theirs, tensors = published(tmp_path, "t5 v1.1", FLAN_HUB)
    more = copies(tensors, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    save_file(tensors | more, tmp_path / "model.safetensors")
    ours = check(tmp_path, theirs, list(more))
    assert not ours.config.tie_word_embeddings and not ours.config.scale_decoder_outputs
    assert ours.config.act == "gelu_tanh" and ours.config.gated_mlp


def test_a_file_without_shared_embeddings(tmp_path):
    """Files of the encoder alone for image generators have them under the name of the encoder."""
    config = FLAN_HUB | {"architectures": ["T5EncoderModel"]}
    theirs, tensors = published(tmp_path, "t5 encoder", config)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    check(tmp_path, theirs, [])


@pytest.mark.parametrize("how", ["config", "override"])
def test_the_encoder_of_a_file_with_both_sides(tmp_path, how):
    transformers = pytest.importorskip("transformers")
    _, tensors = published(tmp_path, "t5 v1.1", FLAN_HUB)
    save_file(tensors, tmp_path / "model.safetensors")
    if how == "config":
        edit_json(tmp_path / "config.json", architectures=["T5EncoderModel"])
    ours = zoo.load(tmp_path, **({} if how == "config" else dict(head=None, decoder_depth=0)))
    assert all(name.startswith(("decoder.", "head.", "lm_head.")) for name in ours.load_report.dropped)
    assert ours.decoder is None and ours.inputs == ("input_ids", "attention_mask", "lengths")
    theirs = transformers.T5EncoderModel.from_pretrained(tmp_path).eval()
    assert error(outputs(ours, batch()), outputs(theirs, batch())) <= 1e-5
    with pytest.raises(ValueError, match="does not use 'decoder_input_ids'"):
        ours(**batch())


def test_embeddings_that_differ_are_an_error(tmp_path):
    _, tensors = published(tmp_path, "t5", T5_HUB, num_decoder_layers=2)
    save_file(tensors | {"decoder.embed_tokens.weight": torch.randn(99, 32)}, tmp_path / "model.safetensors")
    with pytest.raises(zoo.LoadError, match=r"different under two names shared\.weight and decoder\.embed_tokens"):
        zoo.load(tmp_path)


def test_an_mlp_that_is_not_known_is_an_error(tmp_path):
    peer(tmp_path, "t5")
    edit_json(tmp_path / "config.json", feed_forward_proj="double-gelu", dense_act_fn=..., is_gated_act=...)
    with pytest.raises(zoo.LoadError, match="feed_forward_proj='double-gelu' is not supported"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(("overrides", "message"), [
    (dict(act="gelu", gated_mlp=True), "act='gelu' with gated_mlp=True"),
    (dict(decoder_heads=2), "cannot express decoder_heads=2"),
    (dict(cross_attention="additive"), "cannot express cross_attention='additive'"),
])  # fmt: skip
def test_what_transformers_cannot_express(tmp_path, overrides, message):
    model = zoo.create_model("t5_nano", depth=1, **overrides)
    with pytest.raises(ValueError, match=message):
        zoo.export(model, tmp_path / "out", "transformers")


def test_values_of_the_decoder_that_are_those_of_the_encoder_are_exported(tmp_path):
    model = zoo.create_model("t5_nano", depth=1, decoder_depth=2, decoder_heads=4, decoder_mlp_dim=512)
    zoo.export(model, tmp_path / "out", "transformers")
    assert zoo.load(tmp_path / "out").config.decoder_depth == 2


# --- Models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_published_numbers_of_parameters(name):
    family = find_variant(name)
    with torch.device("meta"):
        model = build(family, family.config(**family.variants[name]))
    assert sum(parameter.numel() for parameter in model.parameters()) == COUNTS[name]
    assert name in family.sources


@pytest.mark.parametrize(("overrides", "message"), [
    (dict(relative_attention_num_buckets=6), "relative_attention_num_buckets=6: expected a multiple of 4"),
    (dict(relative_attention_max_distance=16), "relative_attention_max_distance=16: expected more than 16"),
    (dict(decoder_depth=0), "decoder_depth=0 with head='lm'"),
])  # fmt: skip
def test_configs_that_make_no_sense(overrides, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("t5_nano", **overrides)


def test_biases_of_positions_are_learned_and_seen():
    model = zoo.create_model("t5_nano", depth=1).eval()
    inputs = batch()
    model(**inputs).square().mean().backward()
    for side in (model.encoder, model.decoder):
        assert side.relative_attention_bias.weight.grad.abs().sum() > 0
    views = [BiasView(model.encoder.bias(bidirectional=True)), BiasView(model.decoder.bias(bidirectional=False))]
    assert [view.dense(5, 5).shape for view in views] == [(1, 4, 5, 5)] * 2
