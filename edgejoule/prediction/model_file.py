"""Saved predictors: one `.npz` or `.json` file without pickle, read with numpy alone.

A document of plain JSON in which every array stands as `{"array": index}`. In `.npz` the document
is the member `document` (UTF-8 bytes) and the arrays are `a0`, `a1`, ...; in `.json` the arrays
stand beside it as lists with their type and shape. Whoever reads one trusts nothing: sizes are
bounded before anything is unpacked, and every regressor is checked before it is evaluated.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgejoule.dataset.tables.layer_columns import LAYER_TABLE_VERSION
from edgejoule.errors import UsageError
from edgejoule.files import sync_file
from edgejoule.prediction.features import NUMBERS, REST
from edgejoule.prediction.model_check import Unfit, check_predictor

FORMAT = "edgejoule-prediction"
VERSION = 1
SUFFIXES = (".npz", ".json")
_MOST_BYTES = 256 << 20
_MOST_ARRAYS = 20_000
_KINDS = ("float64", "int32", "int64")


def save_model(path: Path, model: Mapping[str, Any]) -> None:
    """Write a model whole or not at all; the same model gives the same bytes.

    Args:
        path: The file, `.npz` or `.json`.
        model: What `build.build_model` returns.

    Raises:
        UsageError: Another ending, or the folder cannot be written.
    """
    check_suffix(path)
    arrays: list[np.ndarray] = []
    document = _without_arrays(model, arrays)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as file:
            if path.suffix == ".npz":
                text = json.dumps(document, sort_keys=True, allow_nan=False).encode()
                members: dict[str, Any] = {f"a{index}": one for index, one in enumerate(arrays)}
                np.savez_compressed(file, document=np.frombuffer(text, dtype=np.uint8), **members)
            else:
                lists = [
                    {
                        "dtype": str(one.dtype),
                        "shape": list(one.shape),
                        "values": one.ravel().tolist(),
                    }
                    for one in arrays
                ]
                whole = {**document, "arrays": lists}
                file.write(json.dumps(whole, sort_keys=True, allow_nan=False).encode() + b"\n")
        sync_file(unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def check_suffix(path: Path) -> None:
    """Refuse a name that says neither of the two forms (`UsageError`)."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path}: a model is an .npz or .json file", "give -o model.npz")


def load_model(path: Path) -> dict[str, Any]:
    """Read a model and check all of it.

    Raises:
        UsageError: It is no model of this format and version, or it is damaged.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise Unfit(f"it is larger than {_MOST_BYTES >> 20} MiB")
        document, arrays = _read(path)
        _check_header(document)
        model: dict[str, Any] = _with_arrays(document, arrays)
        check_predictor(model["predictor"])
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file", "make one with the verb fit") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not a model", "give the file made by fit") from None
    except Unfit as error:
        raise UsageError(f"{path} cannot be used as a model: {error}", "fit it again") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError,
            EOFError, MemoryError, OverflowError, NotImplementedError, RuntimeError,
            zipfile.BadZipFile, _zlib_error()) as error:  # fmt: skip
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(f"{path} is no readable model ({why})", "fit it again") from None
    return model


def _zlib_error() -> type[Exception]:
    import zlib

    return zlib.error


def _without_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, Mapping):
        return {str(key): _without_arrays(one, arrays) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_arrays(one, arrays) for one in value]
    return value


def _with_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            index = value["array"]
            if not isinstance(index, int) or not 0 <= index < len(arrays):
                raise Unfit("it names an array that it does not have")
            return arrays[index]
        return {key: _with_arrays(one, arrays) for key, one in value.items()}
    return [_with_arrays(one, arrays) for one in value] if isinstance(value, list) else value


def _read(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    if path.suffix == ".json":
        document = _object(json.loads(path.read_bytes().decode("utf-8")))
        listed = document.pop("arrays", None)
        if not isinstance(listed, list) or len(listed) > _MOST_ARRAYS:
            raise Unfit("it has no arrays")
        return document, [_listed(one) for one in listed]
    with zipfile.ZipFile(path) as archive:  # before numpy unpacks anything
        members = archive.infolist()
    if len(members) > _MOST_ARRAYS or sum(one.file_size for one in members) > _MOST_BYTES:
        raise Unfit(f"it unpacks to more than {_MOST_BYTES >> 20} MiB")
    with np.load(path, allow_pickle=False) as archive:
        if "document" not in archive.files:
            raise Unfit("it has no document")
        document = _object(json.loads(archive["document"].tobytes().decode("utf-8")))
        names = [f"a{index}" for index in range(len(archive.files) - 1)]
        if set(names) != set(archive.files) - {"document"}:
            raise Unfit("its arrays are not numbered")
        arrays = [archive[name] for name in names]
    return document, [_checked(one) for one in arrays]


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unfit("it holds no JSON object")
    return value


def _listed(one: Any) -> np.ndarray:
    if one["dtype"] not in _KINDS or not isinstance(one["values"], list):
        raise Unfit(f"an array is of type {str(one['dtype'])[:20]!r}")
    return _checked(np.array(one["values"], dtype=one["dtype"]).reshape(one["shape"]))


def _checked(array: np.ndarray) -> np.ndarray:
    if str(array.dtype) not in _KINDS:
        raise Unfit(f"an array is of type {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Unfit("an array holds what is no number")
    return array


def _check_header(document: Mapping[str, Any]) -> None:
    found, version = document.get("format"), document.get("version")
    if found != FORMAT:
        raise Unfit(f"its format is {str(found)[:40]!r}, not {FORMAT!r}")
    if version != VERSION:
        raise Unfit(f"its version is {str(version)[:20]}, this edgejoule reads {VERSION}")
    if document.get("table_version") != LAYER_TABLE_VERSION:
        raise Unfit(
            f"it was learnt from version {str(document.get('table_version'))[:20]} of the table of "
            f"layers, this edgejoule has {LAYER_TABLE_VERSION}"
        )
    if document.get("features") != list(NUMBERS) or document.get("rest") != REST:
        raise Unfit("its features are not those of this edgejoule")
    for name, kind in (
        ("predictor", dict), ("configuration", dict), ("runs", list), ("dataset", dict),
        ("notes", list), ("units", dict), ("versions", list), ("simulated", bool),
        ("networks", list),
    ):  # fmt: skip
        if not isinstance(document.get(name), kind):
            raise Unfit(f"{name!r} is missing or of another type")
