"""Export of encoder-decoders to ONNX: generation by onnxruntime with growing caches, token for token as zoo.generate.

Each family takes 10 to 15 seconds of CPU time, most of it in the exporter: all of them have the mark `full`.
"""

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

import zoo
from zoo.checkpoints.onnx import graph
from zoo.checkpoints.onnx.encoder_decoder import DECODER, ENCODER, FILES, KEYS, WITH_PAST
from zoo.checkpoints.onnx.graph import run
from zoo.cli.main import main
from zoo.models.registry import family

SMALL = dict(width=32, depth=2, heads=4, head_dim=8, mlp_dim=48, vocab_size=60, max_length=32, mel_bins=16, frames=24,
             bos_token_id=1, pad_token_id=0, eos_token_id=2, decoder_start_token_id=3)  # fmt: skip
NAMES = ["t5", "bart", "marian", "transformer", "whisper"]
VARIANT = {"whisper": "whisper_tiny"}


def tiny(name: str, **changes: Any) -> zoo.Model:
    """Smaller than the first variant of a family, and every parameter random, so that no caches are equal."""
    own = family(name)
    fields = {key: value for key, value in SMALL.items() if key in own.config.names()}
    model = zoo.create_model(VARIANT.get(name, next(iter(own.variants))), seed=0, **fields | changes).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def never_again(ids: Tensor, scores: Tensor) -> Tensor:
    """No token twice, as random models would write one again and again."""
    return scores.scatter(1, ids, -torch.inf)


def source_of(model: zoo.Model, rows: int, length: int) -> dict[str, Tensor]:
    """Inputs of the encoder; every second text has padding."""
    generator = torch.Generator().manual_seed(rows)
    if "input_features" in model.inputs:
        return {"input_features": torch.randn(rows, model.config.mel_bins, model.config.frames, generator=generator)}
    ids = torch.randint(4, 60, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::2, length - 3 :] = 0
    ids[mask == 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def generated(model: Any, folder: Path, source: dict[str, Tensor], tokens: int) -> Tensor:
    """Greedy decoding by the three graphs alone, from the first tokens of zoo.generate and by its rules."""
    encoder, first, following = (onnxruntime.InferenceSession(folder / name) for name in FILES)
    options = {} if "input_ids" in source else {"input_features": source["input_features"]}
    _, start = model.generation_start({} if options else source, **options)
    (states,) = run(encoder, source)
    given, ids = {"encoder_hidden_states": states}, start.ids
    if "attention_mask" in source:
        given["encoder_attention_mask"] = source["attention_mask"]
    new, session = ids, first
    ended = torch.zeros(len(ids), dtype=torch.bool)
    for _ in range(tokens):
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, run(session, given | {"input_ids": new}), strict=True))
        given |= {n.replace("present.", "past_key_values."): x for n, x in outputs.items() if n != "logits"}
        scores = outputs["logits"][:, -1]
        for process in (*start.processors, never_again):
            scores = process(ids, scores)
        scores[:, list(model.never_generated(model.config))] = -torch.inf
        new = scores.argmax(-1, keepdim=True).masked_fill(ended[:, None], model.config.pad_token_id)
        ended |= new[:, 0] == model.config.eos_token_id
        ids, session = torch.cat([ids, new], 1), following
        if ended.all():
            break
    return ids


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_greedy_decoding_by_the_graphs_is_that_of_generate(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, beside = tiny(name), name == "bart"
    monkeypatch.setattr(graph, "ONE_FILE", 1000 if beside else graph.ONE_FILE)  # weights in files of their own
    folder = zoo.export(model, tmp_path / "out", "onnx").rename(tmp_path / "moved")
    assert set(FILES) < {path.name for path in folder.iterdir()}
    assert [(folder / f"{file}.data").exists() for file in FILES] == [beside] * 3
    for rows, length in ((2, 5), (5, 17)):
        source = source_of(model, rows, length)
        expected = zoo.generate(model, **source, max_new_tokens=12, logits_processor=[never_again])
        found = generated(model, folder, source, 12)
        assert torch.equal(found, expected[:, : found.shape[1]]) and found.shape == expected.shape
        assert not torch.equal(expected[0], expected[1])
    inputs = {file: [value.name for value in onnx.load(folder / file).graph.input] for file in FILES}
    masked = name != "whisper"
    assert inputs[ENCODER] == (["input_ids", "attention_mask"] if masked else ["input_features"])
    own = ["encoder_attention_mask"] * masked
    assert inputs[DECODER] == ["input_ids", "encoder_hidden_states", *own]
    assert inputs[WITH_PAST] == ["input_ids", *own, *(f"past_key_values.{i}.{key}" for i in range(2) for key in KEYS)]


@pytest.mark.full
def test_a_cache_of_another_length_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph whose first token is lost differs from the model, and is not written."""
    from zoo.checkpoints.onnx import encoder_decoder

    plain = encoder_decoder.as_past
    monkeypatch.setattr(encoder_decoder, "as_past", lambda outputs: {
        name: x[:, :, 1:] if ".decoder." in name and x.shape[2] > 2 else x for name, x in plain(outputs).items()
    })  # fmt: skip
    with pytest.raises(ValueError, match=r"its output 'logits' in onnxruntime differs"):
        zoo.export(tiny("t5", depth=1), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("t5", {"head": None}, r"has head=None; load it with head='lm', or the encoder alone with head=None"),
        ("t5", {"decoder_attention": "linear"}, r"its decoder has 'linear', which keeps something else than the keys"),
    ],
)
def test_other_decoders_are_refused_by_name(name: str, changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.export(tiny(name, **changes), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_recurrent_decoders_and_int8_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recurrent = zoo.create_model(next(iter(family("rnn_seq2seq").variants)), seed=0, vocab_size=20)
    with pytest.raises(ValueError, match="this rnn_seq2seq cannot be exported to ONNX: its decoder "):
        zoo.export(recurrent, tmp_path / "out", "onnx")
    with pytest.raises(ValueError, match="quantize='int8'"):
        zoo.export(tiny("t5"), tmp_path / "out", "onnx", quantize="int8", examples=[("a", "b")], tolerance=0.1)
    zoo.save(recurrent, tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), str(tmp_path / "out"), "--format", "onnx"]) == 2
    assert "use " in capsys.readouterr().err and not (tmp_path / "out").exists()
