"""The help of every script as it stands in docs/ExperimentScripts.md.

    python -m tests.write_help        write the blocks anew

The page is written by hand around blocks like this one, which this module fills:

    <!-- help: data_version.py verify -->
    ```text
    usage: ...
    ```

A block that is missing is added at the end, so that a new command cannot be forgotten.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "ExperimentScripts.md"
# What a user types -> what Python runs.
SCRIPTS = {
    "run_experiment.sh": "edgejoule.cli.run_experiment",
    "measure_inference_power.py": "measure_inference_power.py",
    "measure_power.py": "measure_power.py",
    "measure_idling_power.py": "measure_idling_power.py",
    "data_version.py": "data_version.py",
    "predict_power.py": "predict_power.py",
    "report.py": "report.py",
}
BLOCK = re.compile(r"<!-- help: (?P<name>[^>]+?) -->\n```text\n(?P<text>.*?)```\n", re.DOTALL)
VERBS = re.compile(r"^  VERB\n((?:    .*\n)+)", re.MULTILINE)


def help_of(name: str) -> str:
    """Return what `name --help` prints, at a fixed width and without colours.

    Raises:
        RuntimeError: If the command fails.
    """
    script, *verb = name.split()
    target = SCRIPTS[script]
    command = [target] if target.endswith(".py") else ["-m", target]
    done = subprocess.run(
        [sys.executable, *command, *verb, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} --help: {done.returncode}\n{done.stderr}")
    return done.stdout.rstrip() + "\n"


def verbs_of(script: str, text: str) -> list[str]:
    """Return `script verb` for each verb that the help of a script lists."""
    found = VERBS.search(text)
    lines = found[1].splitlines() if found else []
    return [f"{script} {line.split()[0]}" for line in lines if not line.startswith(" " * 5)]


def all_help() -> dict[str, str]:
    """Return name -> help text for every script and verb."""
    texts = {}
    for script in SCRIPTS:
        texts[script] = help_of(script)
        texts |= {name: help_of(name) for name in verbs_of(script, texts[script])}
    return texts


def normal(text: str) -> str:
    """Return a help text as all supported Pythons give it: 3.13 writes `-o, --output FILE`."""
    text = re.sub(r"(--?[\w-]+) ([A-Z_]+), (--[\w-]+ \2)\b", r"\1, \3", text)
    return " ".join(text.split())


def blocks(page: str) -> dict[str, str]:
    """Return name -> text of each block of a page."""
    return {found["name"]: found["text"] for found in BLOCK.finditer(page)}


def filled(page: str, texts: dict[str, str]) -> str:
    """Return the page with its blocks filled, without those of commands that are gone."""

    def fill(found: re.Match[str]) -> str:
        name = found["name"]
        return block(name, texts[name]) if name in texts else ""

    written = BLOCK.sub(fill, page)
    missing = [name for name in texts if name not in blocks(page)]
    return written + "".join(f"\n## {name}\n\n{block(name, texts[name])}" for name in missing)


def block(name: str, text: str) -> str:
    """Return one block."""
    return f"<!-- help: {name} -->\n```text\n{text}```\n"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), all_help()), encoding="utf-8")
