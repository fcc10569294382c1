"""Ask a package of networks what it lists and how it describes them, in a process of its own.

Describing imports the files of the package, and a file that a user dropped in is foreign code. The
caller may hold a token; the process asked does not (`child_environment`).

Standard library only.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.inference.workload import ModelFacts
from edgejoule.processes import PROJECT_ROOT, child_environment

TIMEOUT_S = 60.0


def listed(reference: str) -> tuple[str, ...]:
    """Return the list of networks named `package:ATTRIBUTE`.

    Raises:
        UsageError: No such package or list.
    """
    return tuple(_ask("list", reference, ()))


def described(reference: str, specs: Sequence[str]) -> list[ModelFacts]:
    """Return what the function named `package:function` says of each of `specs`.

    Raises:
        UsageError: No such function, or its own error for an unknown network.
    """
    found = _ask("facts", reference, specs)
    return [ModelFacts(**{**facts, **_tuples(facts)}) for facts in found]


def _tuples(facts: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(value) for name, value in facts.items() if isinstance(value, list)}


def _ask(question: str, reference: str, specs: Sequence[str]) -> list[Any]:
    # `python -m` with a safe path leaves the project's folder out, where the networks lie.
    path = [*dict.fromkeys([*filter(None, sys.path), str(PROJECT_ROOT)])]
    request = {"question": question, "reference": reference, "specs": list(specs), "path": path}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgejoule.describing"],
            input=json.dumps(request),
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"{reference} did not answer within {TIMEOUT_S:.0f} s", "look at the files in model/"
        ) from error
    try:
        answer = json.loads(done.stdout.splitlines()[-1])  # a foreign file may print before it
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise UsageError(f"{reference} gave no answer: {last}", "mend that file") from error
    if "error" in answer:
        message, mend, exit_code = answer["error"]
        raise UsageError(message, mend, exit_code)
    return list(answer["found"])


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    question, reference = request["question"], request["reference"]
    package, _, attribute = reference.partition(":")
    what = "list" if question == "list" else "description"
    try:
        named = getattr(importlib.import_module(package), attribute)
        if question == "list":
            return {"found": [str(name) for name in named]}
    except (ImportError, AttributeError, TypeError) as error:
        raise UsageError(
            f"no {what} of networks {reference!r} ({error})", "run from the project's folder"
        ) from error
    return {"found": [asdict(named(spec)) for spec in request["specs"]]}


def main() -> int:
    """Answer one question from stdin as the last line of stdout."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    try:
        answer = _answer(request)
    except EdgejouleError as error:
        answer = {"error": [error.message, error.mend, error.exit_code]}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
