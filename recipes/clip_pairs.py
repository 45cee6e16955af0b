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
    from zoo.data.pairs.datamodule import PairDataModule
    from zoo.data.pairs.load import load_pairs
    from zoo.tasks.contrastive import ContrastiveTask
    from zoo.training.fit import fit
    from zoo.training.recipes.retrieval_page import retrieval, save_images
    from zoo.training.recipes.towers import fit_to_pairs, two_tower_model

    cfg, towers = run.config, ("image", "text")
    model = two_tower_model(run, towers)  # each by name, or from any folder of weights
    pairs = load_pairs(cfg.data, processor=model.preprocess.image, seed=cfg.seed)
    folder = run.open(pairs, model)  # a new one, or that of an unfinished run with the same settings and data
    pairs = pairs.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_pairs(run, model, towers, pairs)

    data = PairDataModule(pairs, model.preprocess, cfg.data.batch_size, max_length=cfg.data.max_length,
                          augment=cfg.data.augment, seed=cfg.seed, num_workers=cfg.data.num_workers)  # fmt: skip
    task = ContrastiveTask(model, grad_cache_size=cfg.task.grad_cache_size or None, duplicates=cfg.task.duplicates,
                           loss_chunk_size=cfg.task.loss_chunk_size or None, optim=cfg.optim, ema=cfg.trainer.ema,
                           seed=cfg.seed)  # fmt: skip
    images = save_images(folder, pairs.test)
    command = ["zoo", "search", pairs.test.captions[0][0], "--corpus", str(images), "--model", "{model}", "--html",
               str(folder.path / "search.html")]  # fmt: skip
    return fit(run, task, data, longer_runs=LONGER_RUNS, plots={"retrieval": retrieval}, example_command=command)


if __name__ == "__main__":
    sys.exit(main(train, ClipSettings))
