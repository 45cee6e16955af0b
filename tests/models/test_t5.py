"""T5, T5 v1.1, FLAN-T5 and mT5 against transformers, through files with all parameters random."""

import pytest
import torch
import torch.nn.functional as F
from peers import error
from t5_peers import CASES, batch, outputs, peer
from torch import Tensor, nn

import zoo
from zoo.models.registry import build, find_variant
from zoo.nn.position_biases import BiasView, T5RelativeBias

COUNTS = {
    "t5_small": 60_506_624, "t5_base": 222_903_552, "t5_large": 737_668_096, "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344, "t5_v1_1_small": 76_961_152, "t5_v1_1_base": 247_577_856,
    "t5_v1_1_large": 783_150_080, "t5_v1_1_xl": 2_849_757_184, "flan_t5_small": 76_961_152,
    "flan_t5_base": 247_577_856, "flan_t5_large": 783_150_080, "flan_t5_xl": 2_849_757_184,
    "flan_t5_xxl": 11_135_332_352, "mt5_small": 300_176_768, "mt5_base": 582_401_280,
}  # fmt: skip


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


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
@pytest.mark.parametrize("name", ["t5", "t5 v1.1", "mt5"])
def test_generated_tokens_equal_those_of_transformers(tmp_path, name, options):
    theirs = peer(tmp_path, name, num_decoder_layers=2)  # its cache takes sides of equal depth
    inputs = {key: value for key, value in batch(source=(40, 4, 17)).items() if not key.startswith("decoder_")}
    found = zoo.generate(zoo.load(tmp_path), **inputs, max_new_tokens=12, **options)
    expected = theirs.generate(**inputs, max_new_tokens=12, do_sample=False, **options)
    assert torch.equal(found, expected) and not found[:, 0].any()


def test_overflow_in_float16_is_an_error(tmp_path):
    """The sums of T5's layers may exceed the range of float16, but not that of bfloat16."""
    theirs = peer(tmp_path, "t5")
    with torch.no_grad():
        theirs.encoder.block[0].layer[1].DenseReluDense.wi.weight.mul_(1e3)
        theirs.encoder.block[0].layer[1].DenseReluDense.wo.weight.mul_(1e3)
    theirs.save_pretrained(tmp_path)
    ids = batch()["input_ids"][:1]
    with pytest.raises(ValueError, match=r"not finite.*too great for its type \(float16\)"):
        zoo.generate(zoo.load(tmp_path, dtype=torch.float16), ids)
    found = zoo.generate(zoo.load(tmp_path, dtype=torch.bfloat16), ids, max_new_tokens=3)
    assert found.shape[1] <= 4


def test_loading_in_float16_says_that_it_may_overflow(tmp_path, capsys):
    peer(tmp_path, "t5")
    assert "can exceed the range of float16" in zoo.load(tmp_path, dtype=torch.float16).load_report.notes[0]
    assert "load it with dtype=torch.bfloat16" in capsys.readouterr().err
    assert not zoo.load(tmp_path, dtype=torch.bfloat16).load_report.notes
    zoo.save(zoo.load(tmp_path, dtype=torch.float16), tmp_path / "half")
    assert zoo.load(tmp_path / "half").load_report.notes, "the type of the file counts, too"


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
