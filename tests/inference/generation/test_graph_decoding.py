"""Generation by graphs: token for token what generation by steps gives. On a CPU the steps run as functions, with the
same loop; the tests marked `gpu` record and replay them."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
from decoder_peers import nano, prompt
from text_peers import ragged
from torch import nn

import zoo
from zoo.inference.generation import graph_decoding, static_step
from zoo.inference.generation.graph_decoding import Decoding, graphs_of
from zoo.inference.generation.sampling import sample_from
from zoo.inference.generation.static_step import StaticStep, can_decode_statically
from zoo.nn import Core
from zoo.utils.cuda_graph import GraphRecorder

NEW = 40
SAMPLED = dict(temperature=1.5, seed=3)
MODELS = [
    ("gpt_nano", {}), ("llama_nano", {"kv_heads": 2}), ("llama_nano", {"kv_heads": 1, "qk_norm": True}),
    ("llama_nano", {"rope_scaling": dict(kind="linear", factor=2.0)}), ("gpt_nano", {"attention": "linear"}),
    ("llama_nano", {"attention": "performer", "kv_heads": 2}), ("gpt_nano", {"attention": "rfa"}),
    ("llama_nano", {"attention": {"kind": "local", "window": 4}}), ("gpt_nano", {"attention": ["additive", "strided"]}),
    ("gpt_nano", {"attention": ["longformer", "linear"]}), ("gpt_nano", {"attention": {"kind": "bigbird", "block": 4}}),
]  # fmt: skip
OPTIONS = [
    {}, SAMPLED, SAMPLED | {"top_p": 0.8}, SAMPLED | {"top_k": 5, "min_p": 0.02}, {"repetition_penalty": 1.4},
    SAMPLED | {"num_return_sequences": 2, "repetition_penalty": 1.2},
]  # fmt: skip


@pytest.fixture
def runs(monkeypatch):
    """Graphs on the CPU, too; returns the runs that used them."""
    found, run = [], Decoding.run

    def recorded(decoding):
        new = run(decoding)
        found.append(decoding)
        return new

    monkeypatch.setattr(Decoding, "run", recorded)
    monkeypatch.setattr(graph_decoding, "DEVICE_TYPES", ("cpu", "cuda"))
    monkeypatch.setattr(graph_decoding, "WORTH_RECORDING", 1)
    return found


def by_steps(*args, **options):
    """`zoo.generate` without graphs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph_decoding, "DEVICE_TYPES", ())
        return zoo.generate(*args, **options)


def padded(side="left"):
    return ragged((9, 4, 6), vocab=61, side=side)


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("name, model_options", MODELS)
def test_tokens_are_those_of_steps(runs, name, model_options, side):
    model = nano(name, **model_options)
    batch = {"input_ids": prompt()} if side is None else padded(side)
    for options in ({}, SAMPLED):
        given = dict(max_new_tokens=NEW, eos_token_id=None) | options
        assert torch.equal(zoo.generate(model, **batch, **given), by_steps(model, **batch, **given))
    assert len(runs) == 2


@pytest.mark.parametrize("ends", [None, [3, 7, 9], [17]])
@pytest.mark.parametrize("options", OPTIONS)
def test_options_give_the_tokens_of_steps(runs, options, ends):
    model = nano("llama_nano", kv_heads=2)
    for batch in ({"input_ids": prompt()}, padded()):
        given = dict(max_new_tokens=NEW, eos_token_id=ends, pad_token_id=1) | options
        assert torch.equal(zoo.generate(model, **batch, **given), by_steps(model, **batch, **given))
    assert len(runs) == 2


def test_scores_are_those_of_steps(runs):
    model, given = nano(), dict(max_new_tokens=NEW, eos_token_id=[3, 7, 9], pad_token_id=1, output_scores=True)
    for options in ({}, SAMPLED, {"repetition_penalty": 1.4}):
        ours, theirs = (generate(model, prompt(), **given, **options) for generate in (zoo.generate, by_steps))
        assert torch.equal(ours.sequences, theirs.sequences)
        torch.testing.assert_close(ours.log_probs, theirs.log_probs, atol=1e-5, rtol=0)
    assert len(runs) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_optimized_models_give_the_tokens_of_steps(runs, dtype):
    model = zoo.optimize(nano("llama_nano", kv_heads=2), dtype=dtype, rows="one")
    for batch in ({"input_ids": prompt()}, padded()):
        ours, theirs = (g(model, **batch, max_new_tokens=12, eos_token_id=None) for g in (zoo.generate, by_steps))
        same = (ours == theirs).float().mean()
        assert same == 1 if dtype == torch.float32 else same > 0.8
    assert len(runs) == 2


