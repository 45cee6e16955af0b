"""`zoo.to_gqa`: heads of keys and values averaged in groups."""

import pytest
import torch
from peers import error, randomize
from torch import Tensor, nn

import zoo
from zoo.checkpoints.golden import named_outputs
from zoo.checkpoints.gqa import average
from zoo.models.base import Model
from zoo.models.bridge.model import Bridge
from zoo.models.example_batch import example_batch
from zoo.models.registry import family, family_names
from zoo.nn.mixers.base import MIXERS, Mixer, MixerConfig

DECODER = dict(vocab_size=50, max_length=32, width=32, depth=2, heads=4, mlp_dim=48)
IMAGE = dict(image_size=32, patch_size=8, width=32, depth=2, heads=4, num_classes=7)
WAVES = dict(
    width=32, depth=2, heads=4, mlp_dim=48, conv_channels=(8, 12, 8), conv_kernels=(10, 3, 2), conv_strides=(5, 2, 2),
    position_kernel=6, position_groups=4, vocab_size=7,
)  # fmt: skip
SMALL = {
    "llama": ("llama_nano", DECODER | {"kv_heads": None}),
    "gpt2": ("gpt_nano", DECODER),
    "bert": ("bert_tiny", DECODER | {"dropout": 0.0}),
    "roberta": ("roberta_base", DECODER),
    "distilbert": ("distilbert_base", DECODER),
    "modernbert": ("modernbert_base", DECODER),
    "clip_text": ("clip_text_base", DECODER),
    "gemma": ("gemma_nano", DECODER | {"kv_heads": None, "head_dim": 8}),
    "granite": ("granite4_nano", DECODER | dict(mixer=None, kv_heads=None)),
    "bigbird": ("bigbird_nano", DECODER),
    "vit": ("vit_base_patch16_224", IMAGE),
    "ast": ("ast_base", dict(width=32, depth=2, heads=4, mlp_dim=48)),
    "wav2vec2": ("wav2vec2_base", WAVES),
    "hubert": ("hubert_base", WAVES),
    "esm": ("esm2_t6_8m", DECODER | {"dropout": 0.0}),
    "graph_transformer": ("graph_transformer_tiny", dict(width=32, depth=2, heads=4, mlp_dim=48)),
    "dalle": ("dalle_nano", dict(width=32, depth=2, heads=4, mlp_dim=48)),
    "maskgit": ("maskgit_nano", dict(width=32, depth=2, heads=4, mlp_dim=48)),
}
REFUSED = {"clip": "several towers", "siglip": "several towers", "contrast": "several towers"}


def small(name: str, **more: object) -> Model:
    """A small model of a family with random weights, biases included."""
    variant, fields = SMALL[name]
    own = family(name)
    variant = variant if variant in own.variants else next(iter(own.variants))
    return randomize(zoo.create_model(variant, seed=0, **fields | more)).eval()


def projections(model: Model) -> list[nn.Linear]:
    return [getattr(block.mixer, part) for block in model.blocks for part in ("k", "v")]


