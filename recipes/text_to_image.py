"""Train a model that makes images from texts: DALL-E, or MaskGIT, on the tokens of an image tokenizer.

    python recipes/text_to_image.py                        synthetic scenes
    python recipes/text_to_image.py model=maskgit_nano     many tokens at a time instead of one after the other
    python recipes/text_to_image.py data=emoji             1,683 emoji and their names, 187 of them held out
    python recipes/text_to_image.py data=FOLDER            your own images: with a captions.csv, or train.parquet
    python recipes/text_to_image.py tokenizer.source=runs/image_tokenizer ranker.train_steps=0

Three models are trained one after the other: an image tokenizer, or the given one; a small contrastive model of images
and texts (the ranker), which chooses among several images for a text; and the model that writes image tokens for a
text. The first two are in tokenizer/ and ranker/ in the run folder.

The test scenes have combinations of color and shape, and of two shapes and a relation, that do not occur in training.
A classifier of rendered scenes, trained apart, says in how many generated images the objects and colors are right, and
in how many the relation, too: of all images, and of those that the ranker chooses. images.png shows texts and images.
If a run is interrupted in any of its stages, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.image_config import TextToImageSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "steps=15000", "emoji": "epochs=200"}


def train(run: Run) -> Result:
    """Create the models, load the captions, train the tokenizer, the ranker, and the model of image tokens."""
    from zoo.data.image_text.load import load_captions
    from zoo.tasks.text_to_image import TextToImageTask
    from zoo.training.fit import fit
    from zoo.training.recipes.generated_images import GeneratedImages
    from zoo.training.recipes.scene_judge import scene_classifier
    from zoo.training.recipes.text_to_image import (
        check_settings,
        fit_to_captions,
        image_ranker,
        image_tokenizer,
        text_to_image_model,
        token_data,
        untrained_tokenizer,
    )

    cfg = run.config
    check_settings(run)
    model = text_to_image_model(run)  # by name, or from a folder of this recipe
    tokenizer = untrained_tokenizer(run, model)
    captions = load_captions(cfg.data, processor=tokenizer.preprocess, seed=cfg.seed)
    folder = run.open(captions, model)  # a new one, or that of an unfinished run with the same settings and data
    captions = captions.with_validation(cfg.trainer.val_fraction, cfg.seed)

    model = fit_to_captions(run, model, image_tokenizer(run, tokenizer, captions), captions)
    ranker = image_ranker(run, model.preprocess, captions)
    judge = None
    if captions.test.scenes is not None:
        judge = scene_classifier(folder.path / "judge.pt", size=captions.test.images.shape[-1],
                                 steps=cfg.task.judge_steps, seed=cfg.seed)  # fmt: skip

    data = token_data(run, model, captions)
    task = TextToImageTask(model, image_weight=cfg.task.image_weight, label_smoothing=cfg.task.label_smoothing,
                           optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    images = GeneratedImages(captions.test, cfg.task, ranker, judge, cfg.seed)
    return fit(run, task, data, longer_runs=LONGER_RUNS, callbacks=[images], plots={"images": images.sheet},
               example_command=["zoo", "verify", "{model}"])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, TextToImageSettings))