def test_the_end_of_all_rows_is_noticed_at_the_next_look(runs, monkeypatch):
    model, reads, replay = nano(), [], Decoding.read_token
    monkeypatch.setattr(Decoding, "read_token", lambda self, new: (reads.append(new), replay(self, new)))
    free = by_steps(model, prompt(), max_new_tokens=59, eos_token_id=None)
    ends = [int(row[9]) for row in free]
    out = zoo.generate(model, prompt(), max_new_tokens=59, eos_token_id=ends, pad_token_id=1)
    assert torch.equal(out, by_steps(model, prompt(), max_new_tokens=59, eos_token_id=ends, pad_token_id=1))
    assert out.shape[1] <= 10 and len(reads) == 2 * graph_decoding.LOOK_EVERY - 1


class Passive(list):
    """A streamer that keeps the tokens."""

    is_passive = True

    def __call__(self, token):
        self.append(token)


@pytest.mark.parametrize("ends", [None, [3, 7, 9]])
def test_streamers_that_leave_the_model_alone_get_the_tokens_of_steps(runs, ends):
    model, given = nano(), dict(max_new_tokens=NEW, eos_token_id=ends, pad_token_id=1) | SAMPLED
    ours, theirs = Passive(), []
    out = zoo.generate(model, prompt(), **given, streamer=ours)
    assert len(runs) == 1
    assert torch.equal(out, zoo.generate(model, prompt(), **given, streamer=theirs.append))
    assert len(runs) == 1 and torch.equal(torch.stack(ours), torch.stack(theirs))
    with torch.no_grad():
        model.tokens.positions[20:] = torch.nan
    ours.clear()
    with pytest.raises(ValueError, match="not finite"):
        zoo.generate(model, prompt(), **given | {"eos_token_id": None}, streamer=ours)
    assert len(ours) == 16


@pytest.mark.parametrize("name, options", [("gpt_nano", {}), ("llama_nano", {"attention": ["softmax", "linear"]})])
def test_a_long_text_moves_to_larger_buffers(runs, monkeypatch, name, options):
    monkeypatch.setattr(graph_decoding, "SMALLEST_CAPACITY", 16)
    model, batch = nano(name, **options), padded()
    out = zoo.generate(model, **batch, max_new_tokens=50, eos_token_id=None)
    assert torch.equal(out, by_steps(model, **batch, max_new_tokens=50, eos_token_id=None))
    assert [key[2] for key in graphs_of(model).found if key[0] == "step"] == [32, 64]


def test_graphs_are_used_again_and_few_are_kept(runs, monkeypatch):
    made, record = [], GraphRecorder.record
    monkeypatch.setattr(GraphRecorder, "record", lambda self, *args: (made.append(1), record(self, *args))[1])
    model, given = nano(), dict(max_new_tokens=20, eos_token_id=None)
    first = zoo.generate(model, prompt(), **given)
    assert len(made) == 2
    assert torch.equal(zoo.generate(model, prompt(), **given), first) and len(made) == 2
    zoo.generate(model, prompt(), **given, **SAMPLED)
    assert len(made) == 3  # how tokens are chosen; the step is the same
    for rows in range(1, 8):
        assert torch.equal(zoo.generate(model, prompt(rows), **given), by_steps(model, prompt(rows), **given))
    assert len(graphs_of(model).found) == graph_decoding.MAX_GRAPHS
    assert torch.equal(zoo.generate(model, prompt(), **given), first)


def test_short_texts_are_recorded_once_they_come_again(runs, monkeypatch):
    monkeypatch.setattr(graph_decoding, "WORTH_RECORDING", 20)
    model, given = nano(), dict(eos_token_id=None)
    expected = by_steps(model, prompt(), max_new_tokens=8, **given)
    used = []
    for _ in range(4):
        assert torch.equal(zoo.generate(model, prompt(), max_new_tokens=8, **given), expected)
        used.append(len(runs))
    assert used == [0, 0, 1, 2]
    zoo.generate(model, prompt(1), max_new_tokens=19, **given)
    assert len(runs) == 2
    zoo.generate(model, prompt(1), max_new_tokens=1, **given)
    assert len(runs) == 3
    changed_in_place(model)
    zoo.generate(model, prompt(), max_new_tokens=20, **given)
    new_layer(model)
    zoo.generate(model, prompt(), max_new_tokens=8, **given)  # its graphs would be new, too
    assert len(runs) == 4


