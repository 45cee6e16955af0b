"""The audio folders that people download, at a tiny size: their names, extras and configs, and what pipelines make of
ours."""

import json

import pytest
import torch
from audio_peers import STABLE, answer, noise, transformers_audio
from peers import error
from safetensors.torch import save_file

import zoo
from zoo.models.config import CLASSIFIER_HEADS

CHARACTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAOINSHRDLUMWCFGYPBVK'XJQZ"]
WORDS = {"0": "yes", "1": "no", "2": "up", "3": "down", "4": "left", "5": "_unknown_", "6": "_silence_"}
NAMED = {"id2label": WORDS, "label2id": {label: int(i) for i, label in WORDS.items()}}
# Keys that the configs of those repositories have besides, and later versions write no more.
OLD = {
    "feat_extract_dropout": 0.0, "gradient_checkpointing": False, "hidden_dropout_prob": 0.1,
    "num_feat_extract_layers": 3, "num_ctc_classes": 11, "transformers_version": "4.7.0.dev0",
    "freeze_feat_extract_train": True, "mask_channel_length": 10, "no_mask_channel_overlap": False,
    "torch_dtype": "float32", "tokenizer_class": "Wav2Vec2CTCTokenizer",
}  # fmt: skip
QUANTIZER = ["project_hid.bias", "project_hid.weight", "project_q.bias", "project_q.weight", "quantizer.codevectors",
             "quantizer.weight_proj.bias", "quantizer.weight_proj.weight"]  # fmt: skip
SMALL = dict(codevector_dim=8, proj_codevector_dim=8, num_codevectors_per_group=4)
VOCABULARY = dict(vocab_size=len(CHARACTERS))

# repository: (class of its tensors and in its config, options, rename, pickled, head, dropped besides the mask)
REPOSITORIES = {
    "facebook/wav2vec2-base": ("Wav2Vec2ForPreTraining", SMALL, True, None, QUANTIZER),
    "facebook/wav2vec2-base-960h": ("Wav2Vec2ForCTC", VOCABULARY, False, "ctc", []),
    "facebook/wav2vec2-large-960h-lv60-self": ("Wav2Vec2ForCTC", STABLE | VOCABULARY, True, "ctc", []),
    "facebook/wav2vec2-large-xlsr-53": ("Wav2Vec2ForPreTraining", STABLE | SMALL, True, None, QUANTIZER),
    "jonatasgrosman/wav2vec2-large-xlsr-53-english": ("Wav2Vec2ForCTC", STABLE | VOCABULARY, True, "ctc", []),
    "superb/wav2vec2-base-superb-ks": (
        "Wav2Vec2ForSequenceClassification", dict(use_weighted_layer_sum=True), True, "classify", [],
    ),
    "anton-l/wav2vec2-base-superb-sd": (
        "Wav2Vec2ForAudioFrameClassification", dict(use_weighted_layer_sum=True), True, "token", [],
    ),
    "facebook/hubert-base-ls960": ("HubertModel", {}, True, None, []),
    "facebook/hubert-large-ll60k": ("HubertModel", STABLE, True, None, []),
    "facebook/hubert-large-ls960-ft": ("HubertForCTC", STABLE | VOCABULARY, True, "ctc", []),
    "superb/hubert-base-superb-er": (
        "HubertForSequenceClassification", dict(use_weighted_layer_sum=True), True, "classify", [],
    ),
}  # fmt: skip
WITHOUT_MASK = ("facebook/wav2vec2-base-960h",)  # what stands for masked frames in training is not in its file
EXTRACTOR = {
    "do_normalize": True,
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "sampling_rate": 16000,
}


