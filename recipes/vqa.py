"""Train a model that answers questions about images: an image encoder joined to a text decoder, as LLaVA or Flamingo.

    python recipes/vqa.py                             synthetic scenes
    python recipes/vqa.py by=cross                    gated cross-attention between the blocks of the decoder
    python recipes/vqa.py by=resampler model.resampler_tokens=8
    python recipes/vqa.py data=emoji                  which kind of emoji it is
    python recipes/vqa.py data=FOLDER                 your own images: a train.csv with file, question and answer
    python recipes/vqa.py data=FOLDER image.name=FOLDER image.locked=true
    zoo compare vqa by=projector,resampler,cross

The synthetic scenes have two objects of 4 shapes and 6 colors. The questions are about numbers, colors, shapes,
relations and comparisons; the test scenes have combinations of color and shape, and of two shapes and a relation, that
do not occur in training. Training begins with objects that have one name, "a circle" or "a red object". An answer
counts if it is written exactly.

Beside the accuracy of each type of questions stand that of the same model with the images of other questions, of a
decoder that was trained without images, and of a linear classifier of the images without questions. The run folder has
all answers in answers.csv, and some images with theirs in questions.png. The trained model is saved in runs/vqa/model.
If a run is interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.image_text_config import VQASettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=30", "emoji": "epochs=60"}


def train(run: Run) -> Result:
    """Create the towers and join them, load the questions, train the model to write the answers."""
    from zoo.data.image_text.datamodule import ImageTextDataModule
    from zoo.data.image_text.load import load_visual_questions
    from zoo.tasks.caption import CaptionTask
    from zoo.training.fit import fit
    from zoo.training.recipes.bridge import bridge_model, fit_to_texts, layout_of
    from zoo.training.recipes.caption import pair_bias
    from zoo.training.recipes.image_text_order import announce_unread
    from zoo.training.recipes.towers import is_new
    from zoo.training.recipes.vqa import PLOTS, AnswersFile, Baselines, groups_of

    cfg = run.config
    model = bridge_model(run)  # each tower by name, or from any folder of weights
    questions = load_visual_questions(cfg.data, processor=model.preprocess.image, seed=cfg.seed)
    folder = run.open(questions, model)  # a new one, or that of an unfinished run with the same settings and data
    questions = questions.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_texts(run, model, questions)

    data = ImageTextDataModule(questions, model.preprocess.text, model.preprocess.image,
                               layout_of(model, cfg.data.max_length), cfg.data.batch_size, augment=cfg.data.augment,
                               seed=cfg.seed, caption_epochs=cfg.data.caption_epochs,
                               introductory_epochs=cfg.data.partly_named_epochs,
                               num_workers=cfg.data.num_workers)  # fmt: skip
    announce_unread(run, data.steps_per_epoch)
    task = CaptionTask(model, bias=pair_bias(run, model, data), types=data.types, groups=groups_of(data.types),
                       control=True, optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    callbacks = [AnswersFile(folder.path)]
    if cfg.task.baselines:
        callbacks.append(Baselines(data, cfg.task.language_steps, is_new=is_new(run, "text"), seed=cfg.seed))
    return fit(run, task, data, longer_runs=LONGER_RUNS, callbacks=callbacks, plots=PLOTS,
               example_command=["zoo", "verify", "{model}"])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, VQASettings))
