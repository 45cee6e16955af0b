"""`zoo.capture` records what the thread that opened it computes, not what other threads do with the same model."""

import threading
from collections.abc import Callable

import pytest
import torch

import zoo


def in_thread(function: Callable[[], None]) -> None:
    """Run in another thread to the end; its exception is raised here."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_maps_of_other_threads_are_not_recorded() -> None:
    model = zoo.create_model("vit_cifar_tiny", width=16, depth=1, heads=2, seed=0).eval()

    def other() -> None:
        with torch.no_grad():
            model(pixel_values=torch.zeros(3, 3, 32, 32))

    with torch.no_grad(), zoo.capture(model) as maps:
        model(pixel_values=torch.zeros(1, 3, 32, 32))
        in_thread(other)
    assert maps and all(isinstance(value, torch.Tensor) and value.shape[0] == 1 for value in maps.values())


def test_another_thread_that_runs_first_leaves_no_padding_of_its_own() -> None:
    """Between two modules of one forward pass, another thread computes a padded batch of another shape."""
    model = zoo.create_model("bert_tiny", vocab_size=99, width=16, depth=2, heads=2, seed=0).eval()
    ids, mask = torch.randint(5, 99, (2, 8)), (torch.arange(8) < torch.tensor([[5], [8]])).long()
    other_mask = (torch.arange(6) < torch.tensor([[2], [6], [4]])).long()

    def other() -> None:
        with torch.no_grad():
            model(input_ids=torch.randint(5, 99, (3, 6)), attention_mask=other_mask)

    with torch.no_grad(), zoo.capture(model) as alone:
        model(input_ids=ids, attention_mask=mask)
    entered = []

    def interrupt(*_: object) -> None:
        if threading.current_thread() is threading.main_thread() and not entered:
            entered.append(1)
            in_thread(other)

    handle = model.blocks[0].mixer.q.register_forward_hook(interrupt)
    with torch.no_grad(), zoo.capture(model) as maps:
        model(input_ids=ids, attention_mask=mask)
    handle.remove()
    assert entered and maps.keys() == alone.keys()
    assert all(torch.allclose(maps[name], alone[name], atol=1e-6) for name in maps)


@pytest.mark.parametrize("attention", ["softmax", "performer"])
@pytest.mark.parametrize("first_out", [0, 1])
def test_two_threads_capture_at_once(attention: str, first_out: int) -> None:
    """Each gets the maps of its own tokens, also where decoding keeps keys aside, whoever leaves first."""
    model = zoo.create_model("gpt_nano", attention=attention, width=16, depth=1, heads=2, seed=0).eval()
    prompts = [torch.randint(5, 60, (1, 4)), torch.randint(5, 60, (2, 6))]
    found: list[dict] = [{}, {}]
    inside, left = threading.Barrier(2, timeout=60), threading.Event()

    def run(i: int) -> None:
        with zoo.capture(model) as maps:
            inside.wait()
            zoo.generate(model, input_ids=prompts[i], max_new_tokens=3, temperature=0.0)
            inside.wait()
            if i != first_out:
                left.wait(60)
                zoo.generate(model, input_ids=prompts[i], max_new_tokens=3, temperature=0.0)
        left.set()
        found[i] = maps

    other = threading.Thread(target=run, args=(1,))
    other.start()
    run(0)
    other.join()
    assert "decode" not in vars(model.blocks[0].mixer.core)
    for i, ids in enumerate(prompts):
        (maps,) = found[i].values()
        shapes = [tuple(m.shape) for m in maps]
        n = ids.shape[1]
        once = [(len(ids), 2, n, n), (len(ids), 2, 1, n + 1), (len(ids), 2, 1, n + 2)]
        assert shapes == (once if i == first_out else once * 2)


def test_captures_that_end_in_any_order_leave_compilation_on() -> None:
    """torch.compile has one stance for the whole process, which captures set while they are open."""
    import torch._dynamo

    model = zoo.create_model("vit_cifar_tiny")
    first, second = zoo.capture(model), zoo.capture(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(1))
    assert len(graphs) == 1
