"""A process that tries the backend, because importing a framework takes long and much memory.

`python -m edgejoule.preflight_probe BACKEND DTYPE FORM[,FORM]` prints one JSON object: `backend`,
`form`, `device`, `dtype` and `why`, or `error`, `mend` and `exit_code`.
"""

from __future__ import annotations

import json
import sys

from edgejoule.errors import EdgejouleError


def probe(backend: str, dtype: str, forms: tuple[str, ...]) -> dict[str, object]:
    """Choose a backend by trying, as a measurement does, and say what it is."""
    from edgejoule.inference.backends import choose_backend, choose_device, resolve_dtype

    try:
        chosen, why = choose_backend(backend, forms)
        device = choose_device(chosen, None)
        resolved = resolve_dtype(chosen, device, dtype)
    except EdgejouleError as error:
        return {"error": error.message, "mend": error.mend, "exit_code": error.exit_code}
    return {
        "backend": chosen.name,
        "form": chosen.form,
        "device": device,
        "dtype": resolved,
        "why": list(why),
    }


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], sys.argv[2], tuple(sys.argv[3].split(",")))))
