"""`measure_power.py convert`: a sampler's `power.bin` into a table, where nobody else did it."""

from __future__ import annotations

import argparse
from pathlib import Path

_FORMATS = (".parquet", ".csv")


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb `convert`."""
    parser = verbs.add_parser(
        "convert",
        help="turn a power.bin that a killed recording left into a table",
        description="""A recording that is killed leaves what it had read in power.bin, in a hidden
        folder beside the output. This turns it into .parquet or .csv.""",
        epilog="example: measure_power.py convert .edgejoule-x1y2/power.bin --output trace.parquet",
    )
    parser.add_argument("source", type=Path, metavar="POWER_BIN", help="the sampler's file")
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `--output`."""
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="new file for the trace, .parquet or .csv",
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert."""
    import tempfile

    from edgejoule.errors import UsageError
    from edgejoule.files import disk_errors
    from edgejoule.records import read_header

    check_output(arguments.output)
    source: Path = arguments.source
    if not source.is_file():
        raise UsageError(f"there is no file {source}", "give the sampler's power.bin")
    read_header(source)  # names the file if it is none of ours
    with (
        disk_errors(arguments.output.parent),
        tempfile.TemporaryDirectory(prefix=".edgejoule-", dir=arguments.output.parent) as temporary,
    ):
        link = Path(temporary, "power.bin")
        link.symlink_to(source.resolve())
        write_table(link, arguments.output)
    print(f"written: {arguments.output}")
    return 0


def check_output(output: Path) -> None:
    """Refuse an output that cannot be written, before anything is measured.

    Raises:
        UsageError: Its format is not known, it is there already, or its folder is not.
    """
    from edgejoule.errors import UsageError

    if output.suffix not in _FORMATS:
        raise UsageError(f"--output {output}: no such format", "name it .parquet or .csv")
    if output.exists():
        raise UsageError(f"{output} is there already", "give another --output, or remove it")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", "make it, or give another --output")


def write_table(power_bin: Path, output: Path) -> None:
    """Write a trace as Parquet or CSV, whole or not at all.

    Args:
        power_bin: The sampler's file, named `power.bin`, in a folder on the output's disk.
        output: The new file; its suffix says which format.
    """
    if output.suffix == ".parquet":
        from edgejoule.dataset.convert import convert_one

        convert_one(power_bin.parent, "power")
        power_bin.with_suffix(".parquet").replace(output)
    else:
        _write_csv(power_bin, power_bin.with_suffix(".csv"))
        power_bin.with_suffix(".csv").replace(output)


def _write_csv(power_bin: Path, target: Path) -> None:
    """Write the reads as text: one row per read, the value empty where it failed."""
    import csv

    from edgejoule.energy.trace import read_samples

    header, samples = read_samples(power_bin)
    names = {c["index"]: (c["rail"], c["quantity"], c["unit"]) for c in header["channels"]}
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("t0_ns", "t1_ns", "rail", "quantity", "unit", "raw", "errno", "simulated"))
        simulated = int(header["simulated"])
        for t0_ns, t1_ns, raw, channel, code in samples.tolist():
            value, error = ("", code) if code else (raw, "")
            writer.writerow((t0_ns, t1_ns, *names[channel], value, error, simulated))
