"""Read a dataset as data frames: `edgejoule.open("raw_data")`. Any operating system, no hardware.

Every file is held against its hash in `run.json` before it is read. pyarrow, numpy and the library
of the frames are imported when something is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgejoule.errors import UsageError

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from edgejoule.dataset.tables.source import SourceRun

Frame = Literal["pandas", "arrow", "polars"]
# `C:\data` is a folder, `s3://bucket` and `git@host:owner/name` are not.
_ADDRESS = re.compile(r"^([a-z][a-z0-9+.-]+://|[\w.-]+@[\w.-]+:)", re.IGNORECASE)
_NAMES = {  # column -> key of a layer in engine.json
    "layer_name": "name",
    "layer_type": "type",
    "operation": "operation",
    "module_path": "module_path",
}


def open_dataset(folder: str | os.PathLike[str]) -> Dataset:
    """Return a dataset to read from; nothing is read but the names of its runs.

    Args:
        folder: The dataset's folder.

    Raises:
        UsageError: It is an address, or no dataset.
    """
    from edgejoule.dataset.run_directory import is_dataset

    if _ADDRESS.match(str(folder)):
        raise UsageError(
            f"{folder} is an address, not a folder",
            f"bring it first: data_version.py pull {folder} --dataset raw_data",
        )
    path = Path(folder)
    if (path / "run.json").exists():
        raise UsageError(
            f"{path} is one run, not a dataset",
            f"open {path.parent}; its methods take the name {path.name!r}",
        )
    if not is_dataset(path):
        raise UsageError(f"{path} is no dataset", "give the folder that --result-dir was")
    return Dataset(path)


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk. Iterates over the names of its runs, complete or not.

    What `frame` says is returned: `pandas` (as its `read_parquet` would give it), `arrow` (a
    pyarrow.Table) or `polars`.

    Attributes:
        path: The dataset's folder.
    """

    path: Path

    def __iter__(self) -> Iterator[str]:
        from edgejoule.dataset.run_directory import run_directories

        return iter([path.name for path in run_directories(self.path)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, run: object) -> bool:
        return run in list(self)

    def runs(
        self, *, rail: str | None = None, incomplete: bool = False, frame: Frame = "pandas"
    ) -> Any:
        """Return one row per complete run: latency, energy, power, memory, configuration.

        Args:
            rail: Rail of the energy; None: the total, or what stands for it.
            incomplete: Take incomplete and failed runs, too.
            frame: What to return.

        Raises:
            UsageError: No complete run, or the library of `frame` is not installed.
            MeasurementError: A file is damaged.
        """
        from edgejoule.dataset.tables.run_table import run_table
        from edgejoule.dataset.tables.source import choose_runs, dataset_facts

        make = _maker(frame)
        chosen, _ = choose_runs(self.path, incomplete=incomplete)
        return make(run_table(chosen, dataset_facts(self.path, chosen), rail=rail))

    def layers(
        self,
        run: str | None = None,
        *,
        method: str | None = None,
        rail: str | None = None,
        incomplete: bool = False,
        frame: Frame = "pandas",
    ) -> Any:
        """Return the tidy table: one row per layer and run, the columns of docs/Modelling.md.

        Args:
            run: Only this run; None: all complete ones.
            method: How energy is split over layers; None: per run the best there is.
            rail: Rail of the energy; None: the total, or what stands for it.
            incomplete: Take incomplete and failed runs, too.
            frame: What to return.

        Raises:
            UsageError: No such run, method or rail, or the library of `frame` is not installed.
            MeasurementError: A file is damaged.
        """
        from edgejoule.dataset.tables.layer_table import layer_table

        make = _maker(frame)
        named = () if run is None else (run,)
        return make(
            layer_table(self.path, runs=named, method=method, rail=rail, incomplete=incomplete)
        )

    def durations(self, run: str, *, names: bool = False, frame: Frame = "pandas") -> Any:
        """Return `layers.parquet`: the duration of each layer in each profiled inference.

        Args:
            run: The run.
            names: Add the layers' names, types, operations and modules.
            frame: What to return.

        Raises:
            UsageError: No such run, or the library of `frame` is not installed.
            MeasurementError: The run has none, or it is damaged.
        """
        make, source = _maker(frame), self._run(run)
        table = _read(source, "layers.parquet")
        return make(_with_names(table, source.engine()["layers"]) if names else table)

    def inferences(self, run: str, *, frame: Frame = "pandas") -> Any:
        """Return `inferences.parquet`: the times of each inference of all passes.

        Raises:
            UsageError: No such run, or the library of `frame` is not installed.
            MeasurementError: The run has none, or it is damaged.
        """
        make = _maker(frame)
        return make(_read(self._run(run), "inferences.parquet"))

    def power(self, run: str, *, raw: bool = False, frame: Frame = "pandas") -> Any:
        """Return the power of a run over time.

        Args:
            run: The run.
            raw: Every file read as it was, with its channel's rail, quantity and unit; else mW per
                rail as derived from that (`rail`, `t_ns`, `power_mw`), `total` among the rails
                where the total is known.
            frame: What to return.

        Raises:
            UsageError: No such run, or the library of `frame` is not installed.
            MeasurementError: The run has no power, or it is damaged.
        """
        make, source = _maker(frame), self._run(run)
        return make(_raw_power(source) if raw else _power(source))

    def energy(self, run: str | None = None, *, frame: Frame = "pandas") -> Any:
        """Return energy per profiled inference by every method, on every rail, of every layer.

        Args:
            run: Only this run; None: all complete ones.
            frame: What to return.

        Raises:
            UsageError: No such run, or the library of `frame` is not installed.
            MeasurementError: It is damaged.
        """
        from edgejoule.dataset.tables.run_table import energy_table
        from edgejoule.dataset.tables.source import choose_runs, dataset_facts

        make = _maker(frame)
        chosen = choose_runs(self.path)[0] if run is None else (self._run(run),)
        return make(energy_table(chosen, dataset_facts(self.path, chosen)))

    def parts(
        self,
        run: str | None = None,
        *,
        method: str | None = None,
        rail: str | None = None,
        frame: Frame = "pandas",
    ) -> Any:
        """Return energy per inference summed up by module (a tree) and by type of operation.

        Args:
            run: Only this run; None: all complete ones.
            method: How energy is split over layers; None: per run the best there is.
            rail: Rail of the energy; None: the total, or what stands for it.
            frame: What to return.

        Raises:
            UsageError: No such run, method or rail, or the library of `frame` is not installed.
            MeasurementError: It is damaged.
        """
        from edgejoule.dataset.tables.layer_table import table_of_runs
        from edgejoule.dataset.tables.part_table import part_table
        from edgejoule.dataset.tables.source import choose_runs, dataset_facts

        make = _maker(frame)
        chosen = choose_runs(self.path)[0] if run is None else (self._run(run),)
        facts = dataset_facts(self.path, chosen)
        layers = table_of_runs(chosen, facts, method=method, rail=rail)
        return make(part_table(chosen, layers, facts))

    def engine(self, run: str) -> dict[str, Any]:
        """Return `engine.json`: backend, settings, and what its layers are.

        Raises:
            UsageError: No such run.
            MeasurementError: The run has none, or it is damaged.
        """
        return self._run(run).engine()

    def run(self, run: str) -> dict[str, Any]:
        """Return `run.json`: configuration, machine, phases, summary, files.

        Raises:
            UsageError: No such run.
            MeasurementError: It is damaged.
        """
        return dict(self._run(run).run)

    def _run(self, name: str) -> SourceRun:
        from edgejoule.dataset.tables.source import choose_runs

        return choose_runs(self.path, (name,), incomplete=True)[0][0]


def _read(source: SourceRun, file: str) -> pa.Table:
    import pyarrow.parquet as pq

    # The file's own metadata is not a table's: other libraries would carry it along.
    return pq.read_table(source.checked(file), partitioning=None).replace_schema_metadata()


def _with_names(table: pa.Table, layers: list[dict[str, Any]]) -> pa.Table:
    """Return durations with what the engine calls their layers, as dictionaries: names are long."""
    import pyarrow as pa

    indices = table["layer"].combine_chunks().cast(pa.int32())
    for name, key in _NAMES.items():
        words = pa.array([layer.get(key) for layer in layers], pa.string())
        table = table.append_column(name, words.take(indices).dictionary_encode())
    return table


def _power(source: SourceRun) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from edgejoule.summary import read_power

    rails = read_power(source.checked("power.parquet")).rails
    codes = np.repeat(np.arange(len(rails)), [len(series.t_ns) for series in rails.values()])
    empty = np.empty(0)
    return pa.table(
        {
            "rail": pa.DictionaryArray.from_arrays(
                pa.array(codes, pa.int32()), pa.array(list(rails), pa.string())
            ),
            "t_ns": np.concatenate([empty.astype(np.int64), *(s.t_ns for s in rails.values())]),
            "power_mw": np.concatenate([empty, *(s.power_mw for s in rails.values())]),
        }
    )


def _raw_power(source: SourceRun) -> pa.Table:
    import pyarrow as pa

    from edgejoule.dataset.schema import read_metadata
    from edgejoule.energy.trace import rail_names
    from edgejoule.errors import MeasurementError

    path = source.checked("power.parquet")
    channels = read_metadata(path).get("channels")
    if not channels:
        raise MeasurementError(f"{path} has no channel table")
    table = _read(source, "power.parquet")
    indices = table["channel"].combine_chunks().cast(pa.int32())
    words = {
        "rail": rail_names(channels),
        "quantity": [channel["quantity"] for channel in channels],
        "unit": [channel["unit"] for channel in channels],
    }
    for name, values in words.items():
        column = pa.array(values, pa.string()).take(indices).dictionary_encode()
        table = table.append_column(name, column)
    return table


def _maker(frame: str) -> Callable[[pa.Table], Any]:
    """Return what turns an Arrow table into the frames that were asked for.

    Before anything is read, so that a library that is not there costs no time.
    """
    makers: dict[str, Callable[[], Callable[[pa.Table], Any]]] = {
        "pandas": _pandas,
        "arrow": lambda: lambda table: table,
        "polars": _polars,
    }
    if frame not in makers:
        raise UsageError(f"no frame {frame!r}", f"use {', '.join(makers)}")
    return makers[frame]()


def _pandas() -> Callable[[pa.Table], Any]:
    try:
        import pandas  # noqa: F401 (pyarrow uses it)
    except ImportError as error:
        raise UsageError(
            f"pandas cannot be used here ({error})",
            "pip install 'edgejoule[frames]', or ask for frame=\"arrow\"",
        ) from None
    return lambda table: table.replace_schema_metadata().to_pandas()


def _polars() -> Callable[[pa.Table], Any]:
    try:
        import polars
    except ImportError as error:
        raise UsageError(
            f"polars cannot be used here ({error})", 'pip install polars, or ask for frame="arrow"'
        ) from None
    return polars.from_arrow
