"""The README.md of a model: what it is, what it learned from and how well, and the lines that load it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.models.base import Model
from zoo.models.config import CLASSIFIER_HEADS, to_json_types
from zoo.models.registry import family
from zoo.preprocessing.modality import of_family

# The hub's name of what several towers are used for; that of others is in the record of their modality.
MULTIMODAL = "zero-shot-image-classification"

# A line that puts a model to its use, by what the hub calls it.
USES = {
    "image-classification": 'zoo.predict(model, "picture.png")',
    "text-classification": 'zoo.predict(model, "a text")',
    "fill-mask": "zoo.predict(model, {mask!r})",
    "text-generation": 'ids = model.preprocess("Once upon")["input_ids"]\n'
    "print(model.preprocess.decode(zoo.generate(model, ids, max_new_tokens=100, temperature=0.8)[0]))",
    "audio-classification": 'zoo.predict(model, "sound.wav")',
    "automatic-speech-recognition": 'zoo.predict(model, "speech.wav")',
    "zero-shot-image-classification": 'batch = model.preprocess(images="picture.png", text=["a cat", "a dog"])\n'
    'model(**batch).logits("image", "text").softmax(-1)',
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run knows of the model that came out.

    Attributes:
        command: The command line.
        data, real, source: The data set, whether it is real, and where it came from.
        metrics: Of the test, by name.
        facts: Whatever else is worth a line, by name.
    """

    command: str
    data: str
    real: bool
    source: str
    metrics: Mapping[str, float]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Markdown."""
        said = f"Trained on **{self.data}** ({self.source}) by"
        unreal = ["", "**Not real data:** the program made it itself, and these figures say nothing of any other."]
        rows = [f"| {name.replace('_', ' ')} | {value:.4g} |" for name, value in self.metrics.items()]
        rows += [f"| {name.replace('_', ' ')} | {value} |" for name, value in self.facts.items() if value is not None]
        return [said, "```bash", self.command, "```", *([] if self.real else unreal), "", "| | |", "|---|---|", *rows]


def model_card(model: Model, name: str, format: str = "zoo", training: Training | None = None) -> str:
    """The README.md of a folder or a hub repository. name: what the model is loaded by. format: whose files it has."""
    task = pipeline_tag(model)
    library = {"zoo": "attention-zoo"}.get(format, format)
    lines = ["---", f"library_name: {library}", *([f"pipeline_tag: {task}"] if task else [])]
    title = name.rstrip("/").removesuffix("/model").split("/")[-1]
    lines += ["tags:", "- attention-zoo", f"- {model.family}", "---", "", f"# {title}", ""]
    lines += [*([] if training is None else [*training.lines(), ""]), "```python", *loading(model, name, format, task)]
    lines += ["```", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in described(model).items())]
    if model.labels:
        shown = ", ".join(model.labels[:20]) + (", ..." if len(model.labels) > 20 else "")
        what = "number" if getattr(model.config, "resolved_problem_type", "") == "regression" else "class"
        count = len(model.labels)
        lines += ["", f"{count} {what if count == 1 else {'class': 'classes'}.get(what, what + 's')}: {shown}"]
    return "\n".join(lines) + "\n"


def pipeline_tag(model: Model) -> str | None:
    """The hub's name of the task of a model; None where it has none."""
    modality = of_family(family(model.family).modality)
    if modality is None:
        return MULTIMODAL if {"image", "text"} <= model.config.parts.keys() else None
    return modality.pipelines.get(model.config.head)


def loading(model: Model, name: str, format: str, task: str | None) -> list[str]:
    """The lines that load a model and use it."""
    if format == "timm":
        source = f"hf-hub:{name}" if name.count("/") == 1 else f"local-dir:{name}"
        return ["import timm", "", f'model = timm.create_model("{source}", pretrained=True)']
    if format == "open_clip":
        source = f"hf-hub:{name}" if name.count("/") == 1 else f"local-dir:{name}"
        call = f'open_clip.create_model_and_transforms("{source}")'
        return ["import open_clip", "", f"model, _, preprocess = {call}"]
    if format == "transformers":
        use = task or "feature-extraction"
        return ["from transformers import pipeline", "", f'predict = pipeline("{use}", "{name}")']
    special = getattr(model.preprocess, "special", {})
    use = USES.get(task or "", "").format(mask=f"a {special.get('mask')} of words")
    load = ["import zoo", "", f'model = zoo.load("{name}")']
    return [*load, *([use] if use and model.preprocess is not None else [])]


def described(model: Model) -> dict[str, Any]:
    """The model by its config, without what is off."""
    facts = {"model": model.variant or model.family, "parameters": f"{sum(p.numel() for p in model.parameters()):,}"}
    values = model.config.to_dict() if not model.config.parts else to_json_types(model.config.flat())
    if model.config.head not in CLASSIFIER_HEADS:
        values = {key: value for key, value in values.items() if key.split(".")[-1] != "num_classes"}
    return facts | {name: value for name, value in values.items() if value not in (None, False, 0)}
