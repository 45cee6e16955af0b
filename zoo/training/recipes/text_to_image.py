"""Text to image: the tokenizer of images, the model of their tokens, and the model that chooses among its images."""

from dataclasses import replace
from typing import Any

import torch

from zoo.checkpoints.contrast import contrast
from zoo.checkpoints.create import create_model
from zoo.checkpoints.load import load
from zoo.data.image.datamodule import ImageDataModule
from zoo.data.image.dataset import ImageDataset, ImageSplits
from zoo.data.image.statistics import statistics
from zoo.data.image_text.dataset import ImageTexts
from zoo.data.pairs.datamodule import PairDataModule
from zoo.data.pairs.dataset import PairDataset, PairSplits
from zoo.data.splits import Splits
from zoo.data.unlabeled_config import UnlabeledImageSettings
from zoo.models.contrast.model import Contrastive
from zoo.models.dalle.model import Dalle
from zoo.models.dvae.model import DiscreteVAE
from zoo.models.maskgit.model import MaskGIT
from zoo.models.registry import find_variant
from zoo.preprocessing.multimodal import MultimodalProcessor
from zoo.preprocessing.text import TextProcessor
from zoo.preprocessing.tokenizer_training import train
from zoo.tasks.config import ImageTokenizerSettings, OptimSettings
from zoo.tasks.contrastive import ContrastiveTask
from zoo.tasks.image_tokenizer import ImageTokenizerTask
from zoo.training.fit import fit
from zoo.training.parse import SettingsError
from zoo.training.recipes import stages
from zoo.training.recipes.config import ClipSettings, ContrastSettings, TowerSettings
from zoo.training.recipes.image_config import TokenizerSettings
from zoo.training.recipes.image_sheets import reconstructions
from zoo.training.recipes.stages import stage_run
from zoo.training.recipes.text import tokenizer_cache
from zoo.training.run import Run

DEFAULT_VOCAB_SIZE = 1000  # of a new text tokenizer, unless `model.text_vocab_size=` is given
FAMILY = 4  # consecutive scenes of the ranker's training, which have the same objects
RANKER_IMAGE: dict[str, Any] = {"name": "vit_cifar_tiny", "depth": 3}
RANKER_TEXT: dict[str, Any] = {
    "name": "bert_tiny", "width": 96, "mlp_dim": 288, "heads": 3, "pool": "mean", "pooler": None, "dropout": 0.0,
    "attention_dropout": 0.0,
}  # fmt: skip


def check_settings(run: Run) -> None:
    """Raise SettingsError for what the stages cannot do."""
    t = run.config.trainer
    if t.devices != 1 or t.num_nodes != 1:
        raise SettingsError(f"devices={t.devices}, num_nodes={t.num_nodes}: this recipe trains several models one "
                            f"after the other, on one device")  # fmt: skip


def text_to_image_model(run: Run, **fields: Any) -> Any:
    """The model of image tokens of the settings. Raises: SettingsError, also for a model of another family."""
    name, source = run.config.model.name, run.config.model.source
    other = SettingsError(f"{source or name} makes no image tokens: expected a model such as dalle_nano or "
                          f"maskgit_nano")  # fmt: skip
    if not source and not issubclass(find_variant(name).model, Dalle | MaskGIT):
        raise other
    model: Any = run.build_model("image_tokens", **fields)
    if not isinstance(model, Dalle | MaskGIT):
        raise other
    if source and (model.image_tokenizer is None or model.preprocess is None):
        raise SettingsError(f"model.source={source} has no {'text' if model.image_tokenizer else 'image'} tokenizer: "
                            f"give a model that this recipe has saved")  # fmt: skip
    if run.config.task.guidance != 1 and not model.config.text_dropout:
        raise SettingsError(f"guidance={run.config.task.guidance} needs a model that also learns images without their "
                            f"texts: set model.text_dropout=0.1, or guidance=1")  # fmt: skip
    return model


# --- the image tokenizer ----------------------------------------------------------------------------------------------