def share_within_groups(model: Model, groups: int) -> None:
    """Give all heads of a group the keys and values of its first."""
    with torch.no_grad():
        for layer in projections(model):
            for tensor in layer.parameters():
                heads = tensor.view(groups, model.config.heads // groups, -1)
                heads.copy_(heads[:, :1].expand_as(heads))


def outputs(model: Model) -> Tensor:
    with torch.no_grad():
        return torch.cat([x.flatten() for x in named_outputs(model(**example_batch(model))).values()])


def test_every_family_is_converted_or_refused_here() -> None:
    recurrent = {"longformer", "mamba", "mamba2", "rwkv", "retnet", "dvae"}  # global projections, or no attention
    recurrent |= {"gat", "set_transformer", "point_transformer", "evoformer"}  # attention of their own
    crossed = recurrent | {"bart", "blip", "coca", "marian", "rnn_seq2seq", "t5", "transformer", "whisper"}
    bridges = {name for name in family_names() if issubclass(family(name).model, Bridge)}
    crossed |= bridges  # convert their text tower
    assert set(family_names()) <= SMALL.keys() | REFUSED.keys() | crossed, "add the new family to one of the lists"


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", SMALL)
def test_heads_that_are_equal_within_a_group_give_the_same_outputs(name: str, groups: int) -> None:
    model = small(name)
    share_within_groups(model, groups)
    new = zoo.to_gqa(model, kv_heads=groups)
    assert type(new) is type(model) and new.config == model.config.replace(kv_heads=groups)
    assert all(layer.out_features == groups * 8 for layer in projections(new))
    assert error(outputs(new), outputs(model)) < 5e-6


@pytest.mark.parametrize("name", SMALL)
def test_the_number_of_heads_that_it_has_changes_nothing(name: str) -> None:
    model = small(name)
    new = zoo.to_gqa(model, kv_heads=4)
    assert torch.equal(outputs(new), outputs(model)) and new.load_report.resampled == []
    with torch.no_grad():  # a copy: the model does not follow
        next(new.parameters()).add_(1)
    assert not torch.equal(next(new.parameters()), next(model.parameters()))


def test_keys_and_values_are_the_means_of_their_groups() -> None:
    model = small("gpt2")
    new = zoo.to_gqa(model, kv_heads=2)
    for before, after in zip(projections(model), projections(new), strict=True):
        heads = before.weight.view(4, 8, 32)
        expected = torch.stack([(heads[0] + heads[1]) / 2, (heads[2] + heads[3]) / 2]).flatten(0, 1)
        assert torch.allclose(after.weight, expected, atol=1e-7)
        assert torch.allclose(after.bias.view(2, 8), before.bias.view(2, 2, 8).mean(1), atol=1e-7)
    kept = {name: t for name, t in model.state_dict().items() if ".mixer.k." not in name and ".mixer.v." not in name}
    assert all(torch.equal(new.state_dict()[name], tensor) for name, tensor in kept.items())
    assert not torch.allclose(outputs(new), outputs(model), atol=1e-3)


def test_half_precision_is_averaged_in_float32() -> None:
    weight = torch.tensor([1.0, 1.0078125, 1.0, 1.0]).view(4, 1).bfloat16()
    expected = weight.float().view(1, 4).mean(1, keepdim=True).bfloat16()
    assert torch.equal(average(weight, 1, 4), expected) and average(weight, 1, 4).dtype is torch.bfloat16


def test_groups_are_averaged_in_steps_as_at_once() -> None:
    model = small("llama")
    once, twice = zoo.to_gqa(model, kv_heads=1), zoo.to_gqa(zoo.to_gqa(model, kv_heads=2), kv_heads=1)
    assert once.config == twice.config
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_the_report_says_what_was_averaged() -> None:
    new = zoo.to_gqa(small("llama"), kv_heads=2)
    names = {f"blocks.{i}.mixer.{part}.weight" for i in range(2) for part in ("k", "v")}
    assert set(new.load_report.resampled) == names and not names & set(new.load_report.mapped)
    assert "4 key and value heads were averaged to 2 in 2 layers" in str(new.load_report)


@pytest.mark.parametrize("fields", [{}, {"qk_norm": True}, {"qkv_bias": True}, {"tie_word_embeddings": True},
                                    {"rope_scaling": {"kind": "linear", "factor": 2.0}},
                                    {"attention": {"kind": "local", "window": 6}}, {"attention": "linear"},
                                    {"attention": ["performer", "softmax"]}], ids=str)  # fmt: skip
def test_options_of_a_decoder_and_its_folders(tmp_path, fields: dict) -> None:
    model = small("llama", **fields)
    share_within_groups(model, 2)
    new = zoo.to_gqa(model, kv_heads=2)
    assert error(outputs(new), outputs(model)) < 1e-5
    again = zoo.load(zoo.save(new, tmp_path / "saved"))
    assert again.config == new.config and torch.equal(outputs(again), outputs(new))
    prompt = torch.tensor([[3, 4, 5, 6]])
    ids = zoo.generate(new, prompt, max_new_tokens=6, temperature=0, eos_token_id=None)
    assert torch.equal(ids, zoo.generate(model, prompt, max_new_tokens=6, temperature=0, eos_token_id=None))
    if new.config.tie_word_embeddings:
        assert new.head.proj.weight is new.tokens.word.weight


def test_the_cache_shrinks() -> None:
    model = small("llama")
    sizes = [each.new_state(1)[0].mixer.k.shape[1] for each in (model, zoo.to_gqa(model, kv_heads=1))]
    assert sizes == [4, 1]


def test_the_result_is_exported_to_transformers(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    new = zoo.to_gqa(small("llama"), kv_heads=2)
    folder = zoo.export(new, tmp_path / "theirs", "transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert theirs.config.num_key_value_heads == 2
    ids = example_batch(new)["input_ids"]
    with torch.no_grad():
        assert error(theirs(ids).logits, new(ids)) < 1e-5


def test_a_format_without_groups_refuses_the_result(tmp_path) -> None:
    with pytest.raises(ValueError, match="kv_heads"):
        zoo.export(zoo.to_gqa(small("bert"), kv_heads=2), tmp_path / "theirs", "transformers")
    assert not (tmp_path / "theirs").exists()


def test_what_a_model_has_besides_weights_is_kept() -> None:
    model = small("vit")
    model.labels, model.temperature = list("abcdefg"), 1.5
    model.patches.requires_grad_(False)
    model.train()
    model.blocks[0].eval()
    new = zoo.to_gqa(model, kv_heads=2)
    assert (new.labels, new.temperature, new.variant) == (model.labels, 1.5, model.variant)
    assert new.preprocess == model.preprocess and new.training and not new.blocks[0].training
    grads = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: p.requires_grad for name, p in new.named_parameters()} == grads and not all(grads.values())
    assert zoo.to_gqa(model.to(torch.float64), kv_heads=2).dtype is torch.float64


def test_a_hybrid_stack_keeps_its_mixers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, "half", Half)
    model = randomize(zoo.create_model("gpt_nano", seed=0, **DECODER, mixer=["half", "attention"])).eval()
    new = zoo.to_gqa(model, kv_heads=1)
    assert len(new.load_report.resampled) == 4 and torch.equal(new.blocks[0].mixer.w, model.blocks[0].mixer.w)
    with pytest.raises(ValueError, match="only mixers"):
        zoo.to_gqa(zoo.create_model("gpt_nano", seed=0, **DECODER, mixer="half"), kv_heads=1)


class Half(Mixer):
    """x * w, without tokens that are mixed."""

    def __init__(self, spec: MixerConfig) -> None:
        super().__init__(spec)
        self.w = nn.Parameter(torch.empty(spec.width))

    def initialize(self, generator_for) -> None:
        nn.init.constant_(self.w, 0.5)

    def forward(self, x, context, state=None):
        return x * self.w


@pytest.mark.parametrize("count", [0, -1, 3, 8, True, 2.0, "2", None])
def test_numbers_of_heads_that_do_not_fit(count: object) -> None:
    with pytest.raises(ValueError, match="expected a divisor of 4"):
        zoo.to_gqa(small("gpt2"), kv_heads=count)


@pytest.mark.parametrize("name, problem", [("transformer_nano", "cross-attention"), ("t5_nano", "cross-attention"),
                                           ("gru_bahdanau_nano", "kv_heads|cross-attention|attention layers"),
                                           ("clip_tiny", "several towers.*image, text")])  # fmt: skip
def test_models_that_are_refused(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        zoo.to_gqa(zoo.create_model(name, seed=0), kv_heads=1)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a zoo\.Model"):
        zoo.to_gqa(nn.Linear(2, 2), kv_heads=1)
    with pytest.raises(ValueError, match="no values"), torch.device("meta"):
        zoo.to_gqa(zoo.create_model("gpt_nano"), kv_heads=1)


def test_adapters_and_optimized_models_are_refused() -> None:
    pytest.importorskip("peft")
    from zoo.tasks.lora import add_lora

    model = small("gpt2")
    with pytest.raises(ValueError, match="optimized model"):
        zoo.to_gqa(zoo.optimize(model), kv_heads=2)
    add_lora(model, rank=2)
    with pytest.raises(ValueError, match="merge adapters first"):
        zoo.to_gqa(model, kv_heads=2)


def test_global_projections_are_not_averaged() -> None:
    with pytest.raises(ValueError, match=r"k_global.*only the projections of keys and values can be averaged"):
        zoo.to_gqa(zoo.create_model("longformer_nano", seed=0), kv_heads=2)