def historical(name):
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def stand_in(folder, repository):
    """The folder of a repository, and transformers' model with the same weights."""
    name, options, pickled, head, _ = REPOSITORIES[repository]
    theirs = transformers_audio(folder, name, **options)
    tensors = {historical(key): t.clone() for key, t in theirs.state_dict().items()}
    if repository in WITHOUT_MASK:
        del tensors["wav2vec2.masked_spec_embed"]
    (folder / "model.safetensors").unlink()
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text()) | OLD | (NAMED if head in CLASSIFIER_HEADS else {})
    (folder / "config.json").write_text(json.dumps({**values, "dtype": None}))
    masked = {"return_attention_mask": bool(options.get("do_stable_layer_norm"))}
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | masked))
    if head == "ctc":
        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(CHARACTERS)}))
        marks = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        (folder / "special_tokens_map.json").write_text(json.dumps(marks))
        (folder / "tokenizer_config.json").write_text(json.dumps(marks | {"do_lower_case": False}))
    return theirs


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_what_people_download(tmp_path, repository):
    theirs, (name, options, _, head, dropped) = stand_in(tmp_path, repository), REPOSITORIES[repository]
    ours, x = zoo.load(tmp_path), noise(2, 900)
    mask = "masked_spec_embed" if name == "HubertModel" else f"{theirs.base_model_prefix}.masked_spec_embed"
    report, masks = ours.load_report, [] if repository in WITHOUT_MASK else [mask]
    assert sorted(report.dropped) == sorted([*dropped, *masks]) and not (report.initialized or report.resampled)
    assert ours.config.head == head and ours.labels == (list(WORDS.values()) if head in CLASSIFIER_HEADS else None)
    body = theirs.base_model if head is None else theirs
    assert error(answer(ours, x), answer(body, x)) <= 1e-5
    assert zoo.verify(tmp_path).ok
    processor = ours.preprocess
    assert (
        processor.normalize
        and processor.sampling_rate == 16000
        and processor.return_attention_mask == bool(options.get("do_stable_layer_norm"))
    )
    assert (processor.vocabulary and list(processor.vocabulary.tokens)) == (CHARACTERS if head == "ctc" else None)


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_a_classifier_on_each_of_them(tmp_path, repository):
    stand_in(tmp_path, repository)
    model = zoo.load(tmp_path, labels=["dog", "cat"], head="classify")
    assert {"head.proj.weight", "head.proj.bias"} <= set(model.load_report.initialized)
    assert all(name.startswith("head.") for name in model.load_report.initialized)
    assert model(noise(2, 400)).shape == (2, 2)


# --- Pipelines on what we export --------------------------------------------------------------------------------------

CLASSIFIERS = {
    "AST": ("ASTForAudioClassification", dict(num_mel_bins=32, max_length=64, patch_size=16, frequency_stride=8)),
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", {}),
    "wav2vec2 stable": ("Wav2Vec2ForSequenceClassification", STABLE),
    "hubert mixture": ("HubertForSequenceClassification", dict(use_weighted_layer_sum=True)),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_their_classification_pipeline_gives_our_numbers(tmp_path, name):
    from transformers import pipeline

    cls, options = CLASSIFIERS[name]
    transformers_audio(tmp_path / "first", cls, **options)
    model = zoo.load(tmp_path / "first", num_classes=7)
    model.labels = list(WORDS.values())
    model.preprocess = model.default_preprocess()
    zoo.export(model, tmp_path / "second")
    wave = 0.1 * noise(8000)
    theirs = pipeline("audio-classification", str(tmp_path / "second"), device="cpu")
    expected = {each["label"]: each["score"] for each in theirs({"raw": wave.numpy(), "sampling_rate": 16000}, top_k=7)}
    ours = dict(zoo.predict(model, (wave, 16000), top_k=7))
    assert ours.keys() == expected.keys() and max(abs(ours[label] - expected[label]) for label in ours) <= 1e-5
    again = zoo.load(tmp_path / "second")
    assert again.preprocess == model.preprocess and again.labels == model.labels


@pytest.mark.parametrize("repository", ["facebook/wav2vec2-base-960h", "facebook/hubert-large-ls960-ft"])
def test_their_speech_pipeline_writes_what_we_write(tmp_path, repository):
    from transformers import pipeline

    stand_in(tmp_path / "first", repository)
    model = zoo.load(tmp_path / "first")
    zoo.export(model, tmp_path / "second")
    theirs = pipeline("automatic-speech-recognition", str(tmp_path / "second"), device="cpu")
    wave = 0.1 * noise(9000, seed=4)
    with torch.no_grad():
        ids = model(**model.preprocess((wave, 16000)))[0].argmax(-1).unique_consecutive().tolist()
    vocabulary = model.preprocess.vocabulary
    text = vocabulary.decode([i for i in ids if i != vocabulary.blank_id])
    assert text and theirs({"raw": wave.numpy(), "sampling_rate": 16000})["text"].split() == text.split()
    assert zoo.load(tmp_path / "second").preprocess == model.preprocess
