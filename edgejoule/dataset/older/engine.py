"""Which layers an imported recording has: the names with times, joined with the engine's words.

`trt_engine_info.json` may hold more layers than have times (constants, reformats), fewer, or none;
it may be an object, a list of names, a list of engines, or the same once more as text. Names are
joined in order. A layer whose name is not in it is described by its name alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.dataset.older.engine_info import OWN_NAME
from edgejoule.dataset.schema import schema_problems
from edgejoule.errors import MeasurementError

if TYPE_CHECKING:
    from edgejoule.inference.backend import Layer

_LARGEST = 64 << 20  # bytes; the largest that was seen has 66 kB
_SHOWN = 3


@dataclass(frozen=True)
class EngineWords:
    """What `trt_engine_info.json` says: its bytes and its layers; None and none without it."""

    kept: bytes | None
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Joined:
    """The layers of a recording.

    Attributes:
        layers: As they stand in `engine.json`.
        notes: What did not fit, counted and named.
        missing: What a complete run would have.
    """

    layers: list[dict[str, Any]]
    notes: tuple[str, ...]
    missing: tuple[str, ...]


def read_engine_words(path: Path | None) -> EngineWords:
    """Read `trt_engine_info.json`.

    Raises:
        MeasurementError: It is no JSON of an engine inspector.
    """
    from edgejoule.inference.trt.describe import describe_engine

    if path is None:
        return EngineWords(None, ())
    if path.stat().st_size > _LARGEST:
        raise MeasurementError(f"{path} has more than {_LARGEST >> 20} MiB: that is no engine's")
    try:
        kept = path.read_bytes()
        text = kept.decode("utf-8")
    except OSError as error:
        raise MeasurementError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise MeasurementError(f"{path} is damaged (it is no UTF-8)") from error
    layers: list[Layer] = []
    try:
        for one in _engines(text):
            layers += describe_engine(one, first_index=len(layers))
    except MeasurementError as error:
        raise MeasurementError(
            f"{path}: {error.message}", "move it away to import the times without it"
        ) from error
    return EngineWords(kept, tuple(layers))


def _engines(text: str) -> list[str]:
    """Return the inspector's text per engine."""
    try:
        found = json.loads(text, strict=False) if text.strip() else None
    except (ValueError, RecursionError):
        return [text]  # whoever reads it says what is wrong
    if isinstance(found, str):
        return _engines(found) if found != text else [text]
    if isinstance(found, list) and found:
        inner = [_loads(one) if isinstance(one, str) else one for one in found]
        if all(isinstance(one, dict) and "Layers" in one for one in inner):
            return [json.dumps(one) for one in inner]
    return [text]


def _loads(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None


def occurrences(words: EngineWords, names: Sequence[str], lengths: Sequence[int]) -> list[int]:
    """Return how often each layer runs in an inference.

    Where the engine has a name several times, the layout's one key collects the times of all.
    """
    known = Counter(layer.name for layer in words.layers)
    single = [n for name, n in zip(names, lengths, strict=True) if known[name] <= 1]
    if not single or not min(single):
        return [1] * len(names)
    base = min(single)
    return [
        known[name] if known[name] > 1 and round(length / base) == known[name] else 1
        for name, length in zip(names, lengths, strict=True)
    ]


def join(words: EngineWords, names: Sequence[str]) -> Joined:
    """Join names with the engine's layers.

    Args:
        words: What the engine says of itself.
        names: Layers with times, in order; a name that runs twice stands there twice.

    Raises:
        MeasurementError: The engine's words do not fit the schema of `engine.json`.
    """
    from edgejoule.inference.backend import Layer
    from edgejoule.inference.trt.describe import describe_engine

    plain = describe_engine(json.dumps({"Layers": list(names)}))
    if len(plain) != len(names):  # a name that claims another optimisation profile
        plain = tuple(Layer(index, name) for index, name in enumerate(names))
    waiting: dict[str, list[Layer]] = {}
    for layer in words.layers:
        waiting.setdefault(layer.name, []).append(layer)
    layers, unknown, order = [], [], []
    for index, name in enumerate(names):
        found = waiting.get(name)
        if found:
            layer = found.pop(0)
            order.append(layer.index)
        else:
            layer = replace(plain[index], name=name)
            unknown.append(name)
        layers.append(_own_name(replace(layer, index=index)))
    left = [layer.name for one in waiting.values() for layer in one]
    notes, missing = [], []
    if words.kept is None:
        missing.append("no trt_engine_info.json: layers are described by their names alone")
    elif len(unknown) == len(names):
        missing.append(
            "trt_engine_info.json has none of the layers with times: they are described by their "
            "names alone"
        )
    elif unknown:
        notes.append(
            f"{len(unknown)} layers with times are not in trt_engine_info.json and are described "
            f"by their names alone: {_some(unknown)}"
        )
    elif not any(layer["type"] for layer in map(asdict, layers)):
        notes.append("trt_engine_info.json holds names only, no types and sizes")
    if left and order:
        notes.append(
            f"{len(left)} layers of the engine have no times and are left out: {_some(left)}"
        )
    if order != sorted(order):
        notes.append("the layers with times stand in another order than in trt_engine_info.json")
    document = [asdict(layer) for layer in layers]
    _check(document)
    return Joined(json.loads(json.dumps(document)), tuple(notes), tuple(missing))


def _own_name(layer: Layer) -> Layer:
    """Give a layer that `export` had to rename its own name back."""
    own = layer.attributes.get(OWN_NAME)
    if not isinstance(own, str):
        return layer
    rest = {key: value for key, value in layer.attributes.items() if key != OWN_NAME}
    return replace(layer, name=own, attributes=rest)


def _check(layers: list[dict[str, Any]]) -> None:
    """Refuse what `engine.json` may not hold."""
    try:
        plain = json.loads(json.dumps(layers, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise MeasurementError(f"trt_engine_info.json holds what is no JSON ({error})") from error
    document = {
        "backend": "", "versions": {}, "settings": {}, "start_offsets": False, "layers": plain,
    }  # fmt: skip
    if problems := schema_problems("engine", document):
        raise MeasurementError(f"trt_engine_info.json: {problems[0]}")


def _some(names: Sequence[str]) -> str:
    shown = [name if len(name) <= 60 else f"{name[:57]}..." for name in names[:_SHOWN]]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown) + more
