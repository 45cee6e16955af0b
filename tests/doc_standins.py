"""What the commands and code of the documentation work on, small: files in a folder, and a hub of random weights."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SIZES = {
    "zoo.data.synthetic.shapes.TRAIN": 64, "zoo.data.synthetic.shapes.TEST": 20,
    "zoo.data.synthetic.sentences.TRAIN": 200, "zoo.data.synthetic.sentences.TEST": 40,
    "zoo.data.synthetic.stories.STORIES": 20,
    "zoo.data.synthetic.alignments.TRAIN": 16, "zoo.data.synthetic.alignments.VALIDATION": 4,
    "zoo.data.synthetic.alignments.TEST": 4, "zoo.data.synthetic.alignments.SEQUENCE_FAMILIES": 2,
    "zoo.data.synthetic.alignments.SEQUENCES": 32,
    "zoo.data.synthetic.object_scenes.SPLITS": {"train": 64, "validation": 6, "test": 8},
    "zoo.data.synthetic.molecules.MOLECULES": 90, "zoo.data.synthetic.molecules.SCAFFOLDS": 20,
    "zoo.data.synthetic.clinic.TRAIN": 60, "zoo.data.synthetic.clinic.TEST": 12,
    "zoo.data.synthetic.audio.TRAIN": 64, "zoo.data.synthetic.audio.TEST": 16,
    "zoo.data.synthetic.audio.SPELLED_TRAIN": 50, "zoo.data.synthetic.audio.SPELLED_TEST": 14,
}  # fmt: skip
RINGS = ("C1CCCCC1", "c1ccccc1", "C1CCOC1", "c1ccsc1", "C1CCNC1", "C1CC1")  # of molecules
KINDS = ("softmax", "linear", "performer", "retention")  # of tables of all kinds, which have tests of their own


def fill(folder: Path) -> None:
    """The files that pages speak of: photos/, my_project/, reviews.csv, clips/, speech/, my.txt and so on."""
    random = np.random.default_rng(0)
    for name in ("recipes", "examples", "configs"):
        (folder / name).symlink_to(ROOT / name)
    save_code(folder / "my_project")
    save_images(folder, random)
    save_tables(folder)
    save_families(folder / "families", random)
    save_audio(folder, random)
    save_graph(folder / "citations.npz", random)


def save_code(folder: Path) -> None:
    folder.mkdir()
    for i in range(40):
        (folder / f"shape{i}.py").write_text(f"import math\n\n\ndef shape{i}(size):\n    return math.pi * size\n")
    (folder / "area.py").write_text("def area(width, height):\n    size = width * height\n    return size\n")


def save_graph(file: Path, random: np.random.Generator) -> None:
    y = np.arange(40) % 2
    np.savez(file, x=(random.random((40, 8)) < 0.3).astype(np.float32), y=y, edge_index=random.permutation(1600)[:99]
             // [[40], [1]] % 40, train=np.arange(20), val=np.arange(20, 30), test=np.arange(30, 40))  # fmt: skip


def save_families(folder: Path, random: np.random.Generator) -> None:
    folder.mkdir()
    for i in range(20):
        rows = ["".join(row) for row in random.choice(list("ARNDCQEGHILKMFPSTWYV"), (8, 30))]
        (folder / f"family{i}.a3m").write_text("".join(f">s{j}\n{row}\n" for j, row in enumerate(rows)))
        contacts = random.random((30, 30)) < 0.1
        np.save(folder / f"family{i}.npy", contacts | contacts.T)


def save_images(folder: Path, random: np.random.Generator) -> None:
    captions = [("file_name", "caption")]
    for color, (name, shade) in enumerate((("cat", 60), ("dog", 180))):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 60, (36, 40, 3)) + shade
            path = folder / "photos" / name / f"{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            captions.append((f"{name}/{i}.png", f"a {('dark', 'bright')[color]} {name}, number {i}"))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    with (folder / "photos" / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(captions)
    rows = ["file_name;label", *(f"photos/{name};{name.partition('/')[0]}" for name, _ in captions[1:])]
    (folder / "photos.csv").write_text("\n".join(rows))


def save_tables(folder: Path) -> None:
    words = ("warm", "lovely", "cold", "noisy", "friendly", "dark", "slow", "fresh")
    texts = [f"the {words[i % 8]} soup and the {words[i * 3 % 7]} evening number {i}" for i in range(80)]
    tables: dict[str, list[tuple[Any, ...]]] = {
        "reviews.csv": [("review", "stars"), *((text, ("good", "bad")[i % 2]) for i, text in enumerate(texts))],
        "prices.csv": [("text", "price"), *((text, 10.5 + i) for i, text in enumerate(texts))],
        "meetings.csv": [("transcript", "minutes"), *((f"{text} and more", text) for text in texts)],
        "solubility.csv": [("SMILES", "logS"), *(("C" * (i % 9) + ring, i / 4) for i, ring in enumerate(RINGS * 12))],
        "toxic.csv": [("smiles", "toxic"), *(("C" * (i % 9) + ring, i % 2) for i, ring in enumerate(RINGS * 12))],
        "tox21.csv": [
            ("smiles", "NR-AR", "NR-AhR", "SR-p53"),
            *(
                ("C" * (i % 9) + ring, i % 2, "" if i % 3 else i // 2 % 2, i // 3 % 2)
                for i, ring in enumerate(RINGS * 12)
            ),
        ],
        "tags.csv": [("text", "food", "service"), *((text, i % 2, i // 2 % 2) for i, text in enumerate(texts))],
    }
    for name, rows in tables.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    rows = [
        ("Kommentar", "Note"),
        *((f"schöne Suppe, {text}", ("gut", "schlecht")[i % 2]) for i, text in enumerate(texts)),
    ]
    (folder / "export.csv").write_bytes("\r\n".join(map(";".join, rows)).encode("cp1252"))
    pairs = [{"premise": text, "hypothesis": texts[i - 1], "label": i % 3} for i, text in enumerate(texts)]
    answers = [{"text": "Rome", "answer_start": 3}]
    qas = [{"id": str(i), "question": f"where is {i} ?", "answers": answers} for i in range(40)]
    paragraphs = [{"context": "in Rome it is warm", "qas": qas}]
    (folder / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    (folder / "notes.conll").write_text("Ada B-PER\nLincoln I-PER\nslept O\n\nParis B-LOC\n\n" * 20)
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    for name, count in (("train", 60), ("test", 20)):
        for language, word in (("en", "evening"), ("de", "Abend")):
            lines = [f"{word} {i} {words[i % 8]}." for i in range(count)]
            (folder / f"{name}.{language}").write_text("\n".join(lines) + "\n")
    (folder / "my.txt").write_text("Once upon a time the warm soup was cold and the evening was lovely.\n" * 60)


def save_audio(folder: Path, random: np.random.Generator) -> None:
    transcripts = [("file_name", "text")]
    for name, hertz in (("low", 200), ("high", 900)):
        (folder / "clips" / name).mkdir(parents=True)
        for i in range(16):
            t = np.arange(8000 + 100 * i) / 16000
            wave = 0.3 * np.sin(2 * np.pi * hertz * t) + 0.01 * random.standard_normal(len(t))
            soundfile.write(folder / "clips" / name / f"{i}.wav", wave, 16000)
            transcripts.append((f"../clips/{name}/{i}.wav", f"{name} {i % 3}"))
    soundfile.write(folder / "talk.wav", np.tile(wave, 3), 16000)
    soundfile.write(folder / "phone.wav", wave[::2], 8000)
    rows = ["recording,animal", *(f"clips/{name}/{i}.wav,{name}" for name in ("low", "high") for i in range(16))]
    (folder / "clips.csv").write_text("\n".join(rows))
    (folder / "speech").mkdir()
    with (folder / "speech" / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(transcripts)


def repository(name: str, folder: Path) -> None:
    """A small model with random weights, as the library that published `name` writes it."""
    import transformers
    from audio_peers import SPECTROGRAM, transformers_audio
    from caption_peers import open_clip_coca, transformers_blip
    from chat_peers import TEMPLATES, chat_folder
    from seq2seq_files import BART, seq2seq_folder
    from text_peers import save_text_tokenizer, text_folder
    from whisper_peers import transformers_whisper

    _, _, model = name.partition("/")
    if name.startswith("timm/"):
        import timm
        from timm.models import save_for_hf

        theirs = timm.create_model(model.partition(".")[0], num_classes=3, depth=1)
        save_for_hf(theirs, folder, safe_serialization=True, model_args={"depth": 1})
    elif model.startswith("bert"):
        text_folder("BertForMaskedLM", folder)
    elif model.startswith("gpt2"):
        text_folder("GPT2LMHeadModel", folder)
    elif model.startswith("Qwen"):
        chat_folder(folder, TEMPLATES["qwen 3"])
    elif model.startswith("clip"):
        save_clip(folder)
    elif model.startswith("blip"):
        transformers_blip(folder, text={"max_position_embeddings": 48})
    elif model.startswith("CoCa"):
        text = {"context_length": 32, "vocab_size": 49408, "layers": 1}
        open_clip_coca(folder, text_cfg=text, multimodal_cfg=text)
    elif model.startswith("ast"):
        bins, frames = SPECTROGRAM["num_mel_bins"], 200  # two seconds
        transformers_audio(folder, "ASTForAudioClassification", max_length=frames)
        transformers.ASTFeatureExtractor(num_mel_bins=bins, max_length=frames).save_pretrained(folder)
    elif model.startswith("whisper"):
        transformers_whisper(folder)
    elif model.startswith("bart"):
        sizes = BART | {"vocab_size": 100, "max_position_embeddings": 160, "eos_token_id": 2, "forced_eos_token_id": 2}
        seq2seq_folder(folder, "BartForConditionalGeneration", **sizes)
        save_text_tokenizer(folder, "roberta")
    elif model.startswith("wav2vec2"):
        transformers_audio(folder, "Wav2Vec2ForCTC" if "960h" in model else "Wav2Vec2ForPreTraining", vocab_size=9)
        save_characters(folder)
    else:
        raise AssertionError(f"no stand-in is known for the repository {name!r}")


def save_clip(folder: Path) -> None:
    """A CLIP of transformers with its image processor, and a tokenizer that ends texts with their end token."""
    import transformers
    from clip_peers import transformers_pair
    from text_peers import save_text_tokenizer
    from tokenizers import Tokenizer, processors

    transformers_pair(folder, "CLIPModel", text={"max_position_embeddings": 40, "eos_token_id": 0})
    save_text_tokenizer(folder, "bpe")
    tokenizer, end = Tokenizer.from_file(str(folder / "tokenizer.json")), "<|endoftext|>"
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    size = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)


def save_characters(folder: Path) -> None:
    """The feature extractor and the vocabulary of a CTC model."""
    import transformers

    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"LOWH"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    extractor = transformers.Wav2Vec2FeatureExtractor()
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)


@pytest.fixture
def workplace(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a page: filled, with a hub that has each repository, and small synthetic data."""
    import huggingface_hub
    from huggingface_hub import constants

    from zoo.inference import attention_kinds, cost_by_kind

    hub = tmp_path_factory.getbasetemp() / "hub"

    fetched = huggingface_hub.snapshot_download

    def download(name: str, **options: Any) -> str:
        if options.get("repo_type") == "dataset":
            return fetched(name, **options)  # there is none: no network
        folder = hub / name.replace("/", "--")
        if not folder.exists():
            folder.mkdir(parents=True)
            repository(name, folder)
        return str(folder)

    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Is the soup warm?\n"))  # what `zoo chat` reads
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("ZOO_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for name, size in SIZES.items():
        monkeypatch.setattr(name, size)
    for module in (attention_kinds, cost_by_kind):
        for table in ("CORES", "MIXERS"):
            few = {kind: cls for kind, cls in getattr(module, table).items() if kind in KINDS}
            monkeypatch.setattr(module, table, few)
    return tmp_path
