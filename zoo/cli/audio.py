"""The commands `zoo timeline` and `zoo transcribe`. Torch is imported when they run."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.models import load_model
from zoo.utils.console import make_table, stdout_console
from zoo.utils.errors import check_choice
from zoo.utils.escape import printable, say

if TYPE_CHECKING:
    from zoo.inference.transcribe import SubtitleLimits, Transcript
    from zoo.models.base import Model

FORMATS = ("srt", "vtt", "txt", "json")
WHISPER = ("language", "task", "temperature", "condition_on_previous_text", "skip_silence", "batch_size")
LIMITS = {"line_length": 42, "lines": 2, "max_duration": 7.0}  # of subtitles

Command = Callable[..., Any]


def add_commands(command: Command) -> None:
    """The parsers; `command(name, run, about, more)` makes one."""
    new = command("timeline", run_timeline, "Labels of a long recording over time, and their mean.",
                  "zoo timeline FOLDER meeting.wav --out meeting.csv")  # fmt: skip
    new.add_argument("source", metavar="MODEL", help="a model or run folder, or a hub repository")
    new.add_argument("file", metavar="FILE", help="an audio file of any length")
    new.add_argument("--out", metavar="FILE", help="a table (.csv, .json) or a plot (.png) to write")
    new.add_argument("--top-k", type=int, default=1, help="labels of each window (1)")
    add_common(new)

    new = command("transcribe", run_transcribe, "The text of speech, with the times of its words, or subtitles.",
                  "zoo transcribe FOLDER talk.wav --out talk.srt")  # fmt: skip
    new.add_argument(
        "source", metavar="MODEL", help="Whisper or a model with a CTC head: a folder, run or hub repository"
    )
    new.add_argument("files", nargs="*", metavar="FILE", help="audio files of any length, or folders of them")
    new.add_argument("--out", metavar="FILE|FOLDER",
                     help="a .srt, .vtt, .txt or .json file, or a folder with --format")  # fmt: skip
    new.add_argument("--format", choices=FORMATS, help="of the files in the folder --out, one for each recording")
    new.add_argument("--on-error", choices=("raise", "skip"), default="raise",
                     help="for a recording that cannot be read: stop (default), or omit it and say so")  # fmt: skip
    new.add_argument("--timestamps", choices=("word", "char", "segment"),
                     help="in .json files: of words (default), or of characters, too; of Whisper of words, or of "
                     "segments alone, also as subtitles")  # fmt: skip
    new.add_argument("--line-length", type=int, help="of subtitles, in characters (42)")
    new.add_argument("--lines", type=int, help="of a subtitle (2)")
    new.add_argument("--max-duration", type=float, help="of a subtitle, in seconds (7)")
    new.add_argument("--beam-width", type=int, help="texts in the beam; 1 is greedy decoding (16; of Whisper 1)")
    new.add_argument("--language-model", metavar="MODEL", help="a text decoder that takes part in the beam search")
    new.add_argument("--lm-weight", type=float, help="weight of its log probability (0.5)")
    new.add_argument("--word-bonus", type=float, help="added for each word, with a language model (1.5)")
    add_whisper_options(new)
    add_common(new)
    new.set_defaults(rest="files")


def add_whisper_options(parser: argparse.ArgumentParser) -> None:
    """The fields of `WhisperOptions` that the command has."""
    group = parser.add_argument_group("Whisper")
    group.add_argument("--language", help="of the speech, as a code or a name (detected in each recording)")
    group.add_argument("--task", choices=("transcribe", "translate"), help="translate is to English")
    group.add_argument("--temperature", type=numbers, metavar="T,T,...",
                       help="tried until a text passes the thresholds; 0 is greedy (0,0.2,0.4,0.6,0.8,1)")  # fmt: skip
    group.add_argument("--condition-on-previous-text", action="store_true", default=None,
                       help="read what was written for the earlier audio")  # fmt: skip
    group.add_argument("--skip-silence", action="store_true", default=None,
                       help="windows leave out parts that are silent by their energy")  # fmt: skip
    group.add_argument("--batch-size", type=int, help="recordings that are transcribed together (8)")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    return tuple(float(word) for word in text.split(","))


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--resample", action="store_true", help="resample audio to the model's sampling rate")


def load_audio_model(args: argparse.Namespace) -> "Model":
    model = load_model(args.source)
    if args.resample and hasattr(model.preprocess, "resample"):
        model.preprocess = replace(model.preprocess, resample=True)
    return model


def run_timeline(args: argparse.Namespace) -> int:
    suffix = Path(args.out).suffix.lower() if args.out else ".csv"
    check_choice("the suffix of --out", suffix, (".csv", ".json", ".png"))
    check_absent([Path(args.out)] if args.out else [], args.overwrite)
    from zoo.inference.timeline import timeline
    from zoo.interpret.plot_timeline import plot_timeline

    found = timeline(load_audio_model(args), args.file, args.top_k)
    if not args.out:
        table = make_table("start", "end", "label", found.unit)
        for row in found.rows:
            table.add_row(f"{row.start:.2f}", f"{row.end:.2f}", printable(row.label), f"{row.probability:.4g}")
        stdout_console().print(table)
    elif suffix == ".png":
        plot_timeline(found, args.out)
    else:
        found.save(args.out)
    mean = ", ".join(f"{label} {value:.4g}" for label, value in found.mean[:5])
    say(f"{args.out or args.file}: {len(found.spans)} windows; mean: {mean}")
    return 0


def run_transcribe(args: argparse.Namespace) -> int:
    if not args.files:
        raise ValueError("give at least one audio file: zoo transcribe MODEL talk.wav --out talk.srt")
    from zoo.inference.transcribe import AudioError, Search, SubtitleLimits, recordings, transcribe_files

    files = [one for word in args.files for one in recordings(Path(word))]
    outputs = output_files(args, files)
    written = [out for out in outputs if out is not None]
    check_used(args, {out.suffix.lower() for out in written})
    check_absent(written, args.overwrite)
    given = {name: value for name in LIMITS if (value := getattr(args, name)) is not None}
    weights = {name: value for name in ("lm_weight", "word_bonus") if (value := getattr(args, name)) is not None}
    values = LIMITS | given
    limits = SubtitleLimits(**values, min_duration=min(1.0, values["max_duration"]))
    model = load_audio_model(args)
    lm = load_model(args.language_model) if args.language_model else None
    subtitles = bool(written) and all(out.suffix.lower() in (".srt", ".vtt") for out in written)
    timestamps = args.timestamps or default_timestamps(model, subtitles)
    search = Search(timestamps, args.beam_width, lm, **weights)
    options = {name: value for name in WHISPER if (value := getattr(args, name)) is not None}
    skipped: list[str] = []
    for index, found in transcribe_files(model, [file for file, _ in files], search, **options):
        if isinstance(found, Exception):
            if args.on_error == "raise":
                raise found
            skipped.append(str(found))
        else:
            write_transcript(found, files[index][0], outputs[index], limits, several=len(files) > 1)
    if len(skipped) == len(files):
        raise AudioError(f"none of {len(files)} recordings can be read; the first: {skipped[0]}")
    if skipped:
        say(f"{len(skipped)} of {len(files)} recordings are skipped: {'; '.join(skipped)}", file=sys.stderr)
    return 0


def default_timestamps(model: "Model", subtitles: bool) -> Any:
    """Of words; of a CTC model those of characters for subtitles, which may have to divide a word."""
    return "char" if subtitles and model.config.head == "ctc" else "word"


def write_transcript(
    found: "Transcript", file: Path, out: Path | None, limits: "SubtitleLimits", *, several: bool
) -> None:
    """Save and print a transcript, and say where it repeats itself."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        found.save(out, limits)
    language = f"[{found.language}] " if found.language and several else ""
    where = f"{out or file}: " if out is not None or several else ""
    say(f"{where}{language}{found.text}")
    if loops := found.repetitive:
        spans = ", ".join(f"{one.start:.1f} - {one.end:.1f} s" for one in loops[:3])
        say(
            f"{file}: {len(loops)} of {len(found.segments)} segments repeat themselves at every temperature, and are "
            f"probably wrong ({spans})",
            file=sys.stderr,
        )


