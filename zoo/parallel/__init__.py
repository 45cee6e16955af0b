"""Training a model on several devices: a plan, and models placed by it. Importing this loads no torch."""

from zoo.utils.lazy import lazy_attributes

_HOME = {
    "batch_mesh": "zoo.parallel.plan",
    "Plan": "zoo.parallel.plan",
    "context_parallel": "zoo.parallel.context",
    "make_pipeline": "zoo.parallel.pipeline",
    "parallelize": "zoo.parallel.place",
    "shard": "zoo.parallel.fsdp",
    "slices_of": "zoo.parallel.context",
}
__all__ = sorted(_HOME)
__getattr__ = lazy_attributes(__name__, _HOME)
