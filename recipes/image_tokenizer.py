"""Train an image tokenizer: a discrete variational autoencoder (DALL-E's dVAE) or VQ-VAE.

    python recipes/image_tokenizer.py                     generated scenes, 32 x 32 pixels in 8 x 8 tokens
    python recipes/image_tokenizer.py data=emoji          1,683 emoji, 64 x 64 pixels in 8 x 8 tokens
    python recipes/image_tokenizer.py data=FOLDER         your own images, in sub-folders, too
    python recipes/image_tokenizer.py model=dvae_tiny     Gumbel-softmax tokens, as those of DALL-E
    python recipes/image_tokenizer.py data=FOLDER image_size=128 "widths=[32,64,96,128]" vocab_size=2048

An image becomes a grid of tokens of a codebook, one for each square of pixels, and the tokens become the image again.
A transformer such as DALL-E writes such tokens from a text. The run ends with a sheet of test images beside their
reconstructions, the peak signal-to-noise ratio (PSNR) and the fraction of the codes that are used. If a run is
interrupted, the same command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.image_config import TokenizerSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"scenes": "epochs=20", "emoji": "epochs=200"}


def train(run: Run) -> Result:
    """Create the tokenizer, load the images, train it to reconstruct them."""
    from zoo.data.image.datamodule import ImageDataModule
    from zoo.data.image.unlabeled import load_unlabeled_images
    from zoo.tasks.image_tokenizer import ImageTokenizerTask
    from zoo.training.fit import fit
    from zoo.training.recipes.image_sheets import reconstructions, tokenizer_model

    cfg = run.config
    model = tokenizer_model(run)  # by name, or from any folder of weights
    images = load_unlabeled_images(cfg.data, processor=model.preprocess, seed=cfg.seed)
    folder = run.open(images, model)  # a new one, or that of an unfinished run with the same settings and data
    images = images.with_validation(cfg.trainer.val_fraction, cfg.seed)

    data = ImageDataModule(images, cfg.data.batch_size, processor=model.preprocess, augment=cfg.data.augment,
                           seed=cfg.seed, num_workers=cfg.data.num_workers, on_device=cfg.data.on_device)  # fmt: skip
    task = ImageTokenizerTask(model, objective=cfg.task, augment=data.augment, optim=cfg.optim, ema=cfg.trainer.ema,
                              seed=cfg.seed)  # fmt: skip
    code = f"import zoo; m = zoo.load('{{model}}'); print(m.tokenize(**m.preprocess('{folder.path / 'sample.png'}')))"
    return fit(run, task, data, longer_runs=LONGER_RUNS, plots={"reconstructions": reconstructions},
               example_command=["python", "-c", code])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, TokenizerSettings))