def untrained_tokenizer(run: Run, model: Any) -> DiscreteVAE:
    """The image tokenizer of the settings, or of a pretrained model; without weights yet if it is to be trained."""
    s = run.config.tokenizer
    tokenizer: Any
    if run.config.model.source:
        tokenizer = model.image_tokenizer
    elif s.source:
        tokenizer = load(s.source)
    else:
        try:
            tokenizer = create_model(s.name, image_size=s.pixels, vocab_size=s.codes, seed=run.config.seed)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"tokenizer={s.name}: {error}") from error
    if not isinstance(tokenizer, DiscreteVAE) or tokenizer.head is None:
        raise SettingsError(f"tokenizer={s.source or s.name}: expected an image tokenizer with its decoder, such as "
                            f"vqvae_tiny or dvae_tiny, or a run of recipes/image_tokenizer.py")  # fmt: skip
    tokenizer.preprocess = tokenizer.preprocess or tokenizer.default_preprocess()
    return tokenizer


def image_tokenizer(run: Run, tokenizer: DiscreteVAE, captions: Splits[ImageTexts]) -> DiscreteVAE:
    """The trained image tokenizer; it is trained on the images of the captions unless it is a given one."""
    s = run.config.tokenizer
    if run.config.model.source or s.source:
        return tokenizer.eval()
    data = UnlabeledImageSettings(batch_size=s.train_batch_size, max_train_samples=run.config.data.max_train_samples)
    optim, objective = OptimSettings(lr=s.peak_lr, weight_decay=0.0), ImageTokenizerSettings(dead_codes=s.dead_codes)
    stage = stage_run(run, "tokenizer", TokenizerSettings(
        model=replace(run.config.model, name=s.name, overrides={"image_size": s.pixels, "vocab_size": s.codes}),
        data=data, task=objective, optim=optim, trainer=stage_trainer(run, s.train_steps),
    ))  # fmt: skip
    images = images_alone(captions)

    def train_it() -> Any:
        batches = ImageDataModule(images, s.train_batch_size, processor=tokenizer.preprocess, augment=data.augment,
                                  seed=run.config.seed)  # fmt: skip
        task = ImageTokenizerTask(tokenizer.train(), objective=objective, augment=batches.augment, optim=optim,
                                  seed=run.config.seed)  # fmt: skip
        return fit(stage, task, batches, plots={"reconstructions": reconstructions},
                   example_command=["zoo", "verify", "{model}"])  # fmt: skip

    trained: Any = load(stages.finish_stage(stage, images, tokenizer, train_it))
    return trained


