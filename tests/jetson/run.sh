#!/usr/bin/env bash
# The lane `jetson`: what only a board can tell. Ends in one page, jetson-facts.md, in the current
# folder; it holds no serial numbers, addresses or names, read it and send it.
#
#   tests/jetson/run.sh                 everything: 15 to 40 minutes on an Orin Nano
#   tests/jetson/run.sh -k "not runs"   without whole runs: some minutes
#
# Which Python: EDGEJOULE_PYTHON (the container sets it), else python3, the one that sees the board's
# TensorRT. What it lacks for the tests is laid over it in .venv-jetson/; nothing else is changed.
# Any machine with TensorRT will do; without it the page says little.
set -uo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
root="$(cd -- "${here}/../.." && pwd -P)"
# shellcheck source=environment.sh
source "${root}/environment.sh"

needed="import numpy, pyarrow, scipy, jsonschema, rich, onnx, onnxruntime, pytest, pytest_timeout"
python="${EDGEJOULE_PYTHON:-$(command -v python3 || true)}"
[[ -n "${python}" ]] || edgejoule_die "no python3 here; set EDGEJOULE_PYTHON"
if ! "${python}" -c "${needed}" 2>/dev/null; then
  overlay="${root}/.venv-jetson"
  if ! "${overlay}/bin/python" -c "${needed}" 2>/dev/null; then
    edgejoule_find_uv "${python}"
    printf 'laying what the tests need over %s, in .venv-jetson/ (once) ...\n' "${python}" >&2
    own=()
    if "${python}" -c "import numpy" 2>/dev/null; then
      own=(--no-install-package numpy) # the board's torch and tensorrt were built with it
    fi
    "${edgejoule_uv}" venv --quiet --allow-existing --system-site-packages --python "${python}" \
      "${overlay}" || edgejoule_die "could not make .venv-jetson/"
    env -u VIRTUAL_ENV UV_PROJECT_ENVIRONMENT="${overlay}" UV_PYTHON_DOWNLOADS=never \
      "${edgejoule_uv}" sync --project "${root}" --frozen --quiet --inexact --no-default-groups \
      --group jetson --no-install-project ${own[@]+"${own[@]}"} ||
      edgejoule_die "could not fill .venv-jetson/; is the network there?"
    "${edgejoule_uv}" pip install --quiet --python "${overlay}/bin/python" \
      "pytest>=8" "pytest-timeout>=2.3" ||
      edgejoule_die "could not install pytest into .venv-jetson/; is the network there?"
  fi
  python="${overlay}/bin/python"
fi

rm -f -- jetson-facts.md
"${python}" -m pytest -p no:cacheprovider -c "${root}/pyproject.toml" --rootdir "${root}" -q \
  -m jetson "${here}" "$@"
status="$?"
if ((status > 128)); then
  # A crash in a library took the tests along; the page is written after each of them.
  printf '\nthe tests were ended by signal %d; the page says in which\n\n' "$((status - 128))"
  cat -- jetson-facts.md
fi
exit "${status}"
