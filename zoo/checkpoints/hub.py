"""The Hugging Face Hub: download snapshots of repositories, upload model folders."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.checkpoints.model_card import model_card
from zoo.checkpoints.save import export, save
from zoo.models.base import Model
from zoo.utils.arguments import check_path
from zoo.utils.errors import LoadError

# The files of a repository that are downloaded; pickles only if it has no safetensors.
PATTERNS = (
    "*.json", "*.txt", "*.model", "*.spm", "*.jinja", "model.safetensors", "model-*.safetensors",
    "open_clip_model.safetensors", "golden.safetensors",
)  # fmt: skip
PICKLES = ("pytorch_model*.bin", "open_clip_pytorch_model.bin", "model.pth")


# --- Sources ----------------------------------------------------------------------------------------------------------


def locate(source: str | Path, revision: str | None = None) -> Path:
    """The local path of a source; a hub repository is downloaded. Raises LoadError if there is neither."""
    path, text = check_path("source", source), str(source)
    repository = text.removeprefix("hf-hub:")
    if repository == text and path.exists():
        if revision is not None:
            raise ValueError(
                f"revision={revision!r} is for hub repositories, and {text!r} is a local path: omit revision, or "
                f"write hf-hub:org/name"
            )
        return path
    pattern = r"\w[\w.-]*/[\w.-]+" if repository == text else r"(\w[\w.-]*/)?[\w.-]+"
    if isinstance(source, Path) or not re.fullmatch(pattern, repository):
        raise LoadError(
            f"{text!r} does not exist: expected a folder, a .ckpt file, or a hub repository 'org/name'; "
            f"to create a model by name, use zoo.create_model({text!r}, pretrained=True)"
        )
    return _download(repository, revision)


def _download(repository: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    def fetch(patterns: tuple[str, ...]) -> Path:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = fetch(PATTERNS)
        return folder if list(folder.glob("*.safetensors")) else fetch((*PATTERNS, *PICKLES))
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LoadError(
            f"{repository!r} is neither a local folder nor in the cache of the Hugging Face Hub, and the hub cannot be "
            f"reached: {reason}"
        ) from None
    except HfHubHTTPError as error:
        at = f" at revision {revision!r}" if revision else ""
        reason = str(error).strip().splitlines()[-1]
        raise LoadError(
            f"cannot download {repository!r}{at} from the Hugging Face Hub: {reason} (check the name; a private or "
            f"gated repository needs `hf auth login`)"
        ) from None


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
    """Upload a model with a model card to the Hugging Face Hub. Returns the URL of the commit.

    format: "zoo", or that of another library: "transformers", "timm", "open_clip", "torch_geometric". The repository is
    created if it does not exist; an existing README.md is kept.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="attention-zoo")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        kept = api.file_exists(repo_id, "README.md", revision=revision)
        readme = None if kept else model_card(model, repo_id, format)
        save(model, folder, readme=readme) if format == "zoo" else export(model, folder, format, readme=readme)
        return api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
