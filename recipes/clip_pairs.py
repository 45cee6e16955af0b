"""Train an image-text model in the style of CLIP or SigLIP, for image search and zero-shot classification.

    python recipes/clip_pairs.py                        synthetic images and captions: a few minutes on two CPU cores
    python recipes/clip_pairs.py data=emoji             1,683 emoji and their names, 187 of them held out
    python recipes/clip_pairs.py data=FOLDER            your own images: with a captions.csv, or train.parquet
    python recipes/clip_pairs.py "data=shards/{000..009}.tar" test=shards/010.tar loss=siglip
    python recipes/clip_pairs.py data=FOLDER image.name=FOLDER image.locked=true text.name=bert_mini
    python recipes/clip_pairs.py data=FOLDER model.source=org/clip lr=1e-5 grad_cache_size=64 batch_size=1024

Two towers, one for images and one for text, are trained contrastively, from scratch or from pretrained weights. The
synthetic images combine colors and shapes; the test set consists of combinations that are not in the training set. A
tokenizer is trained on the captions unless the text tower has one. If a run is interrupted, the same command resumes
it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import ClipSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=20", "emoji": "epochs=120"}


def train(run: Run) -> Result:
    """Create the towers, load the image-text pairs, train with the contrastive loss."""
    from zoo.training.fit import fit
    from zoo.training.recipes.pairs import contrast_task, open_image_pairs
    from zoo.training.recipes.retrieval_page import retrieval, save_images

    model, data, sets = open_image_pairs(run)
    images = save_images(run, sets)
    task = contrast_task(run, model)
    return fit(run, task, data, steps_per_epoch=data.steps_per_epoch, sample=data.sample(), longer_runs=LONGER_RUNS,
               plots={"retrieval": retrieval},
               example_command=["zoo", "search", sets.test.captions[0][0], "--corpus", str(images),
                                "--model", "{model}", "--html", str(images.parent / "search.html")])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, ClipSettings))
