"""Whisper: the same files through us and through transformers, and OpenAI's layout of them."""

import re
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from peers import error
from table_swaps import check_swaps
from whisper_peers import BINS, FRAMES, transformers_whisper

import zoo
from zoo.models.registry import build, find_variant
from zoo.models.whisper.published_tokens import published_settings

PEERS = {
    "text": ("WhisperForConditionalGeneration", {}),
    "hidden states": ("WhisperModel", {}),
    "other options": (
        "WhisperForConditionalGeneration",
        dict(encoder_layers=1, decoder_layers=3, activation_function="relu", encoder_ffn_dim=40, decoder_ffn_dim=24,
             encoder_attention_heads=2, tie_word_embeddings=False),
    ),
}  # fmt: skip


def batch(rows: int = 3, tokens: int = 9, dtype: torch.dtype = torch.float32) -> dict:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(rows, BINS, FRAMES, generator=generator).to(dtype)
    return {
        "input_features": features,
        "decoder_input_ids": torch.randint(5, 300, (rows, tokens), generator=generator),
    }


def output(model, values: dict) -> torch.Tensor:
    with torch.no_grad():
        y = model(**values)
    return y if isinstance(y, torch.Tensor) else y.logits if "logits" in y else y.last_hidden_state


@pytest.fixture(scope="module", params=PEERS)
def peer(request, tmp_path_factory):
    """(a folder, the class of its model, the model), with every parameter and buffer random."""
    folder = tmp_path_factory.mktemp("peer")
    name, options = PEERS[request.param]
    return folder, name, transformers_whisper(folder, name, **options)


def test_same_numbers_from_the_same_files(peer):
    folder, _, theirs = peer
    ours = zoo.load(folder)
    report = ours.load_report
    assert not (report.initialized or report.resampled or report.dropped or ours.training)
    assert error(output(ours, batch()), output(theirs, batch())) <= 1e-5
    exact, double = zoo.load(folder, dtype=torch.float64), batch(dtype=torch.float64)
    assert error(output(exact, double), output(deepcopy(theirs).double(), double)) <= 1e-9
    encoder = theirs.get_encoder()
    with torch.no_grad():
        states = encoder(batch()["input_features"]).last_hidden_state
        assert error(ours.encode(**batch()), states) <= 1e-5
    assert zoo.verify(folder).ok


def test_padded_texts_are_those_of_transformers(peer):
    """Right padding: its tokens change nothing."""
    folder, _, theirs = peer
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = 0
    values = batch() | {"decoder_attention_mask": mask}
    real = mask.bool()
    assert error(output(zoo.load(folder), values)[real], output(theirs, values)[real]) <= 1e-5


def test_round_trip_through_their_format(peer, tmp_path):
    folder, name, _ = peer
    ours = zoo.load(folder)
    zoo.export(ours, tmp_path)
    again = zoo.load(tmp_path)
    assert again.config == ours.config and again.preprocess == ours.preprocess and again.load_report.plain
    assert torch.equal(output(again, batch()), output(ours, batch())) and zoo.verify(tmp_path).ok
    import transformers

    theirs, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    if ours.config.head == "lm":
        assert theirs.generation_config.lang_to_id and ours.extra_files.keys() == again.extra_files.keys()
    processor = transformers.WhisperProcessor.from_pretrained(tmp_path)
    assert processor.tokenizer("Hello.")["input_ids"] == ours.preprocess.encode("Hello.")


def test_saved_with_its_processor(peer, tmp_path):
    ours = zoo.load(peer[0])
    again = zoo.load(zoo.save(ours, tmp_path / "model"))
    assert again.preprocess == ours.preprocess and again.preprocess.tokenizer is not None
    assert torch.equal(output(again, batch()), output(ours, batch())) and zoo.verify(tmp_path / "model").ok


def test_swapping_any_two_lines_of_a_table_is_caught(tmp_path):
    theirs = transformers_whisper(tmp_path, encoder_layers=1, decoder_layers=1)
    check_swaps(tmp_path, lambda model: output(model, batch()), output(theirs, batch()), 20)


