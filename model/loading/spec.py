"""What a `--model` argument means: a network's name, or one of three kinds of file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgejoule.config import slug
from edgejoule.errors import UsageError

_STATE_FILES = (
    ".pt",
    ".pth",
    ".bin",
    ".safetensors",
    ".ckpt",
    ".h5",
    ".tflite",
    ".engine",
    ".plan",
)


@dataclass(frozen=True)
class Spec:
    """A `--model` argument taken apart.

    Attributes:
        kind: `network`, `function` (of a Python file), `onnx` or `pt2`.
        text: The argument as given.
        name: The model's name in run names.
        path: The file, None for a network.
        function: The function in a Python file, else None.
    """

    kind: Literal["network", "function", "onnx", "pt2"]
    text: str
    name: str
    path: Path | None = None
    function: str | None = None


def parse_spec(text: str) -> Spec:
    """Take a `--model` argument apart and check that its file is there.

    Raises:
        UsageError: The file is not there, a Python file comes without a function, or the kind of
            file holds no network.
    """
    file_text, separator, function = text.rpartition(":")
    if separator and file_text.lower().endswith(".py"):
        path = _existing(file_text)
        if not function.isidentifier():
            raise UsageError(f"{text!r} names no function", f"write {file_text}:function")
        return Spec("function", text, slug(f"{path.stem}_{function}"), path, function)
    path = Path(text)
    suffix = path.suffix.lower()
    if suffix == ".py":
        _existing(text)
        raise UsageError(f"{text!r} names no function", f"write {text}:function")
    if suffix in (".onnx", ".pt2"):
        kind: Literal["onnx", "pt2"] = "onnx" if suffix == ".onnx" else "pt2"
        return Spec(kind, text, slug(_existing(text).stem), path)
    if suffix in _STATE_FILES or "/" in text or "\\" in text:
        raise UsageError(
            f"{text!r} is not a kind of file that a model can be loaded from",
            "give x.onnx, x.pt2 (torch.export.save), or file.py:function, whose function may "
            "load a file of weights",
        )
    return Spec("network", text, text)


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise UsageError(f"there is no file {text!r}", "check --model's path")
    if not path.is_file():
        raise UsageError(f"{text!r} is a folder, not a file", "check --model's path")
    return path


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 over the bytes of files, one after the other.

    Raises:
        UsageError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise UsageError(f"cannot read {path} ({error.strerror})") from error
    return digest.hexdigest()


def one_line(error: BaseException, limit: int = 240) -> str:
    """Return an exception as `Type: text` on one line, cut after `limit` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as `1x3x224x224`."""
    return "x".join(map(str, shape)) or "scalar"
