"""Deletion and insertion curves of attention, attribution and random order, for trained models and their answers.

    python benchmarks/faithfulness.py text=runs/finetune_text image=runs/vit_cifar audio=runs/ast_audio count=100
    python benchmarks/faithfulness.py translation=runs/translate vqa=runs/vqa questions=runs/question_answering

Each run is that of a recipe: on SST-2, CIFAR-10 and FSDD in the folder that ZOO_DATA_DIR names, of which the first
`count` test inputs are read (of FSDD every third, so that all digits are there); or on the synthetic data of translate,
vqa and question_answering, with the right answer of each of the first `count` test items. Prints, for each of them, the
areas under the probability of the predicted class or of the answer; in random order with the standard deviation of the
mean over inputs. `out=FOLDER` also writes the curves as PNG files.
"""

import io
import os
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
from _measure import machine, options, record

import zoo
from zoo.interpret.attribution import METHODS
from zoo.interpret.faithfulness import with_spread
from zoo.models.example_batch import example_batch

SMALL = {
    "text": ("bert_tiny", dict(head="classify", vocab_size=50)),
    "image": ("vit_cifar_tiny", {}),
    "audio": ("ast_tiny", {}),
}
ANSWERS = ("translation", "vqa", "questions")


def rows_of(name: str, count: int) -> list[dict[str, Any]]:
    """The test rows of a dataset."""
    folder = os.environ.get("ZOO_DATA_DIR")
    if not folder:
        raise SystemExit(f"expected the folder of {name}/test.parquet in the variable ZOO_DATA_DIR")
    table = parquet.read_table(Path(folder) / name / "test.parquet")
    return table.slice(0, count).to_pylist() if name != "fsdd" else table.to_pylist()[::3][:count]


def read(modality: str, count: int) -> list[Any]:
    """The first inputs of a test set, for `model.preprocess`."""
    if modality == "text":
        return [row["sentence"] for row in rows_of("sst2", count)]
    if modality == "image":
        from PIL import Image

        return [Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB") for row in rows_of("cifar10", count)]
    import soundfile

    return [soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32") for row in rows_of("fsdd", count)]


def read_answers(kind: str, processor: Any, count: int) -> tuple[Any, list[str]]:
    """(the first test inputs of a recipe's synthetic data as a batch, the right answers)."""
    if kind == "translation":
        from zoo.data.synthetic import translations

        every = translations.make_translations(translations.TRAIN + translations.TEST, seed=0)
        sources, targets = (texts[translations.TRAIN :][:count] for texts in every)
        return processor(sources), targets
    if kind == "questions":
        from zoo.data.synthetic import questions

        rows = questions.make_questions(questions.TRAIN + questions.TEST, seed=0)[questions.TRAIN :]
        rows = [row for row in rows if row["answers"]["text"]][:count]
        pairs = [(row["question"], row["context"]) for row in rows]
        return processor(pairs), [row["answers"]["text"][0] for row in rows]
    scenes = zoo.data.make_object_scenes("test", count, size=processor.image.size[0])
    # of each scene one about a color or a shape
    chosen = [next(one for one in own if one.type in ("color", "shape"))
             for own in zoo.data.make_scene_questions(scenes.scenes)]  # fmt: skip
    texts = [processor.marked(one.question, 1) for one in chosen]
    return processor(text=texts, images=list(scenes.images)), [f" {one.answer}" for one in chosen]


def measure(modality: str, o: Any) -> None:
    """The table of one modality, or of one kind of answers."""
    source, target = getattr(o, modality), None
    methods = o.methods.split(",")
    if modality in ANSWERS:
        model = zoo.load(source)
        inputs, target = read_answers(modality, model.preprocess, o.count)
        if modality == "translation":
            methods = [name for name in methods if name != "gradient_rollout"]  # for models of one stack
    elif source:
        model = zoo.load(source)
        more = {"too_long": "cut"} if modality == "audio" else {}
        inputs = model.preprocess(read(modality, o.count), **more)
    else:
        name, fields = SMALL[modality]
        model = zoo.create_model(name, width=16, depth=1, heads=2, mlp_dim=16, seed=0, **fields)
        inputs = {key: x[: o.count] for key, x in example_batch(model).items()}
    begin = time.process_time()
    result = zoo.faithfulness(model, inputs, methods, target, steps=o.steps, random_orders=o.orders,
                              removal=o.removal or None)  # fmt: skip
    seconds = time.process_time() - begin
    print(f"\n{modality}, {source or 'random weights'}, {len(result.targets)} inputs, {seconds:.0f} CPU seconds; "
          f"removal: {result.removal}; {machine()}")  # fmt: skip
    print(
        "| order | deletion (lower is better) | insertion (higher is better) | better than random |\n|---|---|---|---|"
    )
    for row in result.rows:
        cells = [with_spread(row[name], row[f"{name}_spread"]) for name in ("deletion", "insertion")]
        better = "" if row["better"] is None else "{:.0%}, {:.0%}".format(*row["better"])
        print(f"| {row['order']} | {cells[0]} | {cells[1]} | {better} |", flush=True)
    values = {f"{row['order']}, {name}": row[name] for row in result.rows for name in ("deletion", "insertion")}
    record(f"faithfulness, {modality}", values)
    if o.out:
        Path(o.out).mkdir(parents=True, exist_ok=True)
        result.plot(Path(o.out) / f"faithfulness_{modality}.png")


def main() -> None:
    smoke = dict(count=2, steps=2, orders=1, methods="attention,input_x_gradient", only="text,image,audio")
    o = options(smoke, text="", image="", audio="", translation="", vqa="", questions="", count=100, steps=20,
                orders=5, removal="", out="", methods=",".join(METHODS), only="")  # fmt: skip
    chosen = o.only.split(",") if o.only else [name for name in (*SMALL, *ANSWERS) if getattr(o, name)]
    if not chosen:
        raise SystemExit(f"expected a run of a recipe: {'=FOLDER, '.join((*SMALL, *ANSWERS))}=FOLDER")
    for modality in chosen:
        measure(modality, o)


if __name__ == "__main__":
    main()
