"""The command `zoo`. Torch is imported by the commands that need it, so `zoo --help` is fast."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.audio import add_commands as add_audio
from zoo.cli.chat import add_commands as add_generation
from zoo.cli.doctor import main as doctor
from zoo.cli.explore import add_command as add_explore
from zoo.cli.export import add_command as add_export
from zoo.cli.infill import add_command as add_infill
from zoo.cli.info import add_kind_flags, cost_table, kind_overrides
from zoo.cli.plan import add_command as add_plan
from zoo.cli.predict import add_command as add_predict
from zoo.cli.retrieval import add_commands as add_search
from zoo.cli.scaling import add_command as add_scaling
from zoo.cli.serve import add_command as add_serve
from zoo.cli.settings import settings
from zoo.models.names import missing_family
from zoo.utils import renamed
from zoo.utils.console import format_count, format_value, make_table, stdout_console
from zoo.utils.errors import SeveralErrors, did_you_mean
from zoo.utils.escape import printable, say
from zoo.utils.plain_warnings import plain_warnings
from zoo.utils.version import __version__

if TYPE_CHECKING:
    from zoo.inference.cost import Measures
    from zoo.models.base import Model
    from zoo.models.config import Config
    from zoo.models.family import Family


def main(argv: Sequence[str] | None = None, *, reworded: Callable[[str], str] = str) -> int:
    """Run a command line; returns the exit status: 0, 1 where a check fails, 2 for invalid input.

    reworded: changes the messages of errors, of a script whose options are not flags.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    show = "--traceback" in words
    parser = make_parser()
    args = read(parser, [word for word in words if word != "--traceback"])
    try:
        with plain_warnings():
            return args.run(args)
    except BrokenPipeError:  # `zoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        if show:
            raise
        hint = "; `zoo doctor` says what is wrong with this installation" if isinstance(error, ImportError) else ""
        for problem in error.problems if isinstance(error, SeveralErrors) else [str(error)]:
            say(f"error: {reworded(' '.join(problem.split())) or type(error).__name__}{hint}", file=sys.stderr)
        return 2


