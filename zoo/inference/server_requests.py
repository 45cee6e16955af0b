"""The requests of `zoo serve`: from the body of a request to inputs in memory, within the limits of a server.

Images and audio clips are bytes and texts are texts: nothing in a request is a path or an address that the server would
open, and no text is looked up on the disk.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.preprocessing import audio_io
from zoo.preprocessing.modality import MODALITIES
from zoo.utils.errors import did_you_mean

DATA_URL = re.compile(r"data:[^,]*?(;base64)?,", re.IGNORECASE)
MAX_TOP_K, MAX_TOP_K_OF_SPEECH = 1000, 100
MIB = 1 << 20


class RequestError(Exception):
    """A request that cannot be fulfilled: status of HTTP, a sentence for the client, more of the body, headers."""

    def __init__(
        self,
        status: int,
        message: str,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.more, self.headers = status, message, dict(more or {}), dict(headers or {})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server, with the status of requests beyond them.

    max_body: bytes of a body (413). max_inputs: in a request (413). max_seconds: of an audio clip (413). max_queue:
    inputs that wait (503). max_held: bytes of all bodies that are held in memory (503). rate: requests per second of
    a client, None for no limit (429). timeout: seconds of a request, from its first byte to its answer (408, 504).
    """

    max_body: int = 16 * MIB
    max_inputs: int = 256
    max_seconds: float = 600.0
    max_queue: int = 1000
    rate: float | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_body", "max_inputs", "max_seconds", "max_queue", "rate", "timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: expected a number above 0")
        if self.max_queue < self.max_inputs:
            raise ValueError(f"max_queue={self.max_queue}, max_inputs={self.max_inputs}: expected room for a request")

    @property
    def max_held(self) -> int:
        return max(16 * self.max_body, 256 * MIB)


@dataclass(frozen=True)
class Inputs:
    """The inputs of a request in memory, of one modality; names: of each in messages."""

    items: Sequence[Any]
    names: Sequence[str]
    modality: str
    top_k: int = 5