def fake_flash(q, k, v, starts, key_starts, longest, capacity, *options, scale, seqused_k):
    """Row by row what `torch.ops.aten._flash_attention_forward` computes for one query of each."""
    assert options == (0.0, False, False) and longest == 1 and torch.equal(key_starts, capacity * starts)
    rows = []
    for row, (start, used) in enumerate(zip(key_starts.tolist(), seqused_k.tolist(), strict=False)):
        own = [t[start : start + used].transpose(0, 1) for t in (k, v)]  # G M P
        own = [t.repeat_interleave(q.shape[1] // t.shape[0], 0) for t in own]
        rows.append(nn.functional.scaled_dot_product_attention(q[row][:, None], *own, scale=scale)[:, 0])
    return (torch.stack(rows),)


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("name, options", [("gpt_nano", {}), ("llama_nano", {"kv_heads": 2})])
def test_flash_attention_reads_the_tokens_of_each_row(runs, monkeypatch, name, options, side):
    calls = []
    monkeypatch.setattr(static_step, "has_flash", lambda k: True)
    monkeypatch.setattr(static_step, "FLASH_WITH_SHARED_HEADS", True)
    monkeypatch.setattr(static_step, "flash_attention", lambda *a, **o: (calls.append(1), fake_flash(*a, **o))[1])
    batch = {"input_ids": prompt()} if side is None else padded(side)
    for model in (nano(name, **options), zoo.optimize(nano(name, **options))):
        ours, theirs = (g(model, **batch, max_new_tokens=NEW, eos_token_id=None) for g in (zoo.generate, by_steps))
        assert torch.equal(ours, theirs)
    assert len(calls) == 2 * (NEW - 1) * len(model.blocks) and len(runs) == 2
    step = next(step for key, (step, _) in graphs_of(model).found.items() if key[0] == "step")
    assert not step.masks  # nor is a mask computed
    cache = step.state[0].mixer
    flash = static_step.FlashToUsed(step.used, cache.k, cache.v, 1.0)
    assert (flash.k.data_ptr(), flash.v.data_ptr()) == (cache.k.data_ptr(), cache.v.data_ptr())
    zoo.generate(nano(attention={"kind": "local", "window": 4}), prompt(), max_new_tokens=NEW, eos_token_id=None)
    assert len(calls) == 2 * (NEW - 1) * len(model.blocks) and len(runs) == 3


def new_weight(model):
    model.blocks[0].mixer.q.weight = nn.Parameter(5 * model.blocks[0].mixer.q.weight.detach())


def changed_in_place(model):
    with torch.no_grad():
        model.blocks[1].mlp.up.weight.mul_(3)


def new_data(model):
    model.head.proj.weight.data = model.head.proj.weight.data.flip(0)


def new_layer(model):
    model.blocks[1].mlp.up = nn.Linear(32, 48)


def new_activation(model):
    model.blocks[0].mlp.act = torch.relu


def new_scale(model):
    model.blocks[0].mixer.core.scale = 3.0


@pytest.mark.parametrize("change", [
    new_weight, changed_in_place, new_data, new_layer, new_activation, new_scale, lambda model: model.double(),
])  # fmt: skip
def test_a_model_that_has_changed_is_recorded_again(runs, change):
    model, given = nano(width=32, mlp_dim=48), dict(max_new_tokens=20, eos_token_id=None)
    before = zoo.generate(model, prompt(), **given)
    change(model)
    after = zoo.generate(model, prompt(), **given)
    assert torch.equal(after, by_steps(model, prompt(), **given)) and len(runs) == 2
    assert not torch.equal(before, after) or model.dtype == torch.float64


class Own(Core):
    def weights(self, q, k, mask=None, bias=None):
        return self.scores(q, k, mask, bias).softmax(-1)


def test_what_cannot_be_recorded_is_generated_by_steps(runs):
    given = dict(max_new_tokens=12, eos_token_id=None)
    model, ids = nano(), prompt()
    zoo.generate(model, ids, **given, streamer=lambda token: None)
    zoo.generate(model, ids, **given, no_repeat_ngram_size=2)
    zoo.generate(model, ids, **given, logits_processor=lambda tokens, scores: scores)
    zoo.generate(model, ids, **given, num_beams=2)
    zoo.generate(model, ids, **given, draft=nano())
    with torch.autocast("cpu", torch.bfloat16):
        zoo.generate(model, ids, **given)
    with zoo.capture(model):
        zoo.generate(model, ids, **given)
    zoo.generate(nano(attention=Own), ids, **given)
    hooked = nano()
    hooked.blocks[0].mlp.register_forward_hook(lambda module, args, y: -y)
    assert not torch.equal(zoo.generate(hooked, ids, **given), by_steps(model, ids, **given))
    assert not runs
    assert not can_decode_statically(nano().train())
    zoo.generate(model.train(), ids, **given)
    assert len(runs) == 1 and model.training


def test_a_lack_of_memory_is_a_warning(runs, monkeypatch):
    model, given = nano(), dict(max_new_tokens=12, eos_token_id=None)

    def fail(error):
        def call(*args):
            raise error

        monkeypatch.setattr(StaticStep, "__call__", call)

    expected = by_steps(model, prompt(), **given)
    fail(torch.OutOfMemoryError("no"))
    with pytest.warns(UserWarning, match="GPT2 generates without CUDA graphs, and more slowly: the memory"):
        assert torch.equal(zoo.generate(model, prompt(), **given), expected)
    fail(RuntimeError("operation not permitted when stream is capturing\nmore"))
    with pytest.warns(UserWarning, match="more slowly: operation not permitted when stream is capturing$"):
        assert torch.equal(zoo.generate(model, prompt(), **given), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once for each model
        assert torch.equal(zoo.generate(model, prompt(), **given), expected)
    assert not runs


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), RuntimeError("capturing"), NotImplementedError("so")])
def test_a_text_that_was_streamed_is_not_started_again(runs, monkeypatch, error):
    """When its larger buffers fail: the streamer would get the first tokens twice."""
    monkeypatch.setattr(graph_decoding, "SMALLEST_CAPACITY", 16)
    model, streamed = nano(), Passive()
    given = dict(max_new_tokens=50, eos_token_id=None)
    expected = by_steps(model, prompt(), **given)

    def fail(*args):
        raise error

    monkeypatch.setattr(StaticStep, "load_static", fail)
    with pytest.raises(type(error)) as raised:
        zoo.generate(model, prompt(), **given, streamer=streamed)
    assert raised.value is error and "ask for fewer new tokens with max_new_tokens=" in error.__notes__[0]
    assert 0 < len(streamed) < 50 and torch.equal(torch.stack(streamed, 1), expected[:, 5 : 5 + len(streamed)])
    graphs_of(model).refused = None
    with pytest.warns(UserWarning, match="without CUDA graphs"):  # without a streamer it is
        assert torch.equal(zoo.generate(model, prompt(), **given), expected)


