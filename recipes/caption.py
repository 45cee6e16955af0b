"""Train a model that describes images in a sentence: an image encoder, and a decoder that attends to it, as BLIP.

    python recipes/caption.py                         synthetic scenes
    python recipes/caption.py data=emoji              1,683 emoji and their names, 187 of them held out
    python recipes/caption.py data=FOLDER             your own images: with a captions.csv, or train.parquet
    python recipes/caption.py data=FOLDER model.source=Salesforce/blip-image-captioning-base lr=1e-5 batch_size=8

The synthetic scenes have two objects of 4 shapes and 6 colors; the test scenes have combinations of color and shape,
and of two shapes and a relation, that do not occur in training. Captions are scored by BLEU (sacrebleu, extra
`translate`), by CIDEr-D, and by how many are exactly one of the right ones.

On the scenes, the places of the objects are known: the pointing scores are the fractions of named objects that lie
under the maximum of the attention that wrote their words, as it is, followed through the encoder (rollout), and
weighted by gradients, beside that of a patch at random. grounding.png shows the words of some captions over their
images. The captions of the test split are in captions.csv, the trained model in runs/caption/model. If a run is
interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.image_text_config import CaptionSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=24", "emoji": "epochs=120"}


def train(run: Run) -> Result:
    """Create the model, load the captions, train it to write them."""
    from zoo.data.image_text.datamodule import ImageTextDataModule
    from zoo.data.image_text.load import load_captions
    from zoo.tasks.caption import CaptionTask
    from zoo.training.fit import fit
    from zoo.training.recipes.caption import (
        CaptionsFile,
        caption_layout,
        caption_model,
        caption_scores,
        fit_to_captions,
        pair_bias,
        references,
    )
    from zoo.training.recipes.grounding import PLOTS, PointingScore
    from zoo.training.recipes.image_text_order import announce_unread

    cfg = run.config
    model = caption_model(run)  # by name, or from any folder of weights
    captions = load_captions(cfg.data, processor=model.preprocess.image, seed=cfg.seed)
    folder = run.open(captions, model)  # a new one, or that of an unfinished run with the same settings and data
    captions = captions.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_captions(run, model, captions)

    data = ImageTextDataModule(captions, model.preprocess.text, model.preprocess.image,
                               caption_layout(model, cfg.data.max_length), cfg.data.batch_size,
                               augment=cfg.data.augment, seed=cfg.seed,
                               introductory_epochs=cfg.data.partly_named_epochs,
                               introductory_until=cfg.data.partly_named_until,
                               num_workers=cfg.data.num_workers)  # fmt: skip
    announce_unread(run, data.steps_per_epoch)
    generation = {"num_beams": cfg.task.num_beams, "length_penalty": cfg.task.length_penalty,
                  "max_new_tokens": cfg.data.max_length}  # fmt: skip
    task = CaptionTask(model, bias=pair_bias(run, model, data), text_metric=caption_scores(captions),
                       references=references(captions), val_samples=cfg.task.val_samples, generation=generation,
                       optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    callbacks = [CaptionsFile(folder.path), PointingScore(captions.test)]
    return fit(run, task, data, longer_runs=LONGER_RUNS, callbacks=callbacks, plots=PLOTS,
               example_command=["zoo", "generate", "{model}", "--image", "image.png"])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, CaptionSettings))