def stage_trainer(run: Run, steps: int) -> Any:
    """Trainer settings of a stage of so many steps, which are always done."""
    return replace(run.config.trainer, epochs=None, steps=steps, max_minutes=None, validate_every=max(1, steps // 4),
                   accumulate_grad_batches=1, gradient_checkpointing=False, cuda_graph=False, compile=False,
                   monitor=None, ema=0.0)  # fmt: skip


def images_alone(captions: Splits[ImageTexts]) -> ImageSplits:
    """The images of all splits without their texts."""
    train, validation, test = (
        None if part is None else ImageDataset(part.images, torch.zeros(len(part), dtype=torch.int64), ["image"])
        for part in (captions.train, captions.validation, captions.test)
    )
    assert train is not None and test is not None
    mean, std = statistics(train.images)
    return ImageSplits(train, test, captions.name, captions.real, captions.source, mean, std, validation=validation,
                       test_name=captions.test_name)  # fmt: skip


# --- the model of image tokens ----------------------------------------------------------------------------------------


def fit_to_captions(run: Run, model: Any, tokenizer: DiscreteVAE, captions: Splits[ImageTexts]) -> Any:
    """The model for the captions: a new one with a tokenizer of their texts and the image tokenizer, a pretrained one
    as it is."""
    c = run.config
    if c.model.source:
        return model
    length = c.model.overrides.get("text_length", c.data.max_length)
    texts = list(dict.fromkeys(text for captions in pairs_of(captions.train).captions for text in captions))
    text = train("wordpiece", texts, c.model.overrides.get("text_vocab_size", DEFAULT_VOCAB_SIZE), max_length=length,
                 cache=tokenizer_cache(run))  # fmt: skip
    text = replace(text, types=False, truncate="warn")
    model = text_to_image_model(
        run, text_vocab_size=text.vocab_size, text_length=length, pad_token_id=text.id("pad"),
        image_vocab_size=tokenizer.config.vocab_size, image_grid=tokenizer.config.grid,
    )  # fmt: skip
    model.preprocess = text
    return model.set_image_tokenizer(tokenizer)


def pairs_of(images: ImageTexts, *, related: bool = False) -> PairDataset[Any]:
    """Images with their captions. related: scenes with the same objects follow each other, in families that stay in one
    batch, where they differ in their relation."""
    captions = [tuple(text.target for text in row) for row in images.texts]
    pairs = PairDataset(images.images, captions)
    if not related or images.scenes is None:
        return pairs
    keys = [sorted(obj[1:] for obj in scene.objects) for scene in images.scenes]
    pairs = pairs.take(torch.tensor(sorted(range(len(keys)), key=lambda i: (keys[i], i))))
    pairs.family = FAMILY
    return pairs


def pair_splits(captions: Splits[ImageTexts], *, related: bool = False) -> PairSplits[Any]:
    """All splits as pairs of images and captions."""
    validation = None if captions.validation is None else pairs_of(captions.validation)
    return PairSplits(pairs_of(captions.train, related=related), pairs_of(captions.test), captions.name, captions.real,
                      captions.source, validation=validation, test_name=captions.test_name)  # fmt: skip


def token_data(run: Run, model: Any, captions: Splits[ImageTexts]) -> PairDataModule:
    """The data of the model: captions and pixels, of which the task makes tokens once."""
    processor = MultimodalProcessor(image=model.image_tokenizer.preprocess, text=model.preprocess)
    data = run.config.data
    return PairDataModule(pair_splits(captions), processor, data.batch_size, max_length=model.config.text_length,
                          seed=run.config.seed, num_workers=data.num_workers)  # fmt: skip


# --- the model that chooses among images ------------------------------------------------------------------------------


def image_ranker(run: Run, text: TextProcessor, captions: Splits[ImageTexts]) -> Contrastive | None:
    """The contrastive model that orders generated images: a given one, or one that is trained on the captions; None if
    there is to be none. Raises: SettingsError for a given model of another kind."""
    s = run.config.ranker
    if s.source:
        found: Any = load(s.source)
        if not isinstance(found, Contrastive) or {"image", "text"} - set(found.modalities):
            raise SettingsError(f"ranker.source={s.source} is a {found.family}: expected a contrastive model of images "
                                f"and texts, such as a run of recipes/clip_pairs.py")  # fmt: skip
        return found
    if not s.train_steps or run.config.task.num_images == 1:
        return None
    optim = OptimSettings(lr=s.peak_lr, betas=(0.9, 0.98), warmup=0.05)
    objective = ContrastSettings(duplicates="positives")
    stage = stage_run(run, "ranker", ClipSettings(
        model=replace(run.config.model, name="", overrides={}), image=TowerSettings(name=RANKER_IMAGE["name"]),
        text=TowerSettings(name=RANKER_TEXT["name"]), task=objective, optim=optim,
        data=replace(run.config.data, batch_size=s.train_batch_size), trainer=stage_trainer(run, s.train_steps),
    ))  # fmt: skip
    height = captions.train.images.shape[-1]
    fields = {"vocab_size": text.vocab_size, "max_length": text.max_length, "pad_token_id": text.id("pad")}
    model = contrast(image=RANKER_IMAGE | {"image_size": height, "patch_size": max(1, height // 8)},
                     text=RANKER_TEXT | fields, width=96, seed=run.config.seed)  # fmt: skip
    model.preprocess = MultimodalProcessor(image=model.tower("image").default_preprocess(), text=text)
    pairs = pair_splits(captions, related=True)

    def train_it() -> Any:
        batches = PairDataModule(pairs, model.preprocess, s.train_batch_size, max_length=text.max_length,
                                 seed=run.config.seed)  # fmt: skip
        task = ContrastiveTask(model.train(), duplicates=objective.duplicates, optim=optim, seed=run.config.seed)
        return fit(stage, task, batches, example_command=["zoo", "verify", "{model}"])

    trained: Any = load(stages.finish_stage(stage, pairs, model, train_it))
    return trained
