"""Train a small decoder to recall what it has read, to see what each attention kind and mixer can look up.

    python recipes/long_recall.py                            keys with values, then the keys again: softmax attention
    python recipes/long_recall.py mechanism=performer        any attention kind or mixer
    python recipes/long_recall.py problem=induction          ... A B ... A -> B
    python recipes/long_recall.py length=128 mechanism="{kind: local, window: 32}"
    zoo compare long_recall mechanism=softmax,linear,performer length=32,64,128 seeds=3

The sequences are generated: keys, values and order are random in each of them, so that nothing can be learned by heart,
and no test sequence is trained on. Loss and accuracy are those of the answers alone. A recurrent state of constant size
holds only so many pairs: the accuracy shows how many.

A run takes at most 20 seconds on two CPU cores. The comparison trains every mechanism at every length with three seeds,
and writes a table and a plot. The trained model is saved in runs/long_recall/model. If a run is interrupted, the same
command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import RecallSettings
from zoo.training.result import Result
from zoo.training.run import Run


def train(run: Run) -> Result:
    """Create the model, generate the sequences, train on their answers."""
    from zoo.data.datamodule import KeyedDataModule
    from zoo.data.synthetic.recall import load_sequences
    from zoo.training.fit import fit
    from zoo.training.recipes.recall import RecallTask, recall_model

    cfg = run.config
    model = recall_model(run)  # by name, with the attention kind or the mixer of mechanism=
    sequences = load_sequences(cfg.data, vocab_size=model.config.vocab_size, seed=cfg.seed)
    run.open(sequences, model)  # a new one, or that of an unfinished run with the same settings and data

    data = KeyedDataModule(sequences, cfg.data.batch_size, seed=cfg.seed, num_workers=cfg.data.num_workers)
    task = RecallTask(model, optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)
    return fit(run, task, data, example_command=["zoo", "verify", "{model}"])


if __name__ == "__main__":
    sys.exit(main(train, RecallSettings))
