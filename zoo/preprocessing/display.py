"""Show one image, audio clip, text or protein, as HTML and on matplotlib axes."""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.preprocessing import audio_io, fasta, image_io
from zoo.utils.escape import figure_text, is_control

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

EDGE = 320  # longer edge of a thumbnail in pixels
SMALL = 96  # images up to this size are shown without smoothing
AUDIO_BYTES = 1_500_000  # largest clip to embed
TEXT_LENGTH = 600  # number of characters shown of a text
MIME_TYPES = {".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".mp3": "audio/mpeg",
              ".opus": "audio/ogg", ".m4a": "audio/mp4"}  # fmt: skip


def open_image(item: Any) -> "Image":
    """A path, a PIL image or uint8 [C, H, W] as an upright PIL image of 8 bits per channel."""
    from PIL import Image

    if isinstance(item, Tensor):
        return Image.fromarray(item.movedim(0, -1).squeeze(-1).cpu().numpy())
    return image_io.read(item)


def image_html(item: Any, alt: str) -> str:
    """An `img` element with an embedded thumbnail."""
    image = open_image(item)
    transparent = image.has_transparency_data
    image = image.convert("RGBA" if transparent else "RGB")
    image.thumbnail((EDGE, EDGE))
    small = max(image.size) <= SMALL
    source = image_uri(image, lossless=transparent or small, quality=85)
    width, height = image.size
    style = ' class="small"' if small else ""
    return f'<img{style} src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'


def audio_html(item: Any, alt: str) -> str:
    """An `audio` element with the embedded clip. Raises ValueError if it is too large or browsers cannot play it."""
    if isinstance(item, tuple):
        buffer, sampling_rate = io.BytesIO(), int(item[1])
        audio_io.soundfile().write(buffer, Tensor(item[0]).numpy(), sampling_rate, format="WAV", subtype="PCM_16")
        content, size, mime = buffer.getvalue(), len(buffer.getvalue()), MIME_TYPES[".wav"]
    else:
        suffix, size = Path(item).suffix.lower(), Path(item).stat().st_size
        if suffix not in MIME_TYPES:
            raise ValueError(f"browsers cannot play {suffix} files")
        content, mime = (Path(item).read_bytes() if size <= AUDIO_BYTES else b""), MIME_TYPES[suffix]
    if size > AUDIO_BYTES:
        raise ValueError(
            f"the audio clip of {size / 1e6:.1f} MB is too large to embed, expected at most {AUDIO_BYTES / 1e6:.1f} MB"
        )
    return f'<audio controls preload="metadata" src="{data_uri(content, mime)}" aria-label="{escape(alt)}"></audio>'


def text_html(item: Any, alt: str = "") -> str:
    """A `blockquote` with the beginning of a text, or of a text file."""
    text = read_text(item)
    return (
        f"<blockquote>{isolated(text[:TEXT_LENGTH].rstrip() + ' …' if len(text) > TEXT_LENGTH else text)}</blockquote>"
    )


def read_text(item: Any) -> str:
    """The text itself, or the contents of a .txt file."""
    is_file = isinstance(item, Path) or (len(str(item)) < 4096 and str(item).lower().endswith(".txt"))
    return Path(item).read_text(encoding="utf-8") if is_file else str(item)


def protein_html(item: Any, alt: str = "") -> str:
    """A `blockquote` with the beginning of a sequence, in groups of ten residues."""
    text = fasta.read_sequence(item)
    shown = " ".join(text[i : i + 10] for i in range(0, min(len(text), TEXT_LENGTH), 10))
    return f"<blockquote>{isolated(f'{shown} …' if len(text) > TEXT_LENGTH else shown)}</blockquote>"


def plot_protein(axes: "Axes", item: Any) -> None:
    """Plot the first residues of a sequence."""
    text = fasta.read_sequence(item)
    lines = [text[i : i + 20] for i in range(0, min(len(text), 80), 20)]
    axes.text(0.5, 0.5, figure_text("\n".join(lines)), ha="center", va="center", fontsize=9, family="monospace")
    axes.set_axis_off()


def image_uri(image: "Image", *, lossless: bool, quality: int) -> str:
    """A PIL image as a data URI: a PNG, or a JPEG of a quality up to 95."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if lossless else "JPEG", quality=quality)
    return data_uri(buffer.getvalue(), "image/png" if lossless else "image/jpeg")


def data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def escape(text: str) -> str:
    """Escape for an attribute or a title; file names may have quotes, tags and bytes that are not UTF-8."""
    plain = text.encode("utf-8", "replace").decode("utf-8")
    return html.escape("".join("\ufffd" if is_control(c) and c not in "\n\t" else c for c in plain), quote=True)


def isolated(text: str) -> str:
    """Escape for the body of a page, isolated so that right-to-left text does not affect its surroundings."""
    return f"<bdi>{escape(text)}</bdi>"


def plot_image(axes: "Axes", item: Any) -> None:
    """Plot the image without smoothing."""
    axes.imshow(open_image(item), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def plot_audio(axes: "Axes", item: Any) -> None:
    """Plot the waveform over time; item: a path or (waveform, sampling rate)."""
    wave, sampling_rate = item if isinstance(item, tuple) else audio_io.read(item)
    wave = torch.as_tensor(wave).reshape(-1)
    axes.plot(torch.arange(len(wave)).div(sampling_rate).numpy(), wave.numpy(), linewidth=0.5)
    axes.set_yticks([])


def plot_text(axes: "Axes", item: Any) -> None:
    """Plot the first lines of the text."""
    import textwrap

    lines = textwrap.wrap(read_text(item), 26)[:4]
    axes.text(0.5, 0.5, figure_text("\n".join(lines)), ha="center", va="center", fontsize=9)
    axes.set_axis_off()
