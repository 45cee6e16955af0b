"""CUDA graphs of optimized models: on a CPU with a device that records calls in Python, on a GPU with real ones."""

import copy
import threading
import time
import warnings
from contextlib import contextmanager

import pytest
import torch
from cuda_graph_fakes import same_memory
from kernel_timers import fastest

import zoo
from zoo.inference import optimized_graphs, optimized_model
from zoo.inference.optimized_graphs import (
    CudaDevice,
    Graphs,
    UnsupportedValueError,
    key_of,
    map_tensors,
    without_full_masks,
)
from zoo.nn.padding import real_tokens

CALLS = 4  # until a call is recorded


class FakeDevice:
    """Records a call by keeping it; its replay computes it again and writes to the outputs of the first time."""

    def __init__(self):
        self.waits, self.recorded, self.replayed, self.recording, self.error = 0, 0, 0, False, None

    def is_recording(self):
        return self.recording

    def synchronize(self):
        pass

    def count_waits(self, function):
        return function(), self.waits

    def record(self, function):
        if self.error is not None:
            raise self.error
        self.recorded += 1
        return same_memory(function, self.count_replay)

    def count_replay(self):
        self.replayed += 1

    @contextmanager
    def in_order(self):
        yield


@pytest.fixture
def device(monkeypatch):
    fastest(monkeypatch, "plain")
    monkeypatch.setattr(optimized_graphs, "LAUNCH_BOUND", 0.0)  # the load of the machine decides nothing here
    fake = FakeDevice()
    monkeypatch.setattr(optimized_model, "device_of", lambda model: fake)
    return fake


def vit(**fields):
    small = dict(image_size=32, patch_size=16, width=64, depth=2, heads=4, num_classes=7, seed=0)
    return zoo.create_model("vit_tiny_patch16_224", **small | fields).eval()


def bert():
    return zoo.create_model("bert_base", seed=0, width=32, depth=2, heads=2, vocab_size=50, max_length=16).eval()


def pixels(batch=2, seed=0):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_fourth_call_of_a_signature_is_recorded_and_replayed(device):
    model = vit()
    fast, plain = zoo.optimize(model), zoo.optimize(model, cuda_graphs=False)
    for seed in range(CALLS + 2):
        x = pixels(seed=seed)
        assert torch.equal(fast(pixel_values=x), plain(pixel_values=x))
        assert device.replayed == max(0, seed + 2 - CALLS)
    assert device.recorded == 1
    (text,) = fast.optimize_report.graphs
    assert text == "forward(pixel_values=[2, 3, 32, 32] float32)"
    assert "graph, launched in" in str(fast.optimize_report)
    for batch in (1, 3):  # another size starts over, and the first one stays
        x = pixels(batch)
        assert torch.equal(fast(pixel_values=x), plain(pixel_values=x))
    assert device.recorded == 1 and len(fast.optimize_report.graphs) == 1
    fast(pixel_values=pixels())
    assert device.recorded == 1 and device.replayed == 4


def test_outputs_belong_to_the_caller(device):
    fast = zoo.optimize(vit())
    outputs = [fast(pixels(seed=seed)) for seed in range(CALLS + 3)]
    for seed, y in enumerate(outputs):
        assert torch.equal(y, zoo.optimize(vit(), cuda_graphs=False)(pixels(seed=seed)))
    kept = outputs[-1].clone()
    outputs[-2].zero_()
    assert torch.equal(outputs[-1], kept)
    with torch.inference_mode():
        inside = fast(pixels())
    assert torch.equal(inside, outputs[0])


def test_containers_options_and_methods(device):
    model = zoo.create_model("clip_tiny", seed=0).eval()
    fast, plain = (
        zoo.optimize(model, dtype=torch.bfloat16),
        zoo.optimize(model, dtype=torch.bfloat16, cuda_graphs=False),
    )
    size, end = model.config.image.config.image_size, model.config.text.config.eos_token_id
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = dict(pixel_values=images, input_ids=torch.tensor([[1, 2, end], [1, 5, end]]))
    for _ in range(CALLS + 1):
        y, expected = fast(**batch), plain(**batch)
        assert type(y) is type(expected)
        assert torch.equal(y.image_features, expected.image_features)
        assert torch.equal(y.logit_scale, expected.logit_scale) and y.audio_features is None
        assert torch.equal(fast.encode_image(batch["pixel_values"]), plain.encode_image(batch["pixel_values"]))
    assert device.recorded == 2
    fast, plain = zoo.optimize(vit()), zoo.optimize(vit(), cuda_graphs=False)
    for layers in ([0], [1], [0], [1], [0], [1], [0], [1], [0], [1]):
        y, expected = fast.encode(pixels(), layers=layers), plain.encode(pixels(), layers=layers)
        assert torch.equal(y[0], expected[0]) and torch.equal(y[1][0], expected[1][0])
    assert device.recorded == 4


