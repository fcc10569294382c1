#!/usr/bin/env bash
# Lanes 2 to 8: installs what each needs from Debian's packages (as root or with sudo), then runs it
# with skips forbidden. Lane 1 is ./run_tests.sh.
#
#   tests/lanes.sh                  all of them
#   tests/lanes.sh container        one
#   tests/lanes.sh jetson           on a board: ends in one page of facts, jetson-facts.md
#
# Where the packages cannot be installed a lane says so and is left out; with CI=true that fails.
set -uo pipefail
from="${PWD}"
root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
cd -- "${root}" || exit 1
# shellcheck source=environment.sh
source "${root}/environment.sh"

wanted="${*:-real_driver real_servers container browser gpu jetson contracts}"
failed=()
output="$(mktemp)"
summaries="$(mktemp)"
trap 'rm -f -- "${output}" "${summaries}"' EXIT
trap 'exit 130' INT # pytest ends tidily and bash would go on with the next lane

sudo=()
[[ "${EUID}" == 0 ]] || sudo=(sudo -n)
updated=no
# Runs apt-get, which serves one at a time: .ci/run has two of these scripts running.
apt() {
  (flock 8 && ${sudo[@]+"${sudo[@]}"} env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get "$@") \
    8>"${TMPDIR:-/tmp}/edgejoule-apt-${EUID}.lock" >"${output}" 2>&1
}
# Installs packages unless all the given commands are there: install "commands" "packages".
install() {
  local missing=no name
  for name in $1; do
    PATH="${PATH}:/usr/sbin:/sbin" command -v "${name}" >/dev/null 2>&1 || missing=yes
  done
  [[ "${missing}" == yes ]] || return 0
  command -v apt-get >/dev/null 2>&1 || return 1
  if [[ "${updated}" == no ]]; then
    apt update -qq || return 1
    updated=yes
  fi
  # RUNLEVEL=1: a package that brings a service must not start it.
  # shellcheck disable=SC2086 # a list of packages
  apt install -y -qq --no-install-recommends $2
}

# The page's driver is in a group of its own: what the other lanes need stays as small as it is.
browser_environment() { (edgejoule_environment .venv any --group browser); }

# lane NUMBER NAME "commands" "packages" [a command that fetches more]
lane() {
  local begin="${SECONDS}"
  printf '\n--- lane %s (%s)\n' "$1" "$2"
  if ! install "$3" "$4"; then
    tail -n 3 "${output}" | sed -E 's#[a-z]+://[^ ]*#...#g'
    printf 'lane %s (%s): left out, cannot install: %s\n' "$1" "$2" "$4"
    [[ "${CI:-}" != true ]] || failed+=("$2")
    return
  fi
  [[ -n "${EDGEJOULE_MADE_PYTHON:-}" ]] || edgejoule_environment .venv any
  if [[ -n "${5:-}" ]] && ! "$5" 2>&1 >/dev/null | sed -E 's#[a-z]+://[^ ]*#...#g'; then
    printf 'lane %s (%s): left out, %s failed\n' "$1" "$2" "$5"
    [[ "${CI:-}" != true ]] || failed+=("$2")
    return
  fi
  # Only the files that name the mark: collecting all of them imports torch and takes half a minute.
  local files
  mapfile -t files < <(grep -rlE --include='test_*.py' "mark\.$2\>" tests || true)
  EDGEJOULE_FORBID_SKIPS=1 "${EDGEJOULE_MADE_PYTHON}" -m pytest -m "$2" "${files[@]}" |
    tee -i "${output}"
  [[ "${PIPESTATUS[0]}" == 0 ]] || failed+=("$2")
  tail -n 1 "${output}" >>"${summaries}"
  printf 'lane %s (%s): %d s\n' "$1" "$2" "$((SECONDS - begin))"
}

# Lane 7 is for a board's owner and runs in the board's own Python: without it nothing is tested there.
jetson_lane() {
  local begin="${SECONDS}" tegra
  # A container hides the device tree; soc0 stays visible.
  tegra="$(cat /proc/device-tree/compatible /sys/devices/soc0/family 2>/dev/null | tr -d '\0' || true)"
  if [[ "${tegra,,}" != *tegra* && ! -e /etc/nv_tegra_release ]]; then
    printf 'lane 7 (jetson): no Jetson here; on a board: tests/lanes.sh jetson\n'
    return
  fi
  printf '\n--- lane 7 (jetson)\n'
  (cd -- "${from}" && "${root}/tests/jetson/run.sh") || failed+=(jetson)
  printf 'lane 7 (jetson): %d s\n' "$((SECONDS - begin))"
}

for name in ${wanted}; do
  case "${name}" in
    real_driver)
      lane 2 real_driver "qemu-system-aarch64 dtc fdtoverlay cpio make xz aarch64-linux-gnu-gcc" \
        "qemu-system-arm device-tree-compiler cpio make xz-utils gcc-aarch64-linux-gnu" \
        tests/real_driver/prepare.sh
      ;;
    real_servers)
      PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -n 2 --dist loadfile --durations=10" \
        lane 3 real_servers "nginx fcgiwrap git" "nginx fcgiwrap git"
      ;;
    container)
      lane 4 container "buildah podman runc mmdebstrap" \
        "buildah podman runc uidmap netavark aardvark-dns mmdebstrap debian-archive-keyring"
      ;;
    browser) lane 5 browser chromium chromium browser_environment ;;
    gpu) printf 'lane 6 (gpu): needs an NVIDIA GPU; run it there: ./run_tests.sh -m gpu\n' ;;
    jetson) jetson_lane ;;
    contracts) lane 8 contracts gcc "gcc libc6-dev" tests/contracts/prepare.sh ;;
    *) edgejoule_die "no lane ${name}; lanes: real_driver real_servers container browser gpu jetson contracts" ;;
  esac
done

printf '\n--- lanes: %d s\n' "${SECONDS}"
cat -- "${summaries}"
if [[ -n "${EDGEJOULE_SUMMARIES:-}" ]]; then
  cat -- "${summaries}" >>"${EDGEJOULE_SUMMARIES}"
fi
if ((${#failed[@]})); then
  printf 'failed lanes: %s\n' "${failed[*]}" >&2
  exit 1
fi
