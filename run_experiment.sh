#!/usr/bin/env bash
# The default experiment. Every knob is an environment variable; see docs/ExperimentScripts.md.
#
#   ./run_experiment.sh --demo       on any machine; makes its own environment, .venv-demo/
#   ./run_experiment.sh --check      what stands in the way of a good measurement here
#   ./run_experiment.sh --dry-run    what would be measured, how long, how much
#
# Which Python: EDGEJOULE_PYTHON if it is set (the container sets it); with --demo .venv-demo/; else
# .venv/ if it is there; else python3, if it has what the project needs.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"

demo=no
for argument in "$@"; do
  [[ "${argument}" != --demo ]] || demo=yes
done

if [[ -n "${EDGEJOULE_PYTHON:-}" ]]; then
  python="${EDGEJOULE_PYTHON}"
elif [[ "${demo}" == yes ]]; then
  # shellcheck source=environment.sh
  source "${here}/environment.sh"
  edgejoule_environment .venv-demo any --no-default-groups --group demo --no-install-project
  python="${EDGEJOULE_MADE_PYTHON}"
elif [[ -x "${here}/.venv/bin/python" ]]; then
  python="${here}/.venv/bin/python"
else
  python=python3
fi

needed='import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in ("numpy", "pyarrow", "rich", "jsonschema")))'
if ! "${python}" -c "${needed}" 2>/dev/null; then
  printf 'error: %s lacks what edgejoule needs; %s\n' "${python}" \
    'make an environment with: uv sync --frozen (x86), or see docs/Container.md (Jetson); without either: ./run_experiment.sh --demo' >&2
  exit 2
fi

# The project's folder first, so that this works from any working directory.
export PYTHONPATH="${here}${PYTHONPATH:+:${PYTHONPATH}}"
export PYTHONSAFEPATH=1
exec "${python}" -m edgejoule.cli.run_experiment "$@"
