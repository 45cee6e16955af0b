"""RWKV-4 against transformers, from the same folders. Its own attention_mask is ignored, so rows have no padding."""

import json

import pytest
import torch
from decoder_peers import prompt
from peers import edit_json, error, randomize
from safetensors.torch import load_file
from text_peers import answer, ragged

import zoo
from zoo.models.registry import build, family

TINY = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 5, "intermediate_size": 48, "context_length": 64,
    "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
CASES = {
    "language model": ("RwkvForCausalLM", {"rescale_every": 0}),
    "halved": ("RwkvForCausalLM", {"rescale_every": 2}),
    "tied": ("RwkvForCausalLM", {"tie_word_embeddings": True, "layer_norm_epsilon": 1e-6}),
    "wide": ("RwkvForCausalLM", {"attention_hidden_size": 40, "rescale_every": 1}),
    "hidden states": ("RwkvModel", {"rescale_every": 2}),
}  # fmt: skip


def case(folder, name, **options):
    """A tiny model of transformers, every parameter random, saved in a folder before its first evaluation, which halves
    some of its weights."""
    import transformers

    cls = getattr(transformers, CASES[name][0])
    model = randomize(cls(transformers.RwkvConfig(**TINY | CASES[name][1] | options)), 0)
    model.save_pretrained(folder)
    return model


def outputs(model, ids):
    """Of a model of transformers, whose cache takes no other width of the time mixing than its own."""
    output = model(ids, use_cache=False)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_same_numbers_from_the_same_files(tmp_path, name):
    theirs, ids = case(tmp_path, name).eval(), prompt(3, 21, vocab=99)
    ours = zoo.load(tmp_path)
    assert error(ours(ids), outputs(theirs, ids)) <= 1e-5
    assert error(ours.train()(ids), outputs(theirs.train(), ids)) <= 1e-5
    assert not (ours.load_report.initialized or ours.load_report.dropped)


@torch.no_grad()
def test_float64(tmp_path):
    """They compute the sums in float32 from float64, too: only what is around them can agree further."""
    theirs, ids = case(tmp_path, "halved").eval().double(), prompt(2, 13, vocab=99)
    ours = zoo.load(tmp_path, dtype=torch.float64)
    assert error(ours(ids), outputs(theirs, ids)) <= 2e-6
    one = ids[:, :1]  # of one token the average is its value
    assert error(ours(one), outputs(theirs, one)) <= 1e-9


@torch.no_grad()
def test_halving_shows_in_the_eps_of_norms(tmp_path):
    theirs, ids = case(tmp_path, "halved").eval(), prompt(2, 9, vocab=99)
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if any(part in key for part in ("embeddings", "output", "feed_forward.value", "pre_ln")):
                parameter.mul_(1e-3)
    theirs.save_pretrained(tmp_path)
    expected = outputs(theirs, ids)
    assert error(zoo.load(tmp_path)(ids), expected) <= 1e-5
    assert error(zoo.load(tmp_path, rescale_every=0)(ids), expected) > 1e-3


