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
    from zoo.data.pairs.audio import load_audio_pairs
    from zoo.data.pairs.datamodule import PairDataModule
    from zoo.tasks.contrastive import ContrastiveTask
    from zoo.training.fit import fit
    from zoo.training.recipes.retrieval_page import retrieval
    from zoo.training.recipes.towers import fit_to_pairs, pretrained_sampling_rate, two_tower_model
    from zoo.training.recipes.zero_shot_metrics import ZeroShotMetrics, example_command

    cfg, towers = run.config, ("audio", "text")
    model = two_tower_model(run, towers)  # each by name, or from any folder of weights
    pairs = load_audio_pairs(cfg.data, sampling_rate=pretrained_sampling_rate(run, model), seed=cfg.seed)
    folder = run.open(pairs, model)  # a new one, or that of an unfinished run with the same settings and data
    pairs = pairs.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_pairs(run, model, towers, pairs)

    data = PairDataModule(pairs, model.preprocess, cfg.data.batch_size, max_length=cfg.data.max_length,
                          augment=cfg.data.augment, seed=cfg.seed, num_workers=cfg.data.num_workers)  # fmt: skip
    task = ContrastiveTask(model, grad_cache_size=cfg.task.grad_cache_size or None, duplicates=cfg.task.duplicates,
                           loss_chunk_size=cfg.task.loss_chunk_size or None, optim=cfg.optim, ema=cfg.trainer.ema,
                           seed=cfg.seed)  # fmt: skip
    zero_shot = [ZeroShotMetrics(data, cfg.data.sentences, cfg.data.held_out_classes)] if pairs.classes else []
    return fit(run, task, data, longer_runs=LONGER_RUNS, plots={"retrieval": retrieval}, callbacks=zero_shot,
               example_command=example_command(folder, pairs))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(train, ClapSettings))
