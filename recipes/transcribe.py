"""Transcribe recordings of any length with Whisper or a CTC model: subtitles, or times of words; nothing is trained.

    python recipes/transcribe.py talk.wav model=openai/whisper-tiny                 prints the text
    python recipes/transcribe.py talk.wav model=openai/whisper-tiny out=talk.srt    .srt, .vtt, .txt or .json
    python recipes/transcribe.py recordings model=FOLDER out=texts format=json      a folder, several files at a time
    python recipes/transcribe.py talk.wav model=FOLDER language=de task=translate out=talk.vtt
    python recipes/transcribe.py talk.wav model=FOLDER word_timestamps=false skip_silence=true out=talk.json

Every option of `zoo transcribe` is a key here, which `zoo transcribe --help` lists: on_error=skip, overwrite=true,
beam_width=5, condition_on_previous_text=true. Recordings with another sampling rate are resampled unless
resample=false. word_timestamps=false leaves out the times of words, so that subtitles are the segments of Whisper.
"""

import sys

from zoo.cli.main import main
from zoo.cli.transcribe_options import files_and_options, flags_as_keys, transcribe_flags


def command(words: list[str]) -> list[str]:
    """The command line of `zoo transcribe` for files and key=value options. Raises ValueError for unknown options."""
    files, options = files_and_options(words)
    options = {"resample": "true"} | options
    model = options.pop("model", "")
    if not files or not model:
        raise ValueError("expected files and a model: python recipes/transcribe.py talk.wav model=openai/whisper-tiny")
    if options.pop("word_timestamps", "true").lower() == "false":
        options["timestamps"] = "segment"
    return ["transcribe", model, *files, *transcribe_flags(options)]


def run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0
    try:
        return main(command(words), reworded=flags_as_keys)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