def test_padded_batches_are_launched_and_full_masks_are_dropped(device):
    model = bert()
    fast, ids = zoo.optimize(model), torch.randint(4, 50, (2, 8), generator=torch.Generator().manual_seed(0))
    padded = torch.ones_like(ids)
    padded[0, 5:] = 0
    for mask in [padded, torch.ones_like(ids)] * (CALLS + 1):
        y = fast(input_ids=ids, attention_mask=mask)
        assert torch.allclose(y, model(input_ids=ids, attention_mask=mask), atol=1e-5)
    assert device.recorded == 1 and device.replayed == 2
    fast(input_ids=ids)
    assert device.replayed == 3  # the same without its mask
    with pytest.raises(ValueError, match="attention_mask"):
        fast(input_ids=ids, attention_mask=torch.ones(2, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="attention_mask contains 7"):
        fast(input_ids=ids, attention_mask=torch.full_like(ids, 7))


def test_masks_are_not_waited_for_where_most_batches_are_padded_or_lengths_are_known(monkeypatch):
    looked = []
    monkeypatch.setattr(optimized_graphs, "real_tokens", lambda mask: looked.append(1) or real_tokens(mask))
    graphs = Graphs(bert(), FakeDevice())
    ids, full = torch.ones(2, 8, dtype=torch.long), torch.ones(2, 8)
    padded = full.clone()
    padded[0, 5:] = 0
    for mask, count in ((padded, 40), (full, 1), (full, 9), (padded, 3)):
        for _ in range(count):
            graphs.run("forward", lambda args, batch: None, (), {"input_ids": ids, "attention_mask": mask})
        looked.append(count)
    assert looked == [*[1] * 12, 40, 1, 1, *[1] * 9, 9, *[1] * 3, 3]
    del looked[:]
    seen = []
    for mask, lengths in ((padded, [5, 8]), (full, [8, 8]), (full, torch.tensor([8, 8])), (full, [8]), (full, 3)):
        batch = {"input_ids": ids, "attention_mask": mask, "lengths": lengths}
        graphs.run("forward", lambda args, batch: seen.append(set(batch)), (), batch)
    assert not looked and seen == [set(batch), {"input_ids"}, {"input_ids"}, set(batch), set(batch)]
    with pytest.raises(RuntimeError, match="lengths="):
        graphs.run("forward", lambda *_: None, (), {"input_ids": ids, "attention_mask": padded, "lengths": [8, 8]})


def test_masks_of_two_modalities_have_lengths_of_their_own():
    batch = {"input_ids": torch.ones(2, 8, dtype=torch.long), "attention_mask": torch.ones(2, 8), "lengths": [8, 8]}
    audio = torch.ones(2, 30)
    batch |= {"input_values": audio, "audio_attention_mask": audio, "audio_lengths": [30, 30]}
    assert set(without_full_masks(batch)) == {"input_ids", "input_values"}
    with pytest.raises(UnsupportedValueError):
        without_full_masks(batch | {"audio_lengths": [30, 29]})
    with pytest.raises(RuntimeError, match="audio_lengths= must be the sums of the rows of audio_attention_mask"):
        without_full_masks(batch | {"audio_attention_mask": torch.zeros(2, 30)})


def test_what_waits_for_the_device_is_launched(device):
    fast, device.waits = zoo.optimize(vit()), 1
    for _ in range(CALLS + 2):
        fast(pixels())
    assert device.recorded == 0
    assert "launched: it waits for the device" in str(fast.optimize_report)


def test_what_computes_longer_than_it_launches_is_not_recorded(device, monkeypatch):
    monkeypatch.setattr(optimized_graphs, "LAUNCH_BOUND", 2.0)
    fast = zoo.optimize(vit())
    for _ in range(CALLS + 2):
        fast(pixels())
    assert device.recorded == 0
    assert "launched: computing takes longer" in str(fast.optimize_report)


def test_hooks_and_maps_see_every_call(device):
    fast, seen = zoo.optimize(vit()), []
    for _ in range(CALLS):
        fast(pixels())
    handle = fast.blocks[1].register_forward_hook(lambda *_: seen.append(1))
    fast(pixels())
    handle.remove()
    with zoo.capture(fast) as maps:
        fast(pixels())
    assert seen == [1] and set(maps) == {"blocks.0.mixer", "blocks.1.mixer"} and device.replayed == 1
    device.recording = True  # the caller records a graph of its own
    fast(pixels())
    assert device.replayed == 1


def test_changed_weights_are_noticed_in_a_replay(device):
    model = vit()
    fast = zoo.optimize(model)
    for _ in range(CALLS):
        fast(pixels())
    with torch.no_grad():
        model.blocks[0].mlp.up.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"call zoo\.optimize again"):
        fast(pixels())


