"""docs/DatasetFormats.md, the JSON Schemas, the Arrow schemas and the writers name the same."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from edgejoule.config import SCHEMA_VERSION, RunConfig
from edgejoule.dataset.schema import JSON_FILES, TABLES, json_schema, table_schema
from edgejoule.energy.baseline import Baseline
from edgejoule.energy.calibration_file import Calibration
from edgejoule.inference.backend import EngineDescription, Layer
from edgejoule.power.sweeper import Tally
from edgejoule.summary import Inferences, LayerSums, profiled_figures

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "DatasetFormats.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
JSON_TYPES = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "object": "object",
    "list": "array",
    "null": "null",
    "hex": "string",
}


def section(title):
    """Return the text below a heading, up to the next one."""
    found = re.search(rf"^### {re.escape(title)}\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def tables(title):
    """Return the tables of a section as lists of (names, type)."""
    found = []
    for block in re.split(r"\n\s*\n", section(title)):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if not lines:
            continue
        header, _, *rows = ([cell.strip() for cell in line[1:-1].split(" | ")] for line in lines)
        assert [cell.strip(" |") for cell in header] in (
            ["key", "type", "meaning"], ["column", "type", "meaning"],
        )  # fmt: skip
        entries = []
        for names, kind, *_ in rows:
            entries += [(name, kind) for name in re.findall(r"`([^`]+)`", names)]
        assert len({name for name, _ in entries}) == len(entries)
        found.append(entries)
    return found


def properties(schema, *path):
    for step in path:
        schema = schema[step]
    return schema["properties"]


@pytest.mark.parametrize("name", TABLES)
def test_columns_of_a_table_are_those_of_the_document(name):
    (entries,) = tables(f"{name}.parquet")
    schema = table_schema(name)
    assert [column for column, _ in entries] == schema.names
    for (column, kind), field in zip(entries, schema, strict=True):
        wanted = str(field.type)
        if wanted.startswith("dictionary"):
            wanted = "string, dictionary"
        wanted = {"float": "float32", "double": "float64", "bool": "boolean"}.get(wanted, wanted)
        assert kind == wanted + (" or null" if field.nullable else ""), column


LAYER = ("properties", "layers", "items")
DOCUMENTED = [
    ("dataset.json", 0, "dataset", ()),
    ("idling_power.json", 0, "idling_power", ()),
    ("run.json", 0, "run", ()),
    ("run.json", 2, "run", ("properties", "summary")),
    ("engine.json", 0, "engine", ()),
    ("engine.json", 1, "engine", LAYER),
    ("idle.json", 0, "idle", ("items",)),
    ("idle.json", 1, "idle", ("items", "properties", "rails", "additionalProperties")),
    ("measure.json", 0, "measure", ()),
    ("sampler.json", 0, "sampler", ()),
    ("calibration.json", 0, "calibration", ()),
    ("truth.json", 0, "truth", ()),
]


@pytest.mark.parametrize(("title", "number", "name", "path"), DOCUMENTED)
def test_keys_of_a_json_file_are_those_of_the_document(title, number, name, path):
    entries = dict(tables(title)[number])
    schema = properties(json_schema(name), *path)
    assert set(entries) == set(schema)
    for key, kind in entries.items():
        said = schema[key].get("type")
        words = re.split(r",| or ", kind.replace(" of strings", ""))
        types = {JSON_TYPES[word.strip()] for word in words if word.strip() in JSON_TYPES}
        if said is not None and types:
            wanted = {said} if isinstance(said, str) else set(said)
            # An integer is a number, and what is summed up may be an object or a plain number.
            assert types & wanted or (types, wanted) == ({"number"}, {"integer"}), key
            assert ("null" in types) == ("null" in wanted), key


def test_every_json_file_has_a_schema_and_a_table():
    assert {name for _, _, name, _ in DOCUMENTED} == {
        *JSON_FILES.values(), "dataset", "idling_power",
    }  # fmt: skip
    listed = section("run.json")
    assert "`files` lists every file of the directory but `run.json` itself" in listed
    for name in (*JSON_FILES, *(f"{table}.parquet" for table in TABLES)):
        assert f"`{name}`" in TEXT.split("## A run\n")[1].split("### run.json")[0], name


def test_what_is_written_is_what_is_documented():
    (_, config, summary) = tables("run.json")
    assert [name for name, _ in config] == [field.name for field in dataclasses.fields(RunConfig)]
    assert {"clean", "profiled", "phase_energies", "notes"} <= {name for name, _ in summary}
    (passes,) = re.findall(r"^.*`rate`, `profiled` .*$", section("run.json"), re.MULTILINE)
    one = Inferences(np.arange(2), np.array([0, 5]), np.array([3, 9]), np.empty(0))
    for key in profiled_figures(one, LayerSums(np.ones(2), np.ones((2, 1)))):
        assert f"`{key}`" in passes, key
    engine, layer = tables("engine.json")
    written = {field.name for field in dataclasses.fields(EngineDescription)} - {"keep"}
    assert {name for name, _ in engine} == written
    assert {name for name, _ in layer} == {field.name for field in dataclasses.fields(Layer)}
    assert {name for name, _ in tables("idle.json")[1]} == {
        field.name for field in dataclasses.fields(Baseline)
    }
    calibration = {name for name, _ in tables("calibration.json")[0]}
    assert calibration - {"schema", "schema_version"} == {
        field.name for field in dataclasses.fields(Calibration)
    }
    counted = {field.name for field in dataclasses.fields(Tally)}
    sampler = {name for name, _ in tables("sampler.json")[0]}
    assert counted - {"sweep_ns", "failing_since_ns", "last_error"} <= sampler


def test_the_history_ends_with_the_version_that_is_written():
    versions = [int(found) for found in re.findall(r"^\| (\d+) \| \d+\.\d+\.\d+ \|", TEXT, re.M)]
    assert versions == list(range(1, SCHEMA_VERSION + 1))
    for name in ("run", "dataset"):
        assert json_schema(name)["properties"]["schema_version"]["enum"] == versions