def test_an_error_of_a_streamer_is_raised_as_it_is(runs):
    class Broken(Passive):
        def __call__(self, token):
            raise RuntimeError("the page is closed")

    model = nano()
    with pytest.raises(RuntimeError, match="the page is closed") as raised:
        zoo.generate(model, prompt(), max_new_tokens=40, streamer=Broken())
    assert not hasattr(raised.value, "__notes__") and graphs_of(model).refused is None


def test_scores_that_are_not_finite_raise(runs):
    model = nano()
    with torch.no_grad():
        model.tokens.positions[40:] = torch.nan
    with pytest.raises(ValueError, match="scores of the next token are not finite"):
        zoo.generate(model, prompt(), max_new_tokens=55, eos_token_id=None)
    free = by_steps(model, prompt(1), max_new_tokens=30, eos_token_id=None)
    end = int(free[0, 30])
    out = zoo.generate(model, prompt(1), max_new_tokens=55, eos_token_id=end)  # what follows the end does not count
    assert torch.equal(out, by_steps(model, prompt(1), max_new_tokens=55, eos_token_id=end))


def test_copies_have_graphs_of_their_own(runs):
    model, given = nano(), dict(max_new_tokens=12, eos_token_id=None)
    expected = zoo.generate(model, prompt(), **given)
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model)), zoo.optimize(model)):
        assert torch.equal(zoo.generate(other, prompt(), **given), expected)
        assert torch.equal(zoo.generate(model, prompt(), **given), expected)


