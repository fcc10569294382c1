"""How many bytes a row of layers takes on disk, and that every reader of Parquet takes it."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from edgejoule.dataset.convert import convert
from edgejoule.records import LAYERS, RecordWriter
from tests.support_format import layer_records, layer_times

ROWS_OF_ISSUE = 30_000 * 200
BYTES_OF_ISSUE = 50_000_000


def write(folder, inferences, layers, step_ns, starts):
    """Write `layers.parquet` from records, as a run does; return durations and starts."""
    duration, start = layer_times(inferences, layers, step_ns)
    RecordWriter(folder / "layers.bin", LAYERS, {}).close()
    with (folder / "layers.bin").open("ab") as file:
        layer_records(duration, start if starts else None).tofile(file)
    convert(folder)
    return duration, start


@pytest.mark.parametrize(
    ("step_ns", "starts", "most"),
    [
        # Single nanoseconds cost what their noise holds; 50 MB would be 8.3 bytes per row.
        (1, False, 3.4),
        (1, True, 6.7),
        # Profilers that count microseconds, as most do.
        (1000, False, 1.2),
        (1000, True, 3.9),
    ],
)
def test_bytes_of_a_row(tmp_path, step_ns, starts, most):
    write(tmp_path, 1000, 200, step_ns, starts)
    path = tmp_path / "layers.parquet"
    per_row = path.stat().st_size / pq.read_metadata(path).num_rows
    assert per_row < most
    assert per_row * ROWS_OF_ISSUE < BYTES_OF_ISSUE


@pytest.mark.parametrize(("step_ns", "encoding"), [(1, "BYTE_STREAM_SPLIT"), (1000, "DICTIONARY")])
def test_durations_are_encoded_as_their_clock_asks(tmp_path, step_ns, encoding):
    duration, _ = write(tmp_path, 200, 50, step_ns, True)
    column = pq.read_metadata(tmp_path / "layers.parquet").row_group(0).column(2)
    assert column.path_in_schema == "duration_ms"
    assert any(encoding in name for name in column.encodings)
    found = pq.read_table(tmp_path / "layers.parquet")["duration_ms"].to_numpy()
    assert np.array_equal(np.rint(found.astype(np.float64) * 1e6), duration.ravel())


@pytest.mark.parametrize("step_ns", [1, 1000])
@pytest.mark.parametrize("starts", [True, False])
def test_other_readers_see_the_same_rows(tmp_path, step_ns, starts):
    polars = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    write(tmp_path, 300, 40, step_ns, starts)
    path = str(tmp_path / "layers.parquet")
    wanted = pq.read_table(path).to_pydict()
    assert polars.read_parquet(path).to_dict(as_series=False) == wanted
    with duckdb.connect() as connection:
        rows = connection.execute("select * from read_parquet(?)", [path]).fetchall()
    assert [list(column) for column in zip(*rows, strict=True)] == list(wanted.values())
