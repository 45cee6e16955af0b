"""LightningModules, one per objective, and what they share. Importing this brings neither torch nor lightning."""

from zoo.utils.lazy import names_from

_HOME = {
    "Task": "zoo.tasks.base",
    "ClassificationTask": "zoo.tasks.classification",
    "CTCTask": "zoo.tasks.ctc",
    "CausalLMTask": "zoo.tasks.language_modeling",
    "MaskedLMTask": "zoo.tasks.language_modeling",
    "ContrastiveTask": "zoo.tasks.contrastive",
    "RetrievalMetrics": "zoo.tasks.retrieval_metrics",
    "balanced": "zoo.tasks.problem_types",
    "add_lora": "zoo.tasks.lora",
    "merge_lora": "zoo.tasks.lora",
    "NonFiniteLoss": "zoo.tasks.loss_guard",
    "warmup_cosine": "zoo.tasks.schedule",
    "adamw": "zoo.tasks.optimizer",
    "freeze": "zoo.tasks.optimizer",
    "param_groups": "zoo.tasks.optimizer",
    "shard": "zoo.parallel.fsdp",
}
__all__ = sorted(_HOME)
__getattr__ = names_from(__name__, _HOME)
