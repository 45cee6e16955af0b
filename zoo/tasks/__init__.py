"""LightningModules, one per training objective, and their building blocks. Importing this loads no torch."""

from zoo.utils.lazy import lazy_attributes

_HOME = {
    "Task": "zoo.tasks.base",
    "ClassificationTask": "zoo.tasks.classification",
    "CTCTask": "zoo.tasks.ctc",
    "CodebookUsage": "zoo.tasks.codebook_usage",
    "ImageTokenizerTask": "zoo.tasks.image_tokenizer",
    "CausalLMTask": "zoo.tasks.language_modeling",
    "MaskedLMTask": "zoo.tasks.language_modeling",
    "TokenClassificationTask": "zoo.tasks.token_classification",
    "NodeClassificationTask": "zoo.tasks.node_classification",
    "QuestionAnsweringTask": "zoo.tasks.question_answering",
    "Seq2SeqTask": "zoo.tasks.seq2seq",
    "ImageTextTask": "zoo.tasks.image_text",
    "TextToImageTask": "zoo.tasks.text_to_image",
    "BLEU": "zoo.tasks.bleu",
    "CIDEr": "zoo.tasks.cider",
    "ContrastiveTask": "zoo.tasks.contrastive",
    "RetrievalMetrics": "zoo.tasks.retrieval_metrics",
    "ROUGE": "zoo.tasks.rouge",
    "FactChecker": "zoo.tasks.faithfulness",
    "Faithfulness": "zoo.tasks.faithfulness",
    "balanced": "zoo.tasks.problem_types",
    "add_lora": "zoo.tasks.lora",
    "merge_lora": "zoo.tasks.lora",
    "NonFiniteGradient": "zoo.tasks.loss_guard",
    "NonFiniteLoss": "zoo.tasks.loss_guard",
    "warmup_cosine": "zoo.tasks.schedule",
    "cosine_between": "zoo.tasks.schedule",
    "inverse_sqrt": "zoo.tasks.schedule",
    "adamw": "zoo.tasks.optimizer",
    "freeze": "zoo.tasks.optimizer",
    "param_groups": "zoo.tasks.optimizer",
    "initialize_mup": "zoo.tasks.mup",
    "mup_rates": "zoo.tasks.mup",
    "mup_scales": "zoo.tasks.mup",
    "shard": "zoo.parallel.fsdp",
}
__all__ = sorted(_HOME)
__getattr__ = lazy_attributes(__name__, _HOME)
