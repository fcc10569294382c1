"""Build step: did the project's dependencies leave the base image's own packages alone?

    python3 check_image.py before FILE      in the base image
    python3 check_image.py after FILE       in the environment laid over it

`before` notes version and place of each package that belongs to the base, and what `pip check` says
of it; `after` fails if one of them changed, if `pip check` has a new complaint, or if a package of
ours cannot be imported. pip alone would not do: pyarrow 26, for one, needs numpy 2 at import and
declares nothing.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

BASE = ("torch", "torchvision", "torch_tensorrt", "tensorrt", "numpy")
OURS = (
    "numpy",
    "pyarrow.parquet",
    "rich",
    "jsonschema",
    "onnx",
    "onnxruntime",
    "dvc.api",
    "dvc_http",
)


def base_packages() -> dict[str, list[str]]:
    """Return version and place of each package of the base that is there."""
    found = {}
    for name in BASE:
        spec = importlib.util.find_spec(name)  # not imported: no GPU driver while an image is built
        if spec is not None:
            try:
                version = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                version = "unknown"
            found[name] = [version, str(spec.origin)]
    return found


def pip_complaints() -> list[str]:
    """Return the lines of `pip check`, none if all is well."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    return sorted(done.stdout.splitlines()) if done.returncode else []


def main() -> int:
    """Write the note or compare with it."""
    moment, file = sys.argv[1], Path(sys.argv[2])
    now = {"packages": base_packages(), "complaints": pip_complaints()}
    if moment == "before":
        file.write_text(json.dumps(now, indent=2), encoding="utf-8")
        return 0
    then = json.loads(file.read_text(encoding="utf-8"))
    wrong = [
        f"{name}: was {then['packages'].get(name)}, is {now['packages'].get(name)}"
        for name in BASE
        if then["packages"].get(name) != now["packages"].get(name)
    ]
    wrong += [line for line in now["complaints"] if line not in then["complaints"]]
    for name in OURS:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 (whatever an import raises, the image is wrong)
            wrong.append(f"import {name}: {type(error).__name__}: {error}")
    for line in wrong:
        print(f"image: {line}", file=sys.stderr)
    for name, (version, place) in now["packages"].items():
        print(f"image: {name} {version} of the base, {place}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