def test_threads_generate_one_after_the_other(runs):
    model, given, found = nano(), dict(max_new_tokens=NEW, eos_token_id=None), {}
    prompts = [prompt(2, length) for length in (3, 5, 7, 9)]
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: zoo.generate(model, prompts[i], **given)}))
        for i in range(len(prompts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, ids in enumerate(prompts):
        assert torch.equal(found[i], by_steps(model, ids, **given))


def test_samples_have_the_random_numbers_of_multinomial():
    ours, theirs = (torch.Generator().manual_seed(5) for _ in range(2))
    for shape in ((1, 50), (4, 5000), (32, 17)):
        probabilities = torch.randn(shape, generator=torch.Generator().manual_seed(1)).softmax(-1)
        for _ in range(5):
            expected = torch.multinomial(probabilities, 1, generator=theirs)[:, 0]
            assert torch.equal(sample_from(probabilities, ours), expected)


# --- On a GPU ---------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(batch):
    return {name: tensor.cuda() for name, tensor in batch.items()}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("options", [{}, SAMPLED | {"top_p": 0.9, "top_k": 20, "repetition_penalty": 1.2}])
@pytest.mark.parametrize("name, model_options", MODELS)
def test_recorded_steps_give_the_tokens_of_steps(runs, name, model_options, options):
    model = nano(name, **model_options).cuda()
    for batch in ({"input_ids": prompt()}, padded()):
        settings = dict(max_new_tokens=NEW, eos_token_id=[3, 7], pad_token_id=1) | options
        given = on_gpu(batch) | settings
        expected = by_steps(model, **given)
        for _ in range(2):
            assert torch.equal(zoo.generate(model, **given), expected)
        if "temperature" not in options:
            assert torch.equal(expected.cpu(), by_steps(model.cpu(), **batch, **settings))
            model.cuda()
    assert len(runs) == 4


@pytest.mark.gpu
@needs_gpu
def test_random_numbers_continue_those_of_the_device(runs):
    model, given, found = nano().cuda(), dict(max_new_tokens=NEW, eos_token_id=[3, 7, 9], pad_token_id=1), []
    for generate in (zoo.generate, by_steps):
        torch.manual_seed(7)
        found.append([generate(model, prompt().cuda(), temperature=1.5, **given) for _ in range(3)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.gpu
@needs_gpu
def test_a_recorded_model_follows_its_weights(runs, monkeypatch):
    monkeypatch.setattr(graph_decoding, "SMALLEST_CAPACITY", 16)
    model, given = nano().cuda(), dict(max_new_tokens=50, eos_token_id=None)
    for change in (lambda model: None, changed_in_place, new_weight, new_data):
        change(model.cuda())
        model.cuda()
        assert torch.equal(zoo.generate(model, prompt().cuda(), **given), by_steps(model, prompt().cuda(), **given))
    assert len(runs) == 4


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name, options", [("gpt_nano", {}), ("llama_nano", {"kv_heads": 2})])
def test_flash_attention_on_a_gpu_gives_the_scores_of_attention_under_a_mask(runs, monkeypatch, name, options):
    monkeypatch.setattr(static_step, "FLASH_WITH_SHARED_HEADS", True)
    model, scores = nano(name, **options).cuda().bfloat16(), []
    for flash in (True, False):
        monkeypatch.setattr(static_step, "FLASH", flash)
        graphs_of(model).clear()
        zoo.generate(model, **on_gpu(padded()), max_new_tokens=2, eos_token_id=None)
        scores.append(graphs_of(model).rows[3].scores.float())
        assert not graphs_of(model).refused
    assert len(runs) == 2 and (scores[0] - scores[1]).abs().max() <= 0.03 * scores[0].abs().max()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_fused_gelu_is_that_of_tanh(dtype, error):
    mlp = zoo.create_model("gpt_nano", seed=0, depth=1).blocks[0].mlp.cuda()
    x = torch.randn(3, mlp.up.in_features, device="cuda", dtype=dtype)
    expected = mlp.down(mlp.act(mlp.up(x.float())))
    hidden, add = static_step.mlp_parts(mlp.to(dtype))
    assert mlp.act_name == "gelu_tanh" and hidden.__qualname__.startswith("mlp_parts")
    assert (add(torch.zeros_like(x), hidden(x)) - expected).abs().max() <= error


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("options", [{}, SAMPLED | {"top_p": 0.9}])
def test_the_host_waits_once_in_16_tokens_at_most(options):
    model, waits = nano("llama_nano", kv_heads=2, max_length=256).cuda(), []
    for new in (32, 96, 32, 96):
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                zoo.generate(model, **on_gpu(padded()), max_new_tokens=new, eos_token_id=60, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(one.message) for one in caught))
    assert waits[3] - waits[2] <= 64 / graph_decoding.LOOK_EVERY
