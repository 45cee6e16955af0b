"""Capture the attention maps of a model, or other activations.

    with zoo.capture(model, layers=[0, -1]) as maps:
        model(**batch)
    maps["blocks.0.mixer"]                                      # [B, H, N, M]

    with zoo.capture(model, what="residual") as activations:
        model(**batch)
    activations["blocks.0"]                                     # [B, N, D]

The model runs unchanged, with its fused kernels: hooks record the queries and keys of each attention core, and its
method `weights` computes the maps of the selected layers, rows and heads, without attention dropout. Attention weights
show how values are mixed; they do not explain a prediction.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from zoo.interpret.activations import Activations, recorder_of
from zoo.interpret.attention_maps import AttentionMaps, distance, entropy, rollout
from zoo.interpret.hooks import Layout, as_list, check_model, eager_mode, unwrap
from zoo.interpret.select_layers import Layers, What, check_what, find_places

__all__ = ["capture", "distance", "entropy", "rollout"]


@contextmanager
def capture(
    model: nn.Module,
    what: What = "attention",
    *,
    layers: Layers = "*",
    rows: int | Sequence[int] | None = None,
    heads: int | Sequence[int] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
    edges: bool | None = None,
) -> Iterator[Activations]:
    """Context that captures the attention maps of a model, or other activations: {name of a module: tensor}.

    what: one of

    - "attention", the default: attention maps [B, H, N, M] by the names of the Attention modules, such as
      "blocks.0.mixer" and "decoder.blocks.0.cross". H is the number of query heads.
    - "q", "k", "v": queries [B, H, N, P], keys and values [B, G, M, P] as they enter the attention core, so q and k
      with their norms and rotary embeddings. G is the number of key heads, and `heads` chooses among these.
    - "head_output": the mixed values of each head [B, H, N, P], before the output projection.
    - "mixer": the output of an attention module, or of a mixer without attention weights [B, N, D].
    - "mlp": the output of an MLP [B, N, D], by names such as "blocks.0.mlp".
    - "residual": the output of a block [B, N, D], by names such as "blocks.0"; the final norm comes after the last.

    Padded tokens have zeros. A module that runs several times (decoding) has a list with the activations of its new
    tokens; attention maps are of the new tokens over all tokens so far, and keys that a cache of a window has dropped
    have zeros. What is captured is detached and stays on its device; the outputs of the model do not change.

    layers: names with wildcards ("blocks.*.mixer"), block numbers (-1 is the last), or a list of these. Layers without
    attention weights (or without heads) that a wildcard matches are left out; `missing` of the result names them.
    rows, heads: rows of the batch and heads to capture, selected before maps are computed; None for all.
    reduce: applied to each tensor as soon as it is computed, e.g. `lambda w: w.mean(1)`; its result is stored instead.
    edges: of models of graphs. True: instead of maps of all pairs, `EdgeWeights`, the edges [2, E] and their weights
    [E, H], to which `reduce` is applied. None: where a graph has more than 8,192 nodes. False: maps of all pairs.

    Only what the thread that opened the context computes is recorded, so a server may capture one request while others
    run. Raises ValueError for a layer, row or head that does not exist, for heads of what has none, for a layer without
    attention weights that is named, or if there is no other, and for edges=True of a layer whose mask has no graph.
    """
    check_model(model)
    if not (reduce is None or callable(reduce)):
        raise ValueError(f"reduce={reduce!r}: expected a function of a map, such as lambda w: w.mean(1)")
    check_what(what)
    if edges is not None and what != "attention":
        raise ValueError(f"edges={edges!r}: what={what!r} has no weights of edges; what='attention' has")
    if what in ("mixer", "mlp", "residual") and heads is not None:
        raise ValueError(f"heads={heads!r}: what={what!r} has no heads; what='head_output' has")
    inner = unwrap(model)
    selected = find_places(inner, layers, what)
    captured = (AttentionMaps if what == "attention" else Activations)(missing=selected.missing)
    choice = as_list(rows, "rows"), as_list(heads, "heads")
    layout = Layout()
    with ExitStack() as stack:
        stack.enter_context(eager_mode())
        stack.enter_context(layout.attach(inner, [name for name, _ in selected.found]))
        for name, module in selected.found:
            recorder = recorder_of(what, name, module, layout, captured, *choice, reduce, edges=edges)
            stack.enter_context(recorder.attach())
        yield captured
