#!/usr/bin/env bash
# The tests that need no hardware (lane 1), in an environment of their own, .venv/.
#
#   ./run_tests.sh                       style, types, tests with branch coverage; then the tests
#                                        again without torch on Python 3.10 with numpy 1.x
#   ./run_tests.sh tests/test_x.py -k y  any arguments: pytest alone, with these
#
# The tests run side by side, one process per CPU and at most eight (another number:
# PYTEST_XDIST_AUTO_NUM_WORKERS=1); those marked `alone` come after, one by one. The second pass
# proves Python 3.10, numpy 1.x and the absence of torch, dvc and pandas. It runs every test but
# those marked `once`: long ones whose code does not depend on these, each with its reason.
# tests/lanes.sh runs the lanes that need servers or containers; .ci/run runs everything.
set -uo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
cd -- "${here}" || exit 1
# shellcheck source=environment.sh
source "${here}/environment.sh"

edgejoule_environment .venv any
python="${EDGEJOULE_MADE_PYTHON}"
if (($#)); then
  exec "${python}" -m pytest "$@"
fi

failed=()
# Runs one step, says how long it took, and goes on: one failure must not hide the next.
step() {
  local name="$1" begin="${SECONDS}"
  shift
  printf '\n--- %s\n' "${name}"
  "$@" || failed+=("${name}")
  printf '%s: %d s\n' "${name}" "$((SECONDS - begin))"
}

lane1="not real_driver and not real_servers and not container and not contracts and not browser and not gpu and not jetson"
output="$(mktemp)"
summaries="$(mktemp)"
trap 'rm -f -- "${output}" "${summaries}"' EXIT
trap 'exit 130' INT # pytest ends tidily and bash would go on with the next step
# tests PYTHON "which, as pytest's -m takes it": those of lane 1.
tests() {
  local python="$1" which="${lane1} and $2" status=0
  measured "${python}" -m "${which} and not alone" -n auto --maxprocesses 8 --dist loadfile || status=1
  # Only the files that name the mark: collecting all of them takes as long as these tests.
  local files
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.alone' tests || true)
  measured "${python}" -m "${which} and alone" "${files[@]}" || status=1
  return "${status}"
}
measured() {
  # COVERAGE_FILE is absolute, so that processes started in other folders write beside the rest.
  # tee -i: what pytest says after Ctrl-C is shown too.
  COVERAGE_FILE="${here}/.coverage" "$1" -m coverage run -m pytest "${@:2}" | tee -i "${output}"
  local status="${PIPESTATUS[0]}"
  tail -n 1 "${output}" >>"${summaries}"
  return "${status}"
}

rm -f -- "${here}"/.coverage "${here}"/.coverage.*
step "ruff check" "${python}" -m ruff check .
step "ruff format" "${python}" -m ruff format --check .
step "mypy" "${python}" -m mypy
step "lane 1" tests "${python}" "(once or not once)"
if edgejoule_find_python 3.10 >/dev/null; then
  edgejoule_environment .venv-py310 3.10 --no-default-groups --group numpy1
  step "lane 1 without torch, Python 3.10, numpy 1.x" tests "${EDGEJOULE_MADE_PYTHON}" "not once"
else
  printf '\n--- lane 1 without torch: there is no Python 3.10 on this machine, left out\n'
fi
step "coverage" "${python}" tests/coverage_report.py

printf '\n--- %d s in all\n' "${SECONDS}"
cat -- "${summaries}"
if [[ -n "${EDGEJOULE_SUMMARIES:-}" ]]; then
  cat -- "${summaries}" >>"${EDGEJOULE_SUMMARIES}"
fi
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[*]}" >&2
  exit 1
fi