class CommandParser(argparse.ArgumentParser):
    """Parser of one command, which takes the old names of its flags as well."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(renamed.flags(args, self._option_string_actions), namespace)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("zoo", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"zoo {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error comes from (anywhere in the line)"
    )
    parser.description = "Transformers of text, vision and audio over one attention core."
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=CommandParser)

    def command(name: str, run: Callable[[argparse.Namespace], int], about: str, more: str = "") -> Any:
        new = commands.add_parser(name, help=about, description=f"{about} {more}".strip(), allow_abbrev=False)
        new.set_defaults(run=run, rest=None)
        return new

    new = command("list", run_list, "List the models.")
    new.add_argument("pattern", nargs="?", default="*", help='part of a name, or a pattern like "vit_*_224"')
    new.add_argument("--modality", help="vision, text, audio or multimodal")
    new.add_argument("--pretrained", action="store_true", help="only those with published weights")

    new = command("info", run_info, "Config, parameters, FLOPs and memory of a model.")
    new.add_argument("model", help="a name, a folder, or a hub repository")
    new.add_argument("overrides", nargs="*", metavar="key=value", help="fields of its config, e.g. attention=performer")
    new.add_argument("--batch-size", type=int, default=1, help="rows of the batch (1)")
    new.add_argument("--length", type=int, help="tokens in each row of a text (128); prints the cost of each kind")
    add_kind_flags(new)
    new.set_defaults(rest="overrides")

    add_plan(command, describe_model)
    add_predict(command)
    add_explore(command)
    add_serve(command)

    add_generation(command)
    add_infill(command)
    add_audio(command)
    add_search(command)
    add_tools(command)
    return parser


def add_tools(command: Callable[..., Any]) -> None:
    """What compares, converts and tests models."""
    new = command("compare", run_compare, "Compare runs of one recipe that differ in one or two settings.",
                  "zoo compare vit_cifar attention=softmax,performer,my_file:MyCore seeds=3 max_minutes=5")  # fmt: skip
    new.add_argument("recipe", help="the name of a script in recipes/")
    new.add_argument(
        "options", nargs="*", metavar="key=value", help="one with several values; seeds=, max_minutes=, out="
    )
    new.set_defaults(rest="options")

    add_scaling(command)
    add_export(command)

    new = command(
        "verify", run_verify, "Compare outputs, labels and preprocessing with the library that the files come from."
    )
    new.add_argument("source", metavar="SOURCE", help="a folder, or a hub repository")

    command("doctor", run_doctor, "Check the installation, and print how to fix it.")

    new = command("check", run_check, "Test a custom attention core.")
    new.add_argument("core", metavar="my_file:MyCore", help="a file or module, and the class in it")


def read(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """argparse takes words without a dash in one place only; here they may stand before and after the options."""
    args, left = parser.parse_known_args(words)
    if unknown := [word for word in left if word.startswith("-") or args.rest is None]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)} (zoo COMMAND --help lists them)")
    if args.rest is not None:
        setattr(args, args.rest, [*getattr(args, args.rest), *left])
    return args


# --- commands -----------------------------------------------------------------------------------------------------


def run_list(args: argparse.Namespace) -> int:
    from zoo.models.registry import families, list_models

    pattern = args.pattern if set("*?[") & set(args.pattern) else f"*{args.pattern}*"
    names = list_models(pattern, args.modality, args.pretrained)
    if not names:
        every = list_models()
        other = missing_family(args.pattern)
        hint = f": the family {other!r} is not in this library" if other else did_you_mean(args.pattern, every)
        raise ValueError(f"no model is called {args.pattern!r}{hint} ({len(every)} known)")
    table = make_table("name", "family", "input", "width", "depth", "heads", "published weights")
    for found in families():
        for name in (name for name in names if name in found.variants):
            config: Any = found.config(**found.variants[name])
            size = getattr(config, "image_size", getattr(config, "max_length", ""))
            row = [
                name,
                found.name,
                format_value(size),
                *(format_value(getattr(config, f, "")) for f in ("width", "depth", "heads")),
            ]
            table.add_row(*row, found.sources.get(name, "").removeprefix("hf-hub:"))
    stdout_console().print(table)
    return 0


def run_info(args: argparse.Namespace) -> int:
    from zoo.inference.cost import measure
    from zoo.inference.cost_by_kind import fitting

    name, found, model, source = describe_model(args.model, settings(args.overrides) | kind_overrides(args))
    if args.length is not None:
        model = fitting(model, args.length)
    cost = measure(model, args.batch_size, length=args.length)
    out = stdout_console()
    out.print(f"{name}  {type(model).__name__}, {found.modality}", style="bold")
    table = make_table("", "")
    table.show_header = False
    for row in [
        *costs(cost),
        ("input", input_shapes(model, args.batch_size, args.length)),
        ("source", source or "-"),
    ]:
        table.add_row(*row)
    if model.labels:
        names = printable(", ".join(model.labels[:4]))
        table.add_row("labels", f"{len(model.labels)}: {names}" + ", ..." * (len(model.labels) > 4))
    for field, value in model.config.flat().items():
        table.add_row(field, format_value(value))
    out.print(table)
    if args.length is not None:
        out.print(cost_table(model, args.length, args.batch_size))
    return 0


def run_compare(args: argparse.Namespace) -> int:
    from zoo.training.sweep.compare import compare

    comparison = compare(args.recipe, args.options)
    stdout_console().print(comparison)
    return 0 if comparison.ok else 1


def run_verify(args: argparse.Namespace) -> int:
    from zoo.checkpoints.verify import verify

    found = verify(args.source)
    say(found)
    return 0 if found.ok else 1


def run_doctor(args: argparse.Namespace) -> int:
    return doctor()


def run_check(args: argparse.Namespace) -> int:
    from zoo.nn.conformance import check

    report = check(args.core)
    table = make_table("check", "")
    for name, result in report.results.items():
        table.add_row(name, result)
    stdout_console().print(table)
    say(f"{report.name}: " + ("ok" if report.ok else "WRONG"), *(f"  {failure}" for failure in report.failures))
    return 0 if report.ok else 1


# --- what they print ----------------------------------------------------------------------------------------------


def describe_model(given: str, overrides: dict[str, Any]) -> "tuple[str, Family, Model, str]":
    """(name, family, model on the meta device, where its weights are) of a name, a folder or a repository."""
    from zoo.models import registry

    if given in registry.list_models() or not (Path(given).exists() or "/" in given or ":" in given):
        found = registry.find_variant(given)
        config: Config = found.config(**found.variants[given])
        name, source, labels = given, found.sources.get(given, ""), None
    else:
        from zoo.checkpoints.load import describe

        checkpoint = describe(given)
        found, config, labels = checkpoint.family, checkpoint.config, checkpoint.labels
        name, source = checkpoint.variant or checkpoint.architecture or found.name, f"{given} ({checkpoint.format})"
    model = registry.build(found, registry.with_overrides(found, config, overrides), "meta")
    model.labels = labels
    return name, found, model, source


def costs(cost: "Measures") -> list[tuple[str, str]]:
    batch = f"batch of {cost.batch}"
    return [
        ("parameters", f"{format_count(cost.parameters)} ({cost.parameters:,})"),
        ("weights", f"{format_count(cost.weight_bytes)}B"),
        ("forward", f"{format_count(cost.flops)}FLOP ({format_count(cost.flops // 2)}MAC), {batch}"),
        ("memory, inference", f"about {format_count(cost.inference_bytes)}B, {batch}"),
        ("memory, training", f"about {format_count(cost.training_bytes)}B with AdamW, {batch}"),
    ]


def input_shapes(model: "Model", batch: int, length: int | None) -> str:
    from zoo.inference.cost import empty_batch

    return ", ".join(f"{name} {list(x.shape)}" for name, x in empty_batch(model, batch, length).items())


if __name__ == "__main__":
    sys.exit(main())