def test_the_oldest_graph_is_dropped(device, monkeypatch):
    monkeypatch.setattr(optimized_graphs, "MOST_GRAPHS", 2)
    monkeypatch.setattr(optimized_graphs, "MOST_SIGNATURES", 4)
    fast = zoo.optimize(vit())
    for batch in (1, 2, 3):
        for _ in range(CALLS):
            fast(pixels(batch))
    assert device.recorded == 3 and device.replayed == 3
    fast(pixels(1))
    assert device.replayed == 3  # that of one row is gone
    fast(pixels(3))
    assert device.replayed == 4
    for batch in range(4, 10):
        fast(pixels(batch))
    assert len(fast.graphs_.known) == 4 and fast.optimize_report.graphs == {}


def test_without_memory_or_support_calls_are_launched(device):
    fast, device.error = zoo.optimize(vit()), torch.OutOfMemoryError("no memory")
    with pytest.warns(UserWarning, match="no memory for more CUDA graphs") as caught:
        for batch in (1, 2):
            for _ in range(CALLS + 1):
                fast(pixels(batch))
    assert len(caught) == 1
    fast, device.error = zoo.optimize(vit()), RuntimeError("operation not permitted\nwhen stream is capturing")
    for _ in range(CALLS + 1):
        assert fast(pixels()).shape == (2, 7)
    assert "it cannot be recorded (RuntimeError: operation not permitted)" in str(fast.optimize_report)


def test_a_copy_has_graphs_of_its_own(device):
    fast = zoo.optimize(vit())
    for _ in range(CALLS):
        fast(pixels())
    other = copy.deepcopy(fast)
    assert other.optimize_report.graphs == {} and len(fast.optimize_report.graphs) == 1
    assert torch.equal(other(pixels()), fast(pixels())) and device.replayed == 2


