"""A chat template, the settings of generation and the like are kept by save and export; what is not kept is listed."""

import json
from pathlib import Path
from typing import Any

import pytest
from decoder_peers import decoder
from peers import timm_folder, transformers_folder
from text_peers import transformers_text

import zoo
from zoo.preprocessing.tokenizer_training import train

TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }} — é{% endfor %}"
GENERATION = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "eos_token_id": [3, 7], "pad_token_id": 1}
MESSAGES = [{"role": "user", "content": "a b"}]


def chat_folder(folder: Path, where: str) -> None:
    """A decoder with a tokenizer whose chat template stands in a file of its own or in tokenizer_config.json."""
    decoder(folder, "LlamaForCausalLM")
    tokens = train("wordpiece", ["a b c d e"], 90, max_length=64)
    for name, values in tokens.transformers_files().items():
        if name == "tokenizer_config.json":
            values |= {
                "in the settings": {"chat_template": TEMPLATE},
                "several in the settings": {
                    "chat_template": [
                        {"name": "default", "template": TEMPLATE}, {"name": "tools", "template": "{{ tools }}"},
                    ]
                },
            }.get(where, {})  # fmt: skip
        (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))
    if where == "in a file":
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    (folder / "LICENSE").write_text("of the model")
    (folder / "original").mkdir()


@pytest.mark.parametrize("where", ["in a file", "in the settings", "several in the settings"])
def test_chat_template_and_settings_of_generation_are_kept(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat_folder(tmp_path / "theirs", where)
    expected = AutoTokenizer.from_pretrained(tmp_path / "theirs").apply_chat_template(MESSAGES, tokenize=False)
    zoo.save(zoo.load(tmp_path / "theirs"), tmp_path / "ours")
    capsys.readouterr()
    zoo.export(zoo.load(tmp_path / "ours"), tmp_path / "again")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert theirs.apply_chat_template(MESSAGES, tokenize=False) == expected and "é" in expected
    if where.startswith("several"):
        found = theirs.apply_chat_template(MESSAGES, tools=[], chat_template="tools", tokenize=False)
        assert found == "[]" and (tmp_path / "ours/additional_chat_templates/tools.jinja").is_file()
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "again").generation_config
    assert (config.temperature, config.top_p, config.eos_token_id) == (0.7, 0.9, [3, 7])


def test_what_is_not_kept_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat_folder(tmp_path / "theirs", "in a file")
    model = zoo.load(tmp_path / "theirs")
    capsys.readouterr()
    for write, folder in ((zoo.save, tmp_path / "ours"), (zoo.export, tmp_path / "hf")):
        write(model, folder)
        listed = f"{folder} has no copy of these files of {tmp_path / 'theirs'}: LICENSE, original/\n"
        assert capsys.readouterr().err == listed
    zoo.export(zoo.load(tmp_path / "theirs", num_classes=2), tmp_path / "classifier")
    assert "generation_config.json" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "classifier" / "generation_config.json").exists()
    zoo.save(model, tmp_path / "theirs")  # over the folder itself: they are there
    assert capsys.readouterr().err == "" and (tmp_path / "theirs" / "LICENSE").exists()


@pytest.mark.parametrize("library", ["timm", "transformers", "zoo", "text"])
def test_nothing_is_listed_for_what_the_libraries_write(
    library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if library == "timm":
        timm_folder(tmp_path / "theirs", "vit_base_patch16_224", img_size=32, patch_size=8)
    elif library == "transformers":
        transformers_folder(tmp_path / "theirs", "ViTForImageClassification")
    elif library == "text":
        transformers_text(tmp_path / "theirs", "BertForSequenceClassification")
        for name, text in train("wordpiece", ["a b"], 40, max_length=16).files().items():
            (tmp_path / "theirs" / name).write_text(text)
    else:
        zoo.save(zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2), tmp_path / "theirs")
    model = zoo.load(tmp_path / "theirs")
    capsys.readouterr()
    zoo.save(model, tmp_path / "ours")
    assert capsys.readouterr().err == ""


def test_a_save_over_a_folder_replaces_the_kept_files_too(tmp_path: Path) -> None:
    chat_folder(tmp_path / "chat", "several in the settings")
    zoo.save(zoo.load(tmp_path / "chat"), tmp_path / "ours")
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    zoo.save(zoo.create_model("vit_cifar_tiny", depth=1, width=16, heads=2), tmp_path / "ours")
    files = sorted(file.name for file in (tmp_path / "ours").rglob("*") if file.is_file())
    assert files == ["config.json", "golden.safetensors", "model.safetensors", "notes.txt"]


def test_prompts_of_sentence_transformers_are_kept(tmp_path: Path) -> None:
    transformers_text(tmp_path / "theirs", "BertModel")
    tokens = train("wordpiece", ["a b"], 40, max_length=16)
    for name, text in tokens.files().items():
        (tmp_path / "theirs" / name).write_text(text)
    kind = "sentence_transformers.models."
    modules: list[dict[str, Any]] = [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}Pooling"},
    ]
    (tmp_path / "theirs" / "1_Pooling").mkdir()
    (tmp_path / "theirs" / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (tmp_path / "theirs" / "modules.json").write_text(json.dumps(modules))
    prompts = json.dumps({"prompts": {"query": "query: "}, "similarity_fn_name": "dot"})
    (tmp_path / "theirs" / "config_sentence_transformers.json").write_text(prompts)
    zoo.save(zoo.load(tmp_path / "theirs"), tmp_path / "ours")
    zoo.export(zoo.load(tmp_path / "ours"), tmp_path / "again")
    assert (tmp_path / "again" / "config_sentence_transformers.json").read_text() == prompts


@pytest.mark.parametrize("template", [7, [1], [{"name": "a"}], [{"name": "../a", "template": "b"}]], ids=str)
def test_a_chat_template_that_is_none_is_refused(template: Any, tmp_path: Path) -> None:
    chat_folder(tmp_path, "none")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(zoo.LoadError, match=r"tokenizer_config\.json: chat_template"):
        zoo.load(tmp_path)
