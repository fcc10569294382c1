"""`data_version.py import`, `export`: the older text layout, in and out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgejoule.cli.data_options import Verbs, add_verb, dataset_argument
from edgejoule.errors import EXIT_DONE, EXIT_WRONG

if TYPE_CHECKING:
    from edgejoule.dataset.older.importing import Imported, ImportedRun

_ZONE_HELP = (
    "zone of the layout's local times: Europe/Berlin, UTC, +01:00 (default: this machine's)"
)


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Add these verbs."""
    bring = add_verb(
        verbs,
        "import",
        "bring recordings of the older text layout into a dataset",
        "Read FOLDER in the older text layout (idling_power.json, <model>/<model>_power_log.log,\n"
        "<model>/trt_profiling/*) and write one run per model. Whatever had to be decided stands\n"
        "in the run, under imported.notes. A recording that was imported before is left alone.\n"
        "docs/OlderLayout.md says what becomes what.",
        _import,
    )
    bring.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the older layout")
    bring.add_argument(
        "--dataset", "--result-dir", type=Path, default=Path("raw_data"), metavar="DIR",
        help="the dataset to write into (default: %(default)s)",
    )  # fmt: skip
    bring.add_argument(
        "--model", action="append", default=[], metavar="M", dest="models",
        help="only this model; may be given several times",
    )  # fmt: skip
    bring.add_argument(
        "--weights", choices=("pretrained", "random", "unknown"), default="unknown",
        help="what the networks' weights were; the layout does not say (default: %(default)s)",
    )  # fmt: skip
    bring.add_argument(
        "--board", metavar="NAME",
        help="the board that was measured, as 'orin nano' (docs/Boards.md); names the rail",
    )  # fmt: skip
    bring.add_argument("--timezone", metavar="ZONE", help=_ZONE_HELP)
    bring.add_argument(
        "--dry-run", action="store_true", help="read everything, say what is found, write nothing"
    )
    bring.add_argument("--json", action="store_true", help="print one JSON object")

    send = add_verb(
        verbs,
        "export",
        "write runs in the older text layout",
        "Write runs of DATASET so that scripts made for the older text layout read them. What\n"
        "they must know of the numbers is printed and written to FOLDER.export.log.\n"
        "docs/OlderLayout.md says what becomes what.",
        _export,
    )
    dataset_argument(send)
    send.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", dest="folder",
        help="new or empty folder to write",
    )  # fmt: skip
    send.add_argument(
        "--layout", choices=("edgeprofiler",), default="edgeprofiler",
        help="the layout; there is one (default: %(default)s)",
    )  # fmt: skip
    send.add_argument(
        "--run", action="append", default=[], metavar="RUN", dest="runs",
        help="only this run; may be given several times",
    )  # fmt: skip
    send.add_argument("--timezone", metavar="ZONE", help=_ZONE_HELP)
    send.add_argument("--json", action="store_true", help="print one JSON object")


def _import(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.older.importing import import_folder
    from edgejoule.dataset.older.importing_run import Said
    from edgejoule.dataset.older.times import zone_of
    from edgejoule.report.progress import Progress

    zone = zone_of(arguments.timezone)
    with Progress() as progress:
        done = import_folder(
            arguments.folder,
            arguments.dataset,
            zone,
            models=arguments.models,
            said=Said(arguments.weights, arguments.board),
            dry_run=arguments.dry_run,
            progress=lambda what, part, whole: progress.update(
                what, note=f"{part / 1e6:.1f} of {whole / 1e6:.1f} MB"
            ),
        )
    if arguments.json:
        print(json.dumps(done.to_json(), indent=2))
    else:
        for run in done.runs:
            print("\n".join(_lines(run)))
        for name in done.no_recordings:
            print(f"{arguments.folder / name} holds no recording")
        print(_sum(done))
        if any(run.action == "imported" for run in done.runs):
            print(f"next: report.py {done.dataset}; data_version.py tables {done.dataset}")
    return EXIT_WRONG if done.failed else EXIT_DONE


def _lines(run: ImportedRun) -> list[str]:
    """Return what a user should see of one recording."""
    if run.error:
        return [f"{run.model}: {run.error}"]
    if run.action == "known":
        other = (
            f", with other {' and '.join(run.other)}; it stays so: move that run away to "
            "import it anew"
            if run.other
            else ""
        )
        return [f"{run.model}: was imported before, as {run.run}{other}"]
    rate = run.bytes / max(run.seconds, 1e-9) / 1e6
    head = (
        f"{run.model}: {run.action} as {run.run}{f' ({run.status})' if run.status else ''}: "
        f"{run.layers} layers x {run.inferences} inferences, {run.bytes / 1e6:.1f} MB in "
        f"{run.seconds:.1f} s ({rate:.0f} MB/s)"
    )
    return [
        head,
        *(f"{run.model}: missing: {line}" for line in run.missing),
        *(f"{run.model}: note: {line}" for line in run.notes),
    ]


def _sum(done: Imported) -> str:
    """Return one line on the whole folder."""
    counts: dict[str, int] = {}
    for run in done.runs:
        counts[run.action] = counts.get(run.action, 0) + 1
    parts = ", ".join(f"{count} {action}" for action, count in counts.items())
    return f"{done.dataset}: {parts}"


def _export(arguments: argparse.Namespace) -> int:
    from edgejoule.dataset.older.exporting import export
    from edgejoule.dataset.older.times import zone_of
    from edgejoule.report.progress import Progress

    zone = zone_of(arguments.timezone)
    with Progress() as progress:
        done = export(
            arguments.dataset, arguments.folder, zone, runs=arguments.runs, say=progress.update
        )
    if arguments.json:
        print(json.dumps(done.to_json(), indent=2))
    else:
        for line in done.lines:
            print(line)
        layers = sum(run["layers"] * run["inferences"] for run in done.runs)
        size = sum(run["bytes"] for run in done.runs)
        print(
            f"{done.folder}: {len(done.runs)} runs, {layers} layer times, {size / 1e6:.1f} MB; "
            f"the lines above are in {done.log}"
        )
    return EXIT_WRONG if done.left_out else EXIT_DONE