def test_threads_share_the_graphs_of_a_model(device):
    fast, wrong = zoo.optimize(vit()), []
    expected = [zoo.optimize(vit(), cuda_graphs=False)(pixels(seed=seed)) for seed in range(3)]

    def work(seed):
        for _ in range(12):
            if not torch.equal(fast(pixels(seed=seed)), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and device.recorded == 1 and device.replayed > 20


def test_without_graphs_a_call_takes_no_detour(monkeypatch):
    """Each Python call costs time in each decoded token."""
    monkeypatch.setattr(optimized_model.Optimized, "compute", lambda *args: pytest.fail("a call more"))
    assert zoo.optimize(vit(), cuda_graphs=False)(pixel_values=pixels()).isfinite().all()


def test_generation_is_not_recorded(device):
    gpt = zoo.create_model("gpt_nano", seed=0).eval()
    ids = torch.tensor([[1, 2, 3]])
    expected = zoo.generate(gpt, ids, max_new_tokens=12)
    assert torch.equal(zoo.generate(zoo.optimize(gpt, rows="one"), ids, max_new_tokens=12), expected)


def test_keys_differ_where_calls_do():
    def key(value):
        return key_of(value, torch.device("cpu"), [])

    x = torch.zeros(2, 3)
    assert key((x, 1)) == key((x + 1, 1)) and len({key(v) for v in (1, 1.0, True, None, "1")}) == 5
    assert len({key(v) for v in ([x], (x,), {"a": x}, {"b": x}, x, x[:1], x.half())}) == 7
    for value in (object(), [object()], torch.zeros(2, device="meta"), torch.zeros(2, 2).to_sparse()):
        with pytest.raises(UnsupportedValueError):
            key(value)
    with pytest.raises(UnsupportedValueError, match="object"):
        map_tensors(torch.clone, {"a": object()})


@pytest.mark.gpu
def test_real_graphs_equal_launched_calls():
    model = vit().to("cuda")
    for dtype in (None, torch.bfloat16):
        fast = zoo.optimize(model, dtype=dtype)
        plain = zoo.optimize(model, dtype=dtype, cuda_graphs=False, choices=fast.optimize_report)
        for seed in range(CALLS + 2):
            for batch in (1, 2):
                x = pixels(batch, seed).to("cuda")
                assert torch.equal(fast(x), plain(x))
        assert [text.partition(",")[0] for text in fast.optimize_report.graphs.values()] == ["graph", "graph"]
        with torch.no_grad():
            expected = model(pixels(2, 7).to("cuda"))
        assert (fast(pixels(2, 7).to("cuda")) - expected).abs().max() <= (2e-2 if dtype else 2e-5)


@pytest.mark.gpu
def test_a_wait_for_the_device_is_counted():
    device = CudaDevice(torch.device("cuda"))
    x = torch.ones(3, device="cuda")
    assert device.count_waits(lambda: x + 1)[1] == 0
    assert device.count_waits(lambda: x.sum().item()) == (3.0, 1)
    assert torch.cuda.get_sync_debug_mode() == 0


def test_threads_count_their_own_waits_and_leave_the_process_as_it_was(monkeypatch):
    mode = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: mode[0])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda new: mode.__setitem__(0, new))
    device, found = CudaDevice(torch.device("cuda")), {}

    def wait(count):
        for _ in range(count):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            time.sleep(0.002)

    def count(name, waits):
        found[name] = device.count_waits(lambda: wait(waits) or name)

    filters = list(warnings.filters)
    others = threading.Thread(target=wait, args=(5,))  # waits for the device, too, and is not counted
    threads = [others, *(threading.Thread(target=count, args=(name, 3 * name)) for name in range(4))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {name: (name, 3 * name) for name in range(4)}
    assert mode == [0] and list(warnings.filters) == filters
    with pytest.warns(UserWarning, match="something else"):
        assert device.count_waits(lambda: warnings.warn("something else", stacklevel=1)) == (None, 0)


@pytest.mark.gpu
def test_streams_wait_for_each_other():
    fast = zoo.optimize(vit().to("cuda"), dtype=torch.bfloat16)
    batches = [pixels(seed=seed).to("cuda") for seed in range(4)]
    expected = [fast(x) for x in batches]
    streams = [torch.cuda.Stream() for _ in batches]
    torch.cuda.synchronize()
    outputs = []
    for _ in range(20):
        for x, stream in zip(batches, streams, strict=True):
            with torch.cuda.stream(stream):
                outputs.append(fast(x))
    torch.cuda.synchronize()
    assert all(torch.equal(y, expected[i % 4]) for i, y in enumerate(outputs))


@pytest.mark.gpu
def test_threads_on_a_gpu():
    fast, wrong = zoo.optimize(vit().to("cuda"), dtype=torch.bfloat16), []
    batches = [pixels(seed=seed).to("cuda") for seed in range(3)]
    expected = [fast(x) for x in batches]

    def work(number):
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(30):
                if not torch.equal(fast(batches[number]), expected[number]):
                    wrong.append(number)

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.gpu
def test_changed_weights_are_noticed_on_a_gpu():
    model = vit().to("cuda")
    fast, x = zoo.optimize(model), pixels().to("cuda")
    for _ in range(CALLS):
        fast(x)
    with torch.no_grad():
        model.head.proj.weight.add_(1)
    with pytest.raises(RuntimeError, match=r"call zoo\.optimize again"):
        fast(x)
