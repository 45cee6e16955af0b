"""LightningModules, one per objective, and what they share. Importing this brings neither torch nor lightning."""

from zoo.lazy import names_from

_HOME = {
    "Task": "base",
    "Classify": "classify",
    "CTC": "ctc",
    "NextToken": "language",
    "MaskedToken": "language",
    "Contrast": "contrast",
    "Retrieval": "retrieval",
    "balanced": "objectives",
    "add_lora": "lora",
    "merge_lora": "lora",
    "NonFiniteLoss": "guard",
    "warmup_cosine": "schedule",
    "adamw": "optim",
    "freeze": "optim",
    "param_groups": "optim",
    "shard": "sharding",
}
__all__ = sorted(_HOME)
__getattr__ = names_from(__name__, _HOME)
