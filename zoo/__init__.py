"""A zoo of transformers for text, vision and audio over one attention core.

Everything public is here and imported when it is first used: `import zoo` brings no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.utils.version import __version__

# Where each public name stands.
_WHERE = {
    "create_model": "checkpoints.create",
    "list_models": "models.registry",
    "Model": "models.base",
    "Config": "models.config",
    "resolve_data_config": "models.timm_names",
    "register_attention": "nn.registry",
    "register_mixer": "nn.registry",
    "contrast": "checkpoints.contrast",
    "bridge": "checkpoints.bridge",
    "load": "checkpoints.load",
    "save": "checkpoints.save",
    "export": "checkpoints.save",
    "push_to_hub": "checkpoints.hub",
    "verify": "checkpoints.verify",
    "to_gqa": "checkpoints.gqa",
    "predict": "inference.predict",
    "timeline": "inference.timeline",
    "transcribe": "inference.transcribe",
    "align": "inference.transcribe",
    "embed": "retrieval.embed",
    "Embeddings": "retrieval.embeddings_file",
    "search": "retrieval.search",
    "zero_shot": "retrieval.zero_shot",
    "capture": "interpret.capture",
    "Graph": "preprocessing.graph",
    "intervene": "interpret.intervene",
    "ablate": "interpret.intervene",
    "patch": "interpret.intervene",
    "logit_lens": "interpret.logit_lens",
    "rollout": "interpret.attention_maps",
    "plot_attention": "interpret.plot",
    "explore": "interpret.explore.page",
    "attribute": "interpret.attribution",
    "faithfulness": "interpret.faithfulness",
    "deciding_sentences": "interpret.deciding_sentences",
    "head_roles": "interpret.roles.head_roles",
    "head_importance": "interpret.head_importance",
    "prune": "interpret.prune",
    "generate": "inference.generation.generate",
    "infill": "inference.generation.infill",
    "generate_images": "inference.generation.images",
    "pack": "preprocessing.packing",
    "optimize": "inference.optimize",
    "kernels": "inference.kernel_report",
    "check": "nn.conformance",
    "attention_kinds": "inference.attention_kinds",
    "plan_run": "training.planner.search",
    "LoadError": "utils.errors",
}
_PARTS = (
    "nn", "parallel", "preprocessing", "models", "checkpoints", "inference", "interpret", "retrieval", "data", "tasks",
    "training",
)  # fmt: skip

__all__ = [*_WHERE, *_PARTS, "__version__"]

if TYPE_CHECKING:
    from zoo.checkpoints.create import create_model as create_model
    from zoo.models.base import Model as Model
    from zoo.models.config import Config as Config
    from zoo.models.registry import list_models as list_models
    from zoo.nn.registry import register_attention as register_attention
    from zoo.nn.registry import register_mixer as register_mixer
    from zoo.utils.errors import LoadError as LoadError


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"zoo.{name}")
    if name in _WHERE:
        value = getattr(import_module(f"zoo.{_WHERE[name]}"), name)
        globals()[name] = value
        return value
    from zoo.utils import renamed
    from zoo.utils.errors import did_you_mean

    if name in renamed.NAMES["zoo"]:
        return renamed.public_name("zoo", name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
