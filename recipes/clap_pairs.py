"""Train two towers on sounds with captions, from scratch or from given towers; a text then tells what is heard.

    python recipes/clap_pairs.py                        sounds synthesized by the program: a minute or two on two cores
    python recipes/clap_pairs.py data=fsdd              spoken digits: "the spoken digit three"
    python recipes/clap_pairs.py data=fsdd "held_out_classes=[three, seven]"       two digits that are heard in the test alone
    python recipes/clap_pairs.py data=FOLDER            captions.csv beside sounds, or a folder per class
    python recipes/clap_pairs.py data=clips.parquet captions=caption audio.name=FOLDER audio.locked=true

Sounds of classes are described by sentences (`sentences=`), of which each sound gets another in every epoch. A
tokenizer is learned from the captions unless the text tower brings one. The same command goes on where it was killed,
bit for bit. `--help` lists all options.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import ClapSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER = {"synthetic": "epochs=24", "fsdd": "epochs=80"}


def train(run: Run) -> Result:
    """Towers and pairs by name, their contrast, and a run around it."""
    from zoo.training.fit import fit
    from zoo.training.recipes.audio_pairs import open_audio_pairs, prompt_figures, try_it
    from zoo.training.recipes.pairs import contrast_task
    from zoo.training.recipes.retrieval_page import retrieval

    model, data, sets = open_audio_pairs(run)
    return fit(run, contrast_task(run, model), data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(),
                   longer=LONGER, plots={"retrieval": retrieval},
                   callbacks=prompt_figures(run, data, sets), try_it=try_it(run, sets))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, ClapSettings))