def train(model, step) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    losses = []
    model.train()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(2, BINS, FRAMES, generator=generator).to(next(model.parameters()).dtype)
        ids = torch.randint(5, 300, (2, 8), generator=generator)
        loss = step(model, {"input_features": features, "decoder_input_ids": ids[:, :-1]}, ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
def test_twenty_steps_of_training(tmp_path, dtype, tolerance):
    """The table of sinusoids is trained by neither."""
    theirs = transformers_whisper(tmp_path).to(dtype)
    ours = zoo.load(tmp_path, dtype=dtype)
    before = ours.encoder.tokens.positions.clone()

    def step(model, values, labels):
        y = model(**values)
        return F.cross_entropy((y if isinstance(y, torch.Tensor) else y.logits).flatten(0, 1), labels.flatten())

    a, b = train(ours, step), train(theirs, step)
    assert a[-1] < a[0] and all(abs(x - y) <= tolerance * abs(y) for x, y in zip(a, b, strict=True))
    assert torch.equal(ours.encoder.tokens.positions, before)


# --- OpenAI's files ---------------------------------------------------------------------------------------------------

# Their names, and those of transformers.
OPENAI = (
    (r"\.layers\.", ".blocks."), (r"fc1", "mlp.0"), (r"fc2", "mlp.2"),
    (r"blocks\.(\d+)\.final_layer_norm", r"blocks.\1.mlp_ln"),
    (r"self_attn_layer_norm", "attn_ln"), (r"encoder_attn_layer_norm", "cross_attn_ln"), (r"self_attn\.", "attn."),
    (r"encoder_attn\.", "cross_attn."), (r"q_proj", "query"), (r"k_proj", "key"), (r"v_proj", "value"),
    (r"out_proj", "out"), (r"embed_positions\.weight", "positional_embedding"), (r"embed_tokens", "token_embedding"),
    (r"^encoder\.layer_norm", "encoder.ln_post"), (r"^decoder\.layer_norm", "decoder.ln"),
)  # fmt: skip


def openai_file(theirs, path, **dims) -> None:
    """Write a model of transformers as OpenAI does."""
    state = {}
    for name, tensor in theirs.model.state_dict().items():
        for pattern, new in OPENAI:
            name = re.sub(pattern, new, name)
        state[name] = tensor
    c = theirs.config
    sizes = dict(
        n_mels=c.num_mel_bins, n_audio_ctx=c.max_source_positions, n_audio_state=c.d_model,
        n_audio_head=c.encoder_attention_heads, n_audio_layer=c.encoder_layers, n_vocab=c.vocab_size,
        n_text_ctx=c.max_target_positions, n_text_state=c.d_model, n_text_head=c.decoder_attention_heads,
        n_text_layer=c.decoder_layers,
    )  # fmt: skip
    torch.save({"dims": sizes | dims, "model_state_dict": state}, path)


@pytest.mark.parametrize("vocab_size", [333, 51864, 51865, 51866])
def test_openais_files(tmp_path, vocab_size, capsys):
    theirs = transformers_whisper(
        tmp_path / "peer", vocab_size=vocab_size, encoder_ffn_dim=128, decoder_ffn_dim=128, decoder_start_token_id=1
    )
    openai_file(theirs, tmp_path / "tiny.pt")
    ours = zoo.load(tmp_path / "tiny.pt")
    assert error(output(ours, batch()), output(theirs, batch())) <= 1e-5
    assert "has no tokenizer" in capsys.readouterr().err and ours.preprocess.frames == FRAMES
    again = zoo.load(zoo.save(ours, tmp_path / "model"))
    assert torch.equal(output(again, batch()), output(ours, batch()))
    expected = {51864: (50256, 50257), 51865: (50257, 50258), 51866: (50257, 50258)}.get(vocab_size, (None, None))
    assert (ours.config.eos_token_id, ours.config.decoder_start_token_id) == expected
    if vocab_size != 333:
        tokens = zoo.generate(ours, input_features=batch(1)["input_features"], max_new_tokens=3)
        assert tokens[0, 0] == expected[1]
        before = {51864: 2, 51865: 4, 51866: 4}[vocab_size]
        assert tokens.shape == (1, before + 3)


def test_damaged_files_of_openai(tmp_path):
    theirs = transformers_whisper(tmp_path / "peer", encoder_ffn_dim=128, decoder_ffn_dim=128)
    for dims, message in (
        ({"n_mels": None}, "dims has n_mels=None, expected a whole number"),
        ({"n_text_state": 16}, "expected one width"),
        ({"n_words": 3}, "n_words=3 is not supported"),
        ({"n_audio_layer": 3}, "encoder.blocks.2"),
    ):
        openai_file(theirs, tmp_path / "x.pt", **dims)
        with pytest.raises(zoo.LoadError, match=re.escape(message)):
            zoo.load(tmp_path / "x.pt")
    openai_file(theirs, tmp_path / "x.pt")
    with pytest.raises(zoo.LoadError, match="describes itself: omit key="):
        zoo.load(tmp_path / "x.pt", key="model_state_dict")


# --- Published models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [
        ("whisper_tiny", {}),
        ("whisper_base_en", dict(vocab_size=51864, d_model=512, layers=6, heads=8)),
        ("whisper_small", dict(d_model=768, layers=12, heads=12)),
        (
            "whisper_large_v3_turbo",
            dict(vocab_size=51866, d_model=1280, layers=32, decoder=4, heads=20, num_mel_bins=128),
        ),
    ],
)  # fmt: skip
def test_numbers_of_parameters(variant, sizes):
    """Those of transformers without the table of sinusoids, which is not trained."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    layers, heads, width = sizes.pop("layers", 4), sizes.pop("heads", 6), sizes.get("d_model", 384)
    config = WhisperConfig(
        encoder_layers=layers, decoder_layers=sizes.pop("decoder", layers), encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, **sizes,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = sum(p.numel() for p in WhisperForConditionalGeneration(config).parameters())
    found = find_variant(variant)
    ours = build(found, found.config(**found.variants[variant]))
    assert sum(p.numel() for p in ours.parameters()) == theirs - 1500 * width


def test_tokens_of_the_published_vocabularies():
    from transformers.models.whisper import configuration_whisper as theirs

    multilingual, english, third = (published_settings(size) for size in (51865, 51864, 51866))
    assert multilingual["lang_to_id"]["<|en|>"] == 50259 and multilingual["no_timestamps_token_id"] == 50363
    assert (
        multilingual["task_to_id"] == {"translate": 50358, "transcribe": 50359}
        and len(multilingual["lang_to_id"]) == 99
    )
    assert third["lang_to_id"]["<|yue|>"] == 50358 and third["no_timestamps_token_id"] == 50364
    assert english["no_timestamps_token_id"] == 50362 and not english["lang_to_id"] and not published_settings(333)
    for settings, words in ((multilingual, theirs.NON_SPEECH_TOKENS_MULTI), (english, theirs.NON_SPEECH_TOKENS)):
        tasks = {settings["no_timestamps_token_id"] - 5, settings["no_timestamps_token_id"] - 4}
        assert set(settings["suppress_tokens"]) - set(words) == tasks and set(words) <= set(settings["suppress_tokens"])


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_inputs_that_do_not_fit():
    model = zoo.create_model("whisper_nano", depth=1).eval()
    good = {"input_features": torch.zeros(1, 80, 400), "decoder_input_ids": torch.ones(1, 2, dtype=torch.long)}
    for values, message in (
        ({"input_features": torch.zeros(1, 80, 300)}, r"\[B, 80 mel bins, 400 frames\], got \(1, 80, 300\)"),
        ({"input_features": torch.zeros(0, 80, 400)}, "input_features is empty"),
        ({"input_features": [1.0]}, "got list"),
        ({"input_features": torch.zeros(1, 80, 400).double()}, "convert the inputs"),
        ({"decoder_input_ids": None}, "'decoder_input_ids' is missing"),
        ({"decoder_input_ids": torch.ones(2, 2, dtype=torch.long)}, "have 2 rows, but the encoder read 1"),
        ({"decoder_input_ids": torch.full((1, 2), 512)}, "512 at row 0"),
        ({"decoder_input_ids": torch.ones(1, 65, dtype=torch.long)}, "max_length=64"),
        ({"attention_mask": torch.ones(1, 400)}, "does not use 'attention_mask'"),
        ({"input_features": None}, "'input_features' is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**good | values)
    for options, message in (
        ({"frames": 401}, "an even number"), ({"decoder_depth": 0}, "the encoder alone has head=None"),
        ({"head": "classify"}, "head="),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            zoo.create_model("whisper_nano", **options)


def test_a_new_stem_does_not_lose_the_clip_among_the_positions():
    """Features of unit variance come through with at least a quarter of the size of the positions."""
    stem = zoo.create_model("whisper_nano", mel_bins=40, frames=200, seed=0).encoder.tokens
    features = torch.randn(2, 40, 200, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        content = stem(features) - stem.positions
    assert content.square().mean().sqrt() > 0.25 * stem.positions.square().mean().sqrt()
