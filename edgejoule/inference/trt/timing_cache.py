"""The timing cache of one experiment: the same tactics are timed once, whatever is built next.

Each build times candidate kernels; a cache makes the choice of later builds the same and fast. It
is kept per experiment (`BuildOptions.cache`) and per TensorRT and GPU, since one shared by
everything on a machine would let a build depend on what was built there before.

`ITimingCache` carries a header, and a cache of another TensorRT or GPU is refused by
`create_timing_cache` (no object) or `set_timing_cache(cache, ignore_mismatch=False)` (False). The
refused one is replaced by an empty one, and the facts say so. At optimisation level 0 the builder
does not use a cache (`IBuilderConfig` in the bindings of 11).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgejoule import files
from edgejoule.errors import MeasurementError


def cache_path(folder: Path, version: str, gpu: str) -> Path:
    """Return where the timing cache of this TensorRT and GPU lies in an experiment's folder."""
    name = re.sub(r"[^A-Za-z0-9.]+", "_", gpu).strip("_") or "gpu"
    return folder / f"timing-{version}-{name}.cache"


@dataclass
class TimingCache:
    """The cache's bytes from build to build.

    Attributes:
        path: Its file; None keeps it for this process only.
        data: What the next build begins with.
        before: SHA-256 of what the first build began with; None: nothing.
        note: What happened to it, where it did not simply serve.
    """

    path: Path | None = None
    data: bytes = b""
    before: str | None = None
    note: str = ""

    @classmethod
    def load(cls, path: Path | None) -> TimingCache:
        """Read the file, which need not be there.

        Raises:
            MeasurementError: It is there and cannot be read.
        """
        try:
            data = b"" if path is None else path.read_bytes()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise MeasurementError(
                f"the timing cache {path} cannot be read ({error.strerror})",
                "make it readable, or delete it",
            ) from error
        return cls(path, data, _sha256(data))

    def attach(self, config: Any, log: Any) -> Any:
        """Give a builder's configuration this cache, or an empty one where it is refused.

        Args:
            config: `trt.IBuilderConfig`.
            log: Of `make_log`.

        Returns:
            The `trt.ITimingCache`, to be kept until the build is over; None where this TensorRT
            has none, which the note then says.
        """
        if self.data:
            cache = _offered(config, self.data)
            if cache is not None:
                return cache
            said = log.last_error() or "without a word"
            self.note = f"the earlier one was refused and dropped ({said})"
            self.data = b""
            del log.errors[:]  # they are of the cache, not of the build that follows
        cache = _offered(config, b"")
        if cache is None:
            self.note = "this TensorRT keeps no timing cache"
        return cache

    def collect(self, config: Any) -> None:
        """Take what the build has timed."""
        cache = config.get_timing_cache()
        serialised = None if cache is None else cache.serialize()
        if serialised is not None:
            self.data = bytes(serialised)

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            EdgejouleError: The folder is full or cannot be written.
        """
        if self.path is None or not self.data or _sha256(self.data) == self.before:
            return
        with files.disk_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.path.with_name(self.path.name + ".tmp")
            unfinished.write_bytes(self.data)
            files.sync_file(unfinished)
            unfinished.replace(self.path)
            files.sync_folder(self.path.parent)

    def facts(self) -> dict[str, Any]:
        """Return what was used, for the engine's settings."""
        return {
            "file": None if self.path is None else self.path.name,
            "sha256_before": self.before,
            "sha256_after": _sha256(self.data),
            "bytes": len(self.data),
            **({"note": self.note} if self.note else {}),
        }


def _offered(config: Any, data: bytes) -> Any:
    """Return the cache if TensorRT took it, else None."""
    try:
        cache = config.create_timing_cache(data)
        taken = cache is not None and config.set_timing_cache(cache, False)
    except (RuntimeError, TypeError, ValueError):  # the bindings' words for a null pointer
        return None
    return cache if taken else None


def _sha256(data: bytes) -> str | None:
    return hashlib.sha256(data).hexdigest() if data else None
