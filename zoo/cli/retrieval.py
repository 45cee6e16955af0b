"""The commands `zoo embed`, `zoo search` and `zoo classify`. Torch is imported when they run."""

import argparse
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.cli.models import load_model
from zoo.utils.console import make_table, stdout_console
from zoo.utils.escape import printable, say
from zoo.utils.lines import read_lines

Command = Callable[..., Any]


def add_commands(command: Command) -> None:
    """The parsers; `command(name, run, about, more)` makes one."""
    new = command("embed", run_embed, "Embed the images, texts and audio clips of a folder into one file.",
                  "An interrupted run resumes; an existing file is updated.")  # fmt: skip
    new.add_argument("folder", metavar="FOLDER", help="searched recursively")
    new.add_argument("--model", required=True, help="a folder or hub name of a model with several towers")
    new.add_argument("--out", required=True, metavar="FILE", help="embeddings.safetensors or embeddings.parquet")
    new.add_argument(
        "--modalities", metavar="image,text,audio", help="what to embed (default: all that the model takes)"
    )
    new.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="skip omits and lists broken files; raise (default) stops at the first one",
    )
    new.add_argument("--dtype", default="float32", help="float32 (default), float16 or bfloat16")
    new.add_argument("--batch-size", type=int, default=32, help="files that are encoded at once (32)")
    new.add_argument("--overwrite", action="store_true", help="replace a file written by another model")

    new = command("search", run_search, "Search a folder by text, image or audio clip.",
                  'zoo search "a red bird" --corpus images --model FOLDER --html result.html')  # fmt: skip
    new.add_argument("queries", nargs="*", metavar="query", help="texts in quotes, or paths of images or audio files")
    new.add_argument("--corpus", required=True, metavar="FOLDER|FILE",
                     help="a folder (its embeddings are cached), or a file of zoo embed")  # fmt: skip
    new.add_argument("--model", help="a folder or hub name (default: the one that FILE names)")
    new.add_argument("--top-k", type=int, default=10, help="results for each query (10)")
    new.add_argument("--modalities", metavar="image,text,audio", help="what to search (default: all but texts)")
    new.add_argument("--html", metavar="FILE.html", help="write the results as an HTML page")
    new.add_argument("--engine", default="exact", help="exact (default), or faiss with the same results")
    new.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="skip",
        help="skip (default) omits and lists broken files; raise stops at the first one",
    )
    new.set_defaults(rest="queries")

    new = command("classify", run_classify, "Zero-shot classification of images or audio files.",
                  'zoo classify cat.png --model FOLDER --labels "cat,dog,fire engine"')  # fmt: skip
    new.add_argument("files", nargs="*", metavar="image.png", help="one or several image or audio files")
    new.add_argument("--model", required=True, help="a folder or hub name of a model with a text tower")
    new.add_argument("--labels", required=True, metavar="a,b,c|FILE",
                     help="class names, a text file with one per line, or a classifier that --save wrote")  # fmt: skip
    new.add_argument("--templates", metavar="FILE", help="prompts with {} in place of the name, one per line")
    new.add_argument("--top-k", type=int, default=5, help="labels for each (5)")
    new.add_argument("--save", metavar="FILE", help="save the classifier, for --labels")
    new.set_defaults(rest="files")


def run_embed(args: argparse.Namespace) -> int:
    from zoo.retrieval.embed import embed

    found = embed(
        load_model(args.model),
        args.folder,
        args.out,
        modalities=words(args.modalities),
        on_error=args.on_error,
        dtype=args.dtype,
        batch_size=args.batch_size,
        overwrite=args.overwrite,
    )
    say(
        f"{args.out}: {len(found)} vectors of {found.width} numbers ({str(found.vectors.dtype).removeprefix('torch.')})"
    )
    if found.broken:
        say(f"left out: {len(found.broken)}", *(f"  {printable(reason)}" for reason in found.broken))
    return 0


def run_search(args: argparse.Namespace) -> int:
    if not args.queries:
        raise ValueError('give a query: zoo search "a red bird" --corpus FOLDER, or the path of an image')
    if args.top_k < 1:
        raise ValueError(f"--top-k {args.top_k}: expected at least 1")
    from zoo.retrieval.search import search

    with plain_warnings():
        answers = search(
            list(args.queries),
            args.corpus,
            args.model,
            k=args.top_k,
            modalities=words(args.modalities),
            engine=args.engine,
            on_error=args.on_error,
            html=args.html,
        )
    table = make_table("", "", "score")
    table.columns[2].justify = "right"
    for query, hits in zip(args.queries, answers, strict=True):
        for i, hit in enumerate(hits):
            table.add_row("" if i else printable(query), printable(hit.name), f"{hit.score:.3f}")
    stdout_console().print(table)
    if args.html:
        say(f"{args.html} shows them")
    return 0


def run_classify(args: argparse.Namespace) -> int:
    if not args.files:
        raise ValueError("give at least one image or audio file: zoo classify image.png --model FOLDER --labels a,b")
    if args.top_k < 1:
        raise ValueError(f"--top-k {args.top_k}: expected at least 1")
    from zoo.preprocessing.modality import MODALITIES, file_modality
    from zoo.retrieval.zero_shot import zero_shot

    for file in args.files:
        modality = MODALITIES.get(file_modality(file) or "")
        if not Path(file).is_file() or modality is None or not modality.templates:
            known = " or ".join(record.file_noun for record in MODALITIES.values() if record.templates)
            raise ValueError(f"there is no {known} {file}")
    labels, kind = labels_of(args.labels), str(file_modality(args.files[0]))
    templates = Path(args.templates) if args.templates else None
    classifier = zero_shot(load_model(args.model), labels, templates, kind=None if isinstance(labels, Path) else kind)
    answers = classifier.predict([Path(file) for file in args.files], args.top_k)
    if args.save:
        classifier.save(args.save)
    table = make_table("", "label", "probability")
    table.columns[2].justify = "right"
    for file, answer in zip(args.files, answers, strict=True):
        for i, (label, share) in enumerate(answer):
            table.add_row("" if i else printable(file), printable(label), f"{share:.1%}")
    stdout_console().print(table)
    return 0


def labels_of(given: str) -> Any:
    """Names between commas, the lines of a text file, or the path of a saved classifier."""
    path = Path(given)
    if path.suffix == ".safetensors":
        return path
    if path.suffix == ".txt" and path.is_file():
        return [line.strip() for line in read_lines(path) if line.strip()]
    return given.split(",")


def words(given: str | None) -> list[str] | None:
    return None if given is None else [word.strip() for word in given.split(",")]


@contextmanager
def plain_warnings() -> Any:
    """Warnings as plain lines on stderr, after the output."""
    import sys

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in seen:
        say(warning.message, file=sys.stderr)
