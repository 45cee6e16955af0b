"""Train a model that answers questions from a text: the place of the answer in a context, as in SQuAD.

    python recipes/question_answering.py                  synthetic facts: a few minutes on two CPU cores
    python recipes/question_answering.py data=rajpurkar/squad model.source=google-bert/bert-base-uncased
    python recipes/question_answering.py data=train-v2.0.json test=dev-v2.0.json model.source=FOLDER
    python recipes/question_answering.py data=faq.jsonl model.source=org/name lr=3e-5 data.max_length=512

Data: files of SQuAD, versions 1 and 2, tables with the columns question, context and answers, folders of either with
train, validation and test files, or datasets of the hub. Long contexts are split into windows that overlap. If the
training data has questions that their context does not answer, the model learns to say so.

`model.source=` is a pretrained encoder or decoder: a run, a model folder of the zoo or of transformers, or a hub name.
The trained model is saved in runs/question_answering/model, ready for `zoo predict`. If a run is interrupted, the same
command resumes it, bit for bit.
"""

import sys

from zoo.training.main import main
from zoo.training.recipes.config import QuestionAnsweringSettings
from zoo.training.result import Result
from zoo.training.run import Run

LONGER_RUNS = {"synthetic": "epochs=40"}


def train(run: Run) -> Result:
    """Create the model, load the questions, train it to find the answers."""
    from zoo.data.text.questions import load_questions
    from zoo.data.text.questions_datamodule import QuestionDataModule
    from zoo.tasks.lora import add_lora
    from zoo.tasks.question_answering import QuestionAnsweringTask
    from zoo.training.fit import fit
    from zoo.training.recipes.text import fit_to_questions, text_model

    cfg = run.config
    model = text_model(run, head="qa")  # by name, or from any folder of weights
    questions = load_questions(cfg.data, seed=cfg.seed)
    run.open(questions, model)  # a new one, or that of an unfinished run with the same settings and data
    questions = questions.with_validation(cfg.trainer.val_fraction, cfg.seed)
    model = fit_to_questions(run, model, questions)

    data = QuestionDataModule(questions, model.preprocess, cfg.data.batch_size, doc_stride=cfg.data.doc_stride,
                              group_by_length=cfg.data.group_by_length, seed=cfg.seed,
                              num_workers=cfg.data.num_workers)  # fmt: skip
    if cfg.lora.rank:
        add_lora(model, cfg.lora.rank, alpha=cfg.lora.alpha, dropout=cfg.lora.adapter_dropout,
                 targets=cfg.lora.targets, seed=cfg.seed)  # fmt: skip
    parts = {"val": questions.validation or questions.test, "test": questions.test}
    task = QuestionAnsweringTask(model, questions=parts, handle_impossible_answer=[] in questions.train.answers,
                                 optim=cfg.optim, ema=cfg.trainer.ema, seed=cfg.seed)  # fmt: skip
    example = ["zoo", "predict", "{model}", "--pair", *questions.test.texts[0]]
    return fit(run, task, data, longer_runs=LONGER_RUNS, example_command=example)


if __name__ == "__main__":
    sys.exit(main(train, QuestionAnsweringSettings))
