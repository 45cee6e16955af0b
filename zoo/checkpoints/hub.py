"""The Hugging Face Hub: snapshots of repositories down, model folders up."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.checkpoints.model_card import model_card
from zoo.checkpoints.save import export, save
from zoo.models.base import Model
from zoo.utils.errors import LoadError

# What a snapshot of a hub repository is asked for; pickles only where there is nothing else.
WANTED = (
    "*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors", "open_clip_model.safetensors",
    "golden.safetensors",
)  # fmt: skip
PICKLES = ("pytorch_model*.bin", "open_clip_pytorch_model.bin")


# --- Sources ----------------------------------------------------------------------------------------------------------


def locate(source: str | Path, revision: str | None = None) -> Path:
    """The local path of a source, downloaded from the hub if it is no path."""
    text = str(source)
    repository = text.removeprefix("hf-hub:")
    if repository == text and Path(source).expanduser().exists():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is of a hub repository, and {text!r} is a path here")
        return Path(source).expanduser()
    pattern = r"\w[\w.-]*/[\w.-]+" if repository == text else r"(\w[\w.-]*/)?[\w.-]+"
    if isinstance(source, Path) or not re.fullmatch(pattern, repository):
        raise LoadError(
            f"there is no {text!r}: expected a folder, a .ckpt file, or a hub repository 'org/name'; "
            f"for a model by its name write zoo.create_model({text!r}, pretrained=True)"
        )
    return _download(repository, revision)


def _download(repository: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    def fetch(patterns: tuple[str, ...]) -> Path:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = fetch(WANTED)
        return folder if list(folder.glob("*.safetensors")) else fetch((*WANTED, *PICKLES))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LoadError(
            f"there is no folder {repository!r} here, none in the hub's cache, and the hub is out of reach: {reason}"
        ) from None
    except HfHubHTTPError as error:
        at = f" at revision {revision!r}" if revision else ""
        raise LoadError(f"the hub does not give {repository!r}{at}: {str(error).strip().splitlines()[-1]}") from None


def push_to_hub(
    model: Model,
    repo_id: str,
    *,
    format: str = "zoo",
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload model",
) -> str:
    """Upload a model, in our format or another library's, with a model card. Returns the address of the commit.

    The repository is created if there is none; a README.md that it has is left as it is.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="attention-zoo")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save(model, folder) if format == "zoo" else export(model, folder, format)
        if not api.file_exists(repo_id, "README.md", revision=revision):
            (folder / "README.md").write_text(model_card(model, repo_id, format), encoding="utf-8")
        return api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
