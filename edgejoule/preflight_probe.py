"""Processes of the preflight: what may take longer than it may last, and is then killed.

    python -m edgejoule.preflight_probe backend NAME DTYPE FORM[,FORM]
    python -m edgejoule.preflight_probe server OWNER NAME    (an empty OWNER is the token's user)

Each prints one JSON object. `backend`: `backend`, `form`, `device`, `dtype`, `why`,
`options`. `server`:
`label`, `exists`, `writable`, `user`, `owner`. Either: `error`, `mend`, `exit_code`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from edgejoule.errors import EdgejouleError
from edgejoule.processes import hide_environment


def probe_backend(name: str, dtype: str, forms: tuple[str, ...]) -> dict[str, object]:
    """Choose a backend by trying, as a measurement does, and say what it is."""
    from edgejoule.inference.backends import choose_backend, resolve_device, resolve_dtype

    chosen, why = choose_backend(name, forms, dtype)
    device = resolve_device(chosen, None)
    resolved = resolve_dtype(chosen, device, dtype)
    return {
        "backend": chosen.name,
        "form": chosen.form,
        "device": device,
        "dtype": resolved,
        "why": list(why),
        "options": list(chosen.options),
    }


def probe_server(owner: str, name: str) -> dict[str, object]:
    """Ask the dataset's server what the token may do."""
    from edgejoule.dataset.versions.dagshub import check_access

    access = check_access(owner or None, name)
    return {
        "label": access.label,
        "exists": access.exists,
        "writable": access.writable,
        "user": access.user,
        "owner": access.owner,
    }


def main(arguments: Sequence[str]) -> None:
    """Print what was asked for as one JSON object."""
    hide_environment()
    kind, *rest = arguments
    try:
        if kind == "backend":
            said = probe_backend(rest[0], rest[1], tuple(rest[2].split(",")))
        else:
            said = probe_server(rest[0], rest[1])
    except EdgejouleError as error:
        said = {"error": error.message, "mend": error.mend, "exit_code": error.exit_code}
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1:])
