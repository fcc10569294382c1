# shellcheck shell=bash
# Environments on a machine that has only Python. Sourced by run_experiment.sh and run_tests.sh.
#
#   edgejoule_environment FOLDER VERSION UV-ARGUMENTS...
#       Makes or refreshes the environment FOLDER of this project from uv.lock and sets
#       EDGEJOULE_MADE_PYTHON to its interpreter. VERSION is a Python version (3.10) or "any".
#
# Everything lands in ignored folders of the project: the environments, and .uv/ with uv and its
# cache where the machine has no uv of its own. Nothing is installed into the system's Python, so it
# does not matter whether that refuses it (PEP 668). Bash 3.2 will do.

edgejoule_root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
edgejoule_uv_version=0.13.8    # what is fetched
edgejoule_uv_oldest=0.6    # what is accepted; tried down to 0.5.31

edgejoule_die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Prints the interpreter FILE behind a command, if it is a Python of VERSION ("any": 3.10 to 3.13).
# uv is given files: behind pyenv's shims it finds no Python by version.
edgejoule_python_file() {
  "$1" -I -c '
import sys
wanted, own = sys.argv[1], sys.version_info[:2]
fits = (3, 10) <= own <= (3, 13) if wanted == "any" else "%d.%d" % own == wanted
sys.stdout.write(sys.executable + "\n" if fits else "")
' "$2" 2>/dev/null
}

# Prints the first fitting interpreter: PATH first, then where pyenv and uv keep theirs.
edgejoule_find_python() {
  local wanted="$1" candidate file versions="3.13 3.12 3.11 3.10"
  [[ "${wanted}" == any ]] || versions="${wanted}"
  local candidates=(python3 python)
  for candidate in ${versions}; do
    candidates+=("python${candidate}")
  done
  for candidate in ${versions}; do
    candidates+=("${PYENV_ROOT:-${HOME:-/}/.pyenv}/versions/${candidate}".*/bin/python3)
    candidates+=("${HOME:-/}/.local/share/uv/python/cpython-${candidate}".*/bin/python3)
    candidates+=("/usr/bin/python${candidate}" "/usr/local/bin/python${candidate}")
  done
  for candidate in "${candidates[@]}"; do
    file="$(edgejoule_python_file "${candidate}" "${wanted}")" || continue
    if [[ -n "${file}" ]]; then
      printf '%s\n' "${file}"
      return 0
    fi
  done
  return 1
}

# Prints what was wrong and the command that installs a package here ($2, Debian's name), and ends.
edgejoule_lacks() {
  local name sudo="sudo "
  [[ "${EUID}" != 0 ]] || sudo=""
  for name in apt-get dnf zypper pacman apk; do
    if command -v "${name}" >/dev/null 2>&1; then
      case "${name}" in
        apt-get) edgejoule_die "$1; type: ${sudo}apt-get update && ${sudo}apt-get install -y $2" ;;
        pacman) edgejoule_die "$1; type: ${sudo}pacman -S python-pip" ;;
        apk) edgejoule_die "$1; type: ${sudo}apk add py3-pip" ;;
        *) edgejoule_die "$1; type: ${sudo}${name} install -y python3-pip" ;;
      esac
    fi
  done
  edgejoule_die "$1; install a Python 3.10 to 3.13 with pip"
}

# Succeeds if a uv is new enough for this lock.
edgejoule_uv_fits() {
  local text major minor oldest="${edgejoule_uv_oldest#*.}"
  text="$("$1" --version 2>/dev/null)" || return 1
  text="${text#uv }"
  major="${text%%.*}"
  text="${text#*.}"
  minor="${text%%.*}"
  [[ "${major}" =~ ^[0-9]+$ && "${minor}" =~ ^[0-9]+$ ]] || return 1
  ((major > 0 || minor >= oldest))
}

# Sets edgejoule_uv: the machine's own, or the one in .uv/, fetched there with pip if need be.
edgejoule_find_uv() {
  local python="$1" home="${edgejoule_root}/.uv" log
  edgejoule_uv="$(command -v uv || true)"
  if [[ -n "${edgejoule_uv}" ]] && edgejoule_uv_fits "${edgejoule_uv}"; then
    return 0
  fi
  export UV_CACHE_DIR="${UV_CACHE_DIR:-${home}/cache}" # no uv here yet: its cache belongs to this folder too
  for edgejoule_uv in "${home}/venv/bin/uv" "${home}/lib/bin/uv"; do
    if edgejoule_uv_fits "${edgejoule_uv}"; then
      return 0
    fi
  done
  local way=""
  if "${python}" -I -c 'import ensurepip, venv' 2>/dev/null; then
    way=venv
  elif "${python}" -m pip --version >/dev/null 2>&1; then
    way=target # Debian without python3-venv; PEP 668 does not refuse --target
  else
    edgejoule_lacks "${python} has neither pip nor venv" python3-venv
  fi
  mkdir -p -- "${home}" || edgejoule_die "cannot write in ${edgejoule_root}; check who owns the folder"
  log="${home}/install.log"
  printf 'fetching uv %s into .uv/ ...\n' "${edgejoule_uv_version}" >&2
  # A user's pip settings must not turn this into an install elsewhere, or refuse it.
  if [[ "${way}" == venv ]]; then
    if "${python}" -I -m venv -- "${home}/venv" >"${log}" 2>&1 &&
      PIP_USER=0 "${home}/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        "uv==${edgejoule_uv_version}" >>"${log}" 2>&1; then
      edgejoule_uv="${home}/venv/bin/uv"
      return 0
    fi
  else
    if PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 "${python}" -m pip install --quiet \
      --disable-pip-version-check --upgrade --target "${home}/lib" \
      "uv==${edgejoule_uv_version}" >"${log}" 2>&1; then
      edgejoule_uv="${home}/lib/bin/uv"
      return 0
    fi
  fi
  tail -n 3 -- "${log}" >&2
  edgejoule_die "could not fetch uv (see .uv/install.log); is the network there? Or install uv yourself and start again"
}

edgejoule_environment() {
  local folder="${edgejoule_root}/$1" wanted="$2" python existing
  shift 2
  local choice=()
  EDGEJOULE_MADE_PYTHON="${folder}/bin/python"
  existing="$(edgejoule_python_file "${EDGEJOULE_MADE_PYTHON}" "${wanted}" || true)"
  if [[ -n "${existing}" ]]; then
    python="${existing}" # keep the interpreter it was made with
  else
    python="$(edgejoule_find_python "${wanted}")" ||
      edgejoule_lacks "no Python ${wanted/any/3.10 to 3.13} on this machine" python3-venv
    choice=(--python "${python}")
  fi
  edgejoule_find_uv "${python}"
  if [[ -z "${existing}" ]]; then
    printf 'making the environment %s/ (once) ...\n' "${folder##*/}" >&2
  fi
  env -u VIRTUAL_ENV UV_PROJECT_ENVIRONMENT="${folder}" UV_PYTHON_DOWNLOADS=never \
    "${edgejoule_uv}" sync --project "${edgejoule_root}" --frozen --quiet \
    ${choice[@]+"${choice[@]}"} "$@" ||
    edgejoule_die "could not make ${folder##*/}/; is the network there? Start again, it goes on where it stopped"
}
