"""Train two towers on pictures with captions, from scratch or from given towers, and search pictures by text.

    python recipes/clip_pairs.py                        scenes drawn by the program: some minutes on two CPU cores
    python recipes/clip_pairs.py data=emoji             1,683 emoji and their names, 187 held out
    python recipes/clip_pairs.py data=FOLDER            captions.csv (file, caption) beside pictures, or train.parquet
    python recipes/clip_pairs.py "data=shards/{000..009}.tar" test=shards/010.tar loss=siglip
    python recipes/clip_pairs.py data=FOLDER image.name=FOLDER image.locked=true text.name=bert_mini
    python recipes/clip_pairs.py data=FOLDER model.source=org/clip lr=1e-5 grad_cache_size=64 batch_size=1024

The drawn scenes combine colors and shapes; some combinations are kept out of training, and the test asks for those.
A tokenizer is learned from the captions unless the text tower brings one. The same command goes on where it was
killed, bit for bit. `--help` lists all options.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import ClipSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER = {"synthetic": "epochs=20", "emoji": "epochs=120"}


def train(run: Run) -> Result:
    """Towers and pairs by name, their contrast, and a run around it."""
    from zoo.training.fit import fit
    from zoo.training.recipes.pairs import contrast_task, open_image_pairs
    from zoo.training.recipes.retrieval_page import retrieval, save_images

    model, data, sets = open_image_pairs(run)
    where = save_images(run, sets)
    task = contrast_task(run, model)
    return fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer=LONGER,
                   plots={"retrieval": retrieval},
                   try_it=f'zoo search "{sets.test.captions[0][0]}" --in {where} --model {{model}} '
                          f"--page {where.parent / 'search.html'}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, ClipSettings))