@torch.no_grad()
def test_halving_keeps_float16_in_its_range():
    """Hidden states that grow beyond 65,504 after several layers."""
    model = zoo.create_model("rwkv_nano", width=32, depth=8, rescale_every=1).eval()
    for block in model.blocks:
        block.mixer.out.weight.mul_(2e4)
        block.mlp.down.weight.mul_(2e4)
    expected, ids = model(prompt()), prompt()
    close = model.half()(ids).float()
    assert close.isfinite().all() and error(close, expected) < 0.05


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_round_trip_through_their_format(tmp_path, name):
    import transformers

    case(tmp_path / "first", name)
    ours, ids = zoo.load(tmp_path / "first"), prompt(2, 9, vocab=99)
    zoo.export(ours, tmp_path / "second")
    theirs = getattr(transformers, CASES[name][0]).from_pretrained(tmp_path / "second").eval()
    assert error(ours(ids), outputs(theirs, ids)) <= 1e-5
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("first", "second"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    again = zoo.load(tmp_path / "second")
    assert torch.equal(ours(ids), again(ids)) and again.config.rescale_every == ours.config.rescale_every


@pytest.mark.parametrize("name", ["language model", "halved"])
def test_greedy_as_transformers_token_for_token(tmp_path, name):
    """One row at a time: their steps mix up the rows of a batch."""
    theirs = case(tmp_path, name).eval()
    ours, ids = zoo.load(tmp_path), prompt(3, 9, vocab=99)
    given = dict(max_new_tokens=12, eos_token_id=None)
    rows = [theirs.generate(row[None], do_sample=False, pad_token_id=1, **given) for row in ids]
    assert torch.equal(zoo.generate(ours, ids, **given), torch.cat(rows))


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_padded_batch_continue_as_alone(tmp_path, side):
    case(tmp_path, "halved")
    ours, batch = zoo.load(tmp_path), ragged((9, 4, 6), side=side)
    out = zoo.generate(ours, **batch, max_new_tokens=8, eos_token_id=None)
    for row, ids, mask in zip(out, batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        alone = zoo.generate(ours, ids[mask][None], max_new_tokens=8, eos_token_id=None)
        assert torch.equal(row[9:], alone[0, int(mask.sum()) :])
    kept = ours.drop_padding
    expected, ours.drop_padding = answer(ours, batch), False
    real = batch["attention_mask"].bool()
    assert kept and error(answer(ours, batch)[real], expected[real]) <= 1e-5


def test_beams_and_sampled_rows_keep_their_states(tmp_path):
    case(tmp_path, "halved")
    ours, ids = zoo.load(tmp_path), prompt(2, 6, vocab=99)
    out = zoo.generate(ours, ids, num_beams=3, max_new_tokens=6, eos_token_id=None)
    with torch.no_grad():
        beams = zoo.generate(ours, ids, num_beams=3, max_new_tokens=6, eos_token_id=None, num_return_sequences=3)
        scores = ours(beams).log_softmax(-1)[:, 5:-1].gather(2, beams[:, 6:, None]).sum((1, 2))
    assert torch.equal(out, beams[::3]) and bool((scores[::3] >= scores.view(2, 3).amax(1) - 1e-4).all())


def test_training_gives_the_losses_of_transformers(tmp_path):
    histories = []
    theirs = case(tmp_path, "halved")
    for model in (zoo.load(tmp_path), theirs):
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        generator, history = torch.Generator().manual_seed(0), []
        for _ in range(20):
            ids = torch.randint(99, (4, 12), generator=generator)
            output = model(ids)
            scores = output if isinstance(output, torch.Tensor) else output.logits
            loss = torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        histories.append(torch.tensor(history, dtype=torch.float64))
    ours, expected = histories
    assert expected[-1] < expected[0] and (ours / expected - 1).abs().max() <= 1e-4


@pytest.mark.parametrize("tensor", ["rwkv.blocks.0.pre_ln.weight", "rwkv.blocks.4.attention.time_decay", "head.weight"])
def test_a_missing_tensor_is_named(tmp_path, tensor):
    from safetensors.torch import save_file

    case(tmp_path, "language model")
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[tensor]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(zoo.LoadError, match=tensor.removeprefix("rwkv.").replace(".", r"\.")):
        zoo.load(tmp_path)


def test_a_folder_of_the_hub(tmp_path):
    """RWKV/rwkv-4-169m-pile: its config.json, and a BPE tokenizer of bytes."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    theirs = case(tmp_path, "language model", vocab_size=300, rescale_every=2).eval()
    config = json.loads((tmp_path / "config.json").read_text())
    published = ("vocab_size", "context_length", "hidden_size", "num_hidden_layers", "intermediate_size")
    hub = {key: config[key] for key in published} | {
        "architectures": ["RwkvForCausalLM"], "attention_hidden_size": 32, "bos_token_id": 0, "eos_token_id": 0,
        "layer_norm_epsilon": 1e-05, "model_type": "rwkv", "rescale_every": 2, "tie_word_embeddings": False,
        "transformers_version": "4.29.0.dev0", "use_cache": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(hub))
    (tmp_path / "generation_config.json").unlink()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    backend.train_from_iterator(["the cat sat on the mat"] * 9, trainer)
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    tokenizer = transformers.GPTNeoXTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.save_pretrained(tmp_path)
    ours = zoo.load(tmp_path)
    ids = ours.preprocess(["the cat sat"])["input_ids"]
    assert ids.tolist() == tokenizer(["the cat sat"])["input_ids"]
    assert error(answer(ours, {"input_ids": ids}), outputs(theirs, ids)) <= 1e-5
    assert ours.config.eos_token_id == 0


COUNTS = {"rwkv_4_169m_pile": 169_342_464, "rwkv_4_430m_pile": 430_397_440, "rwkv_4_7b_pile": 7_392_649_216}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_those_of_transformers(name):
    import transformers

    found = family("rwkv")
    config = found.config(**found.variants[name])
    sizes = dict(hidden_size=config.width, num_hidden_layers=config.depth)
    with torch.device("meta"):
        theirs = transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes))
    count = sum(p.numel() for p in build(found, config).parameters())
    assert count == sum(p.numel() for p in theirs.parameters()) == COUNTS[name]


@pytest.mark.parametrize("options, message", [
    (dict(act="gelu"), "relu_squared"), (dict(act="gelo"), "did you mean 'gelu'"), (dict(rescale_every=-1), "layers"),
])  # fmt: skip
def test_options_that_do_not_exist(options, message):
    with pytest.raises(ValueError, match=message):
        zoo.create_model("rwkv_nano", **options)


def test_a_value_that_transformers_has_and_we_have_not(tmp_path):
    case(tmp_path, "language model")
    edit_json(tmp_path / "config.json", architectures=["RwkvForSequenceClassification"])
    with pytest.raises(zoo.LoadError, match="RwkvForSequenceClassification"):
        zoo.load(tmp_path)


@pytest.mark.parametrize("mixer", [["rwkv4", "attention"], "retention"])
@torch.no_grad()
def test_other_mixers_with_channel_mixing_decode(mixer):
    model = zoo.create_model("rwkv_nano", width=32, depth=2, heads=4, mixer=mixer).eval()
    ids = prompt(2, 9)
    state = model.new_state(2)
    steps = [model.decode(part, state) for part in ids.split([4, 1, 1, 3], 1)]
    assert error(steps[-1], model(ids)[:, -1]) <= 1e-5
