"""Train an audio-text model in the style of CLAP, for audio search and zero-shot audio classification.

    python recipes/clap_pairs.py                        synthetic audio: 1-2 minutes on two CPU cores
    python recipes/clap_pairs.py data=fsdd              spoken digits: "the spoken digit three"
    python recipes/clap_pairs.py data=fsdd "held_out_classes=[three, seven]"   two digits are only in the test set
    python recipes/clap_pairs.py data=FOLDER            your own clips: with a captions.csv, or a subfolder per class
    python recipes/clap_pairs.py data=clips.parquet captions=caption audio.name=FOLDER audio.locked=true

Two towers, one for audio and one for text, are trained contrastively, from scratch or from pretrained weights. If the
clips have classes instead of captions, captions are made from templates (`sentences=`), a different one in each epoch.
A tokenizer is trained on the captions unless the text tower has one. If a run is interrupted, the same command resumes
it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import ClapSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=24", "fsdd": "epochs=80"}


def train(run: Run) -> Result:
    """Create the towers, load the audio-text pairs, train with the contrastive loss."""
    from zoo.training.fit import fit
    from zoo.training.recipes.audio_pairs import example_command, open_audio_pairs, zero_shot_callbacks
    from zoo.training.recipes.pairs import contrast_task
    from zoo.training.recipes.retrieval_page import retrieval

    model, data, sets = open_audio_pairs(run)
    return fit(run, contrast_task(run, model), data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(),
               longer_runs=LONGER_RUNS, plots={"retrieval": retrieval},
               callbacks=zero_shot_callbacks(run, data, sets),
               example_command=example_command(run, sets))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, ClapSettings))