@dataclass(frozen=True)
class InputReader:
    """Reads the inputs of requests.

    modalities: that the model takes; the first is that of a request that names none. speech: whether the model predicts
    texts of speech. predicts: whether requests may have `top_k`.
    """

    modalities: Sequence[str]
    limits: Limits
    predicts: bool = True
    speech: bool = False

    def read(self, body: bytes, content_type: str, query: Mapping[str, str]) -> Inputs:
        """Inputs from a body. Raises RequestError."""
        mime, _, parameters = content_type.partition(";")
        mime = mime.strip().lower()
        if mime == "application/json" or mime.endswith("+json"):
            if query:
                raise RequestError(
                    400, f"the address has {sorted(query)[0]}=: in a JSON request, it is a key of the body"
                )
            return self._of_json(body)
        modality = self._modality_of_type(mime, query.get("modality"))
        if MODALITIES[modality].strings:
            item: Any = _decoded(body, parameters)
        else:
            item = self._checked(body, "the body", modality)
        return Inputs([item], ["the body"], modality, self._top_k(_number(query)))

    def _of_json(self, body: bytes) -> Inputs:
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
            raise RequestError(400, f'the body is not JSON: {reason}. Expected {{"inputs": [...]}}') from None
        if not isinstance(request, dict):
            raise RequestError(400, f'the body is {_kind(request)}: expected an object, {{"inputs": [...]}}')
        known = ["inputs", *["top_k"] * self.predicts, *["modality"] * (len(self.modalities) > 1)]
        for name in request:
            if name not in known:
                near = did_you_mean(name[:100], known)
                raise RequestError(
                    400, f"the request has an unknown key {name[:100]!r}: expected {', '.join(known)}{near}"
                )
        modality = self._known_modality(request.get("modality"))
        inputs = request.get("inputs")
        if not isinstance(inputs, list) or not inputs:
            given = _kind(inputs) if "inputs" in request else "missing"
            given = "an empty list" if inputs == [] else given
            raise RequestError(400, f'"inputs" is {given}: expected a list of at least one input, "inputs": [...]')
        if len(inputs) > self.limits.max_inputs:
            raise RequestError(
                413,
                f"the request has {len(inputs):,} inputs, expected at most {self.limits.max_inputs:,}: send several "
                "requests",
            )
        names = [f"inputs[{i}]" for i in range(len(inputs))]
        read = _text if MODALITIES[modality].strings else self._bytes
        items = [read(item, name, modality) for item, name in zip(inputs, names)]
        return Inputs(items, names, modality, self._top_k(request.get("top_k", 5)))

    def _bytes(self, item: Any, name: str, modality: str) -> bytes:
        """The bytes of a file, such as an image, in base64, or in a data URL."""
        what = f"expected the bytes of {_file(modality)} in base64, or as a data URL (data:...;base64,...)"
        if not isinstance(item, str):
            raise RequestError(400, f"{name} is {_kind(item)}: {what}")
        url = DATA_URL.match(item[:200])
        if url and not url[1]:
            raise RequestError(400, f"{name} is a data URL without base64: {what}")
        try:
            data = base64.b64decode("".join(item[url.end() if url else 0 :].split()), validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(400, f"{name} is not base64: {what}; the server opens no paths and addresses") from None
        return self._checked(data, name, modality)

    def _checked(self, data: bytes, name: str, modality: str) -> bytes:
        """The bytes. Raises RequestError if there are none, or for an audio clip that is too long."""
        if not data:
            raise RequestError(400, f"{name} is empty: expected the bytes of {_file(modality)}")
        if modality == "audio":
            try:
                info = audio_io.info(data)
            except audio_io.AudioError:
                return data  # the model's reader says what is wrong
            seconds = info.frames / info.sampling_rate
            if seconds > self.limits.max_seconds:
                raise RequestError(
                    413,
                    f"{name} has {seconds:,.0f} s, expected at most {self.limits.max_seconds:g} s: send it in parts",
                )
        return data

    def _top_k(self, value: Any) -> int:
        most = MAX_TOP_K_OF_SPEECH if self.speech else MAX_TOP_K
        if type(value) is not int or not 1 <= value <= most:
            raise RequestError(400, f'"top_k" is {value!r:.50}: expected a whole number from 1 to {most}')
        return value

    def _known_modality(self, name: Any) -> str:
        if name is None:
            return self.modalities[0]
        if name not in self.modalities:
            raise RequestError(400, f'"modality" is {name!r:.50}: expected one of {", ".join(self.modalities)}')
        return name

    def _modality_of_type(self, mime: str, name: str | None) -> str:
        """The modality of a raw body."""
        main = mime.partition("/")[0]
        kinds = [each for each in self.modalities if main == ("text" if MODALITIES[each].strings else each)]
        if kinds and name in (None, kinds[0]):
            return kinds[0]
        binary = [each for each in self.modalities if not MODALITIES[each].strings]
        if mime == "application/octet-stream" and binary and (name is not None or len(binary) == 1):
            return self._known_modality(name or binary[0])
        types = ", ".join("text/plain" if MODALITIES[each].strings else f"{each}/*" for each in self.modalities)
        raise RequestError(
            415,
            f"the request has {f'the content type {mime[:100]}' if mime else 'no content type'}: expected the header "
            f"Content-Type: application/json, or {types} for a body that is one input",
        )


def _number(query: Mapping[str, str]) -> Any:
    """The value of ?top_k=; unknown parameters raise."""
    if unknown := sorted(set(query) - {"top_k", "modality"}):
        raise RequestError(400, f"the address has {unknown[0][:100]}=: expected top_k=")
    value = query.get("top_k", "5")
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value


def _text(item: Any, name: str, modality: str) -> Any:
    """A text or a pair of texts."""
    if isinstance(item, str):
        return item
    if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return tuple(item)
    raise RequestError(400, f"{name} is {_kind(item)}: expected a text, or a list of two texts (a pair)")


def _decoded(body: bytes, parameters: str) -> str:
    charset = re.search(r"charset=\"?([\w-]+)", parameters, re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise RequestError(415, f"the body has charset={charset[1][:50]}: expected UTF-8")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not a text in UTF-8: byte {error.start} is {error.reason}") from None


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    return "a text" if isinstance(value, str) else "an object" if isinstance(value, dict) else "a number"


def _file(modality: str) -> str:
    """A file of a modality by its name, such as "an image file"."""
    record = MODALITIES[modality]
    return f"{record.unnamed.split(' ', 1)[0]} {record.file_noun}"
