"""Kill an import at every step at which it changes a folder, as `support_dataset_kill` does.

    python -m tests.support_older_kill FOLDER

The recording lies in FOLDER/old, repetition n imports it into FOLDER/<n>.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import ijson  # noqa: F401 (what an import loads is loaded once, before the forks)
import jsonschema  # noqa: F401

import edgejoule.inference.trt.describe
import edgejoule.power.boards  # noqa: F401
from edgejoule.dataset.older.importing import import_folder
from edgejoule.dataset.older.times import zone_of
from tests.support_dataset_kill import MODES, main

with contextlib.suppress(ImportError):  # pyarrow loads it where it is
    import pandas  # noqa: F401


def prepare_import(dataset: Path) -> Callable[[], object]:
    return lambda: import_folder(dataset.parent / "old", dataset, zone_of("UTC"))


if __name__ == "__main__":
    MODES["import"] = prepare_import
    sys.exit(main("import", Path(sys.argv[1])))
