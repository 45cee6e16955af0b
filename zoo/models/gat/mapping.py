"""Mapping of GAT, GATv2 and UniMP to torch_geometric: arguments and tensor names, in both directions.

Files are those of `torch_geometric.nn.GAT`, or of another `BasicGNN` whose layers are `TransformerConv`: `convs.N`, of
which the last gives the scores, and `norms.N`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.models.config import Config
from zoo.models.mapping.torch_geometric import NetworkMapping
from zoo.utils.errors import LoadError

# {class of the layers: the first tensor that only these have}
CONVS = {"GATConv": "att_src", "GATv2Conv": "att", "TransformerConv": "lin_query.weight"}
ACTS = ("relu", "elu", "gelu", "silu", "tanh")


def layer(ours: str, theirs: str) -> str:
    """The lines of one layer: ours is a `GraphAttention`."""
    gat, gatv2 = f"if {ours}.core.source", f"if {ours}.core.a"
    return f"""
    {ours}.k.weight     = {theirs}.lin.weight          {gat}
    {ours}.core.source  = {theirs}.att_src     row0    {gat}
    {ours}.core.target  = {theirs}.att_dst     row0    {gat}
    {ours}.core.edge    = {theirs}.att_edge    row0    {gat}
    {ours}.root.weight  = {theirs}.res.weight          {gat}
    {ours}.root.bias    = {theirs}.bias                {gat}
    {ours}.k.@          = {theirs}.lin_l.@             {gatv2}
    {ours}.q.@          = {theirs}.lin_r.@             {gatv2}
    {ours}.core.a       = {theirs}.att         row0    {gatv2}
    {ours}.root.weight  = {theirs}.res.weight          {gatv2}
    {ours}.root.bias    = {theirs}.bias                {gatv2}
    {ours}.q.@          = {theirs}.lin_query.@
    {ours}.k.@          = {theirs}.lin_key.@
    {ours}.v.@          = {theirs}.lin_value.@
    {ours}.root.@       = {theirs}.lin_skip.@
    {ours}.beta.weight  = {theirs}.lin_beta.weight
    {ours}.edge.weight  = {theirs}.lin_edge.weight
    {ours}.out.bias     = {theirs}.bias
"""


@dataclass(frozen=True, kw_only=True)
class LayersMapping(NetworkMapping):
    """A mapping of a network whose last layer is the head."""

    def table_for(self, config: Config) -> str:
        return super().table_for(config) + layer("head.mixer", f"convs.{config.depth}")


# --- Arguments --------------------------------------------------------------------------------------------------------


def arguments(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The class of the layers, "conv", and the arguments that the tensors show."""
    conv = next((conv for conv, part in CONVS.items() if f"convs.0.{part}" in tensors), None)
    if conv is None:
        return None
    inputs = {"GATConv": "lin.weight", "GATv2Conv": "lin_l.weight", "TransformerConv": "lin_query.weight"}
    first = tensors.get(f"convs.0.{inputs[conv]}")
    found: dict[str, Any] = {"conv": conv, "bias": "convs.0.bias" in tensors, "norms": "norms.0.weight" in tensors}
    if first is not None and first.ndim == 2:
        found["in_channels"] = first.shape[1]
    if conv == "TransformerConv":
        return found | {"bias": "convs.0.lin_query.bias" in tensors, "beta": "convs.0.lin_beta.weight" in tensors}
    return found | {"residual": "convs.0.res.weight" in tensors}