def check_absent(files: list[Path], overwrite: bool) -> None:
    """Raise ValueError for a file that exists, unless it may be replaced."""
    if not overwrite and (there := next((file for file in files if file.exists()), None)):
        raise ValueError(f"--out: {there} exists: replace it with --overwrite, or give another name")


def check_used(args: argparse.Namespace, suffixes: set[str]) -> None:
    """Raise ValueError for an option that the outputs, files with these suffixes, do not use."""
    subtitles = "subtitles: --out with a .srt or .vtt file, or --format srt or vtt"
    segments = args.timestamps == "segment" and bool(suffixes & {".srt", ".vtt"})
    uses = {"timestamps": (".json" in suffixes or segments, "JSON: --out with a .json file, or --format json")}
    uses |= {name: (bool(suffixes & {".srt", ".vtt"}), subtitles) for name in LIMITS}
    uses |= {name: (bool(args.language_model), "--language-model") for name in ("lm_weight", "word_bonus")}
    for name, (used, what) in uses.items():
        if getattr(args, name) is not None and not used:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} is used with {what}: give it, too, or omit {flag}")


def output_files(args: argparse.Namespace, files: list[tuple[Path, Path]]) -> list[Path | None]:
    """The file to write for each recording. Raises ValueError if two would be the same."""
    if args.out is None:
        if args.format:
            raise ValueError(f"--format {args.format} is for files: give their folder, --out FOLDER")
        return [None] * len(files)
    out = Path(args.out)
    if args.format:
        if out.suffix.lower() in [f".{name}" for name in FORMATS] and not out.is_dir():
            raise ValueError(
                f"--out {out} looks like a file, and --format writes into a folder: omit --format for one file, or "
                f"give a folder, --out {out.stem}"
            )
        names = [out / name.with_suffix(f".{args.format}") for _, name in files]
        if same := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"several recordings would be written to {same}: transcribe them into different folders")
        return list(names)
    check_choice("the suffix of --out", out.suffix.lower(), [f".{name}" for name in FORMATS])
    if len(files) > 1:
        raise ValueError(
            f"--out {out} is one file, and there are {len(files)} recordings: give a folder, "
            f"--out {out.stem} --format {out.suffix[1:].lower()}"
        )
    return [out]