def read(fields: dict[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields that `keys` does not have. Raises LoadError for what our models do not compute."""
    conv, act, bias = theirs["conv"], theirs.get("act", "relu"), bool(theirs["bias"])
    if theirs.get("out_channels") is None:
        raise LoadError("out_channels is missing: a network whose last layer has its heads side by side is not "
                        "supported; expected a number of classes")  # fmt: skip
    if not isinstance(act, str) or act.lower() not in ACTS:
        raise LoadError(f"act={act!r:.200} is not supported, only {', '.join(ACTS)}")
    found: dict[str, Any] = {"head": "token", "depth": theirs["num_layers"] - 1, "head_heads": fields["heads"]}
    found |= {"act": act.lower(), "attention_dropout": fields["dropout"]} | read_norm(theirs)
    if conv != "TransformerConv":
        v2 = conv == "GATv2Conv"
        found |= {"attention": "gatv2" if v2 else "gat", "shared": not v2, "bias": bias}
        return found | {"root_weight": theirs["residual"], "add_self_loops": theirs.get("add_self_loops", True)}
    root = bool(theirs.get("root_weight", True))
    return found | {
        "attention": "softmax", "shared": False, "value_proj": True, "bias": bias and root,
        "qkv_bias": None if root else bias, "root_weight": root, "beta": theirs["beta"] and root,
        "add_self_loops": False,
    }  # fmt: skip


def read_norm(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields of the norm. Raises LoadError for others than a layer norm of each node."""
    name, options = theirs.get("norm"), theirs.get("norm_kwargs") or {}
    if name is None and theirs.get("norms"):
        raise LoadError("the network has norms, and its config does not say which: if it is the layer norm of each "
                        "node, add norm='layer_norm' and norm_kwargs={'mode': 'node'} to config.json")  # fmt: skip
    if name is None:
        return {"norm": None}
    is_layer_norm = str(name).lower() in ("layer_norm", "layernorm")
    if not is_layer_norm or options.get("mode") != "node" or options.keys() - {"mode", "eps"}:
        raise LoadError(f"norm={name!r} with norm_kwargs={options!r:.200} is not supported, only norm='layer_norm' "
                        "with norm_kwargs={'mode': 'node'}, a layer norm of each node")  # fmt: skip
    return {"norm": "layer", "norm_eps": options.get("eps", 1e-5)}


def write(config: Any) -> dict[str, Any]:
    """Their arguments that `keys` does not have. Raises ValueError for layers that they do not have."""
    c = config
    if c.head != "token":
        raise ValueError(f"torch_geometric cannot express head={c.head!r}, only 'token', classes of nodes")
    convs = {"gat": (True, False), "gatv2": (False, False), "softmax": (False, True)}
    if not isinstance(c.attention, str) or convs.get(c.attention) != (c.shared, c.value_proj):
        raise ValueError(f"torch_geometric has no layer with attention={c.attention!r}, shared={c.shared} and "
                         f"value_proj={c.value_proj}: its GATConv is 'gat', True and False, its GATv2Conv 'gatv2', "
                         "False and False, and its TransformerConv 'softmax', False and True")  # fmt: skip
    if c.act not in ACTS:
        raise ValueError(f"torch_geometric has no activation act={c.act!r}, only {', '.join(ACTS)}")
    found: dict[str, Any] = {"num_layers": c.depth + 1, "norms": c.norm is not None}
    if c.norm is not None:
        found |= {"norm": "layer_norm", "norm_kwargs": {"mode": "node", "eps": c.norm_eps}}
    if c.attention == "softmax":
        bias = c.bias if c.root_weight else bool(c.qkv_bias)
        return found | {"conv": "TransformerConv", "bias": bias, "root_weight": c.root_weight, "beta": c.beta}
    v2 = c.attention == "gatv2"
    found |= {"conv": "GATv2Conv" if v2 else "GATConv", "v2": v2, "bias": c.bias, "residual": c.root_weight}
    return found | {"add_self_loops": c.add_self_loops}


def rewrite(config: Any) -> Any:
    """All layers of theirs have as many heads: those of the last are repeated, and their mean stays the same."""
    if config.head == "token" and config.heads % config.head_heads == 0:
        return config.replace(head_heads=config.heads)
    return config


# --- Tensors ----------------------------------------------------------------------------------------------------------


def with_one_projection(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of GATConv in older versions, which have the shared projection under two names, as it is written today.
    Raises LoadError if these differ: then sources and targets are nodes of two kinds."""
    result = dict(tensors)
    for name in [name for name in tensors if name.endswith(".lin_src.weight")]:
        one, other = result.pop(name), result.pop(name.replace("lin_src", "lin_dst"), None)
        if other is not None and not torch.equal(one, other):
            raise LoadError(f"{name} and the lin_dst beside it differ: layers between two kinds of nodes are not "
                            "supported")  # fmt: skip
        result[name.replace("lin_src", "lin")] = one
    return result


def with_repeated_heads(tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The tensors with the heads of the last layer repeated, see `rewrite`."""
    times, result = config.heads // config.head_heads, dict(tensors)
    for name, x in tensors.items():
        if times > 1 and name.startswith(tuple(f"head.mixer.{part}." for part in ("core", "q", "k", "v", "edge"))):
            heads = x.unflatten(0, (config.head_heads, -1))
            result[name] = heads.repeat(times, *[1] * x.ndim).flatten(0, 1)
    return result


def unused(tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """TransformerConv has a projection of its input also where root_weight=False leaves it out."""
    if config.attention != "softmax" or config.root_weight:
        return {}
    found = {}
    for number in range(config.depth + 1):
        x = tensors[f"convs.{number}.lin_value.weight"]
        size = config.num_classes if number == config.depth else len(x)
        found[f"convs.{number}.lin_skip.weight"] = x.new_zeros(size, x.shape[1])
        if config.qkv_bias:
            found[f"convs.{number}.lin_skip.bias"] = x.new_zeros(size)
    return found


TORCH_GEOMETRIC = LayersMapping(
    name="torch_geometric",
    keys="""
        in_features = in_channels
        width = hidden_channels
        heads = heads
        num_classes = out_channels
        edge_dim = edge_dim
        dropout = dropout
        act = act
    """,
    table=f"""
        blocks.*.norm.@ = norms.*.@
        {layer("blocks.*.mixer", "convs.*")}
        - = convs.*.lin_skip.**
    """,
    defaults={"heads": 1},
    only={
        "concat": (True,), "jk": (None,), "act_first": (False,), "act_kwargs": (None, {}), "negative_slope": (0.2,),
        "fill_value": ("mean",), "aggr": ("add",), "flow": ("source_to_target",),
    },
    others=(
        "num_layers", "conv", "norms", "v2", "bias", "residual", "root_weight", "beta", "add_self_loops", "norm",
        "norm_kwargs", "share_weights",
    ),
    read=read,
    write=write,
    rewrite=rewrite,
    arguments=arguments,
    read_tensors=with_one_projection,
    write_tensors=with_repeated_heads,
    unused=unused,
    inferred=("conv", "norms"),
)  # fmt: skip
