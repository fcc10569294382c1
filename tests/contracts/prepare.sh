#!/usr/bin/env bash
# Fetches what the contract tests read, once, into a folder outside the checkout. Prints the folder.
#
#   tests/contracts/prepare.sh
#
# Fetched with uv from the package index that this machine is set to, checked by it; nothing is
# installed into an environment of the project, and no wheel of these is committed:
#   - torch_tensorrt of seven versions: read as text, never imported          (torch_tensorrt.txt)
#   - TensorRT's Python bindings of nine versions, and four libraries that stand in for TensorRT's
#     own so that the bindings can be imported                                (bindings.txt, standin.c)
#   - DagsHub's Python client: read as text, for the addresses that it calls  (dagshub.txt)
#   - TensorRT for RTX with its Torch-TensorRT, for the tests in rtx/         (rtx/requirements.txt)
# EDGEJOULE_CONTRACTS says where it goes (default: edgejoule/contracts in the user's cache folder,
# 0.4 GB). What is fetched stays; delete the folder to fetch it again.
set -uo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
folder="${EDGEJOULE_CONTRACTS:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/edgejoule/contracts}"
# shellcheck source=environment.sh
source "${here}/../../environment.sh"
project="${edgejoule_root}/.venv/bin/python"

say() { printf 'contracts: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 2
}
# Ends with the last line of what was printed by the command that failed.
cannot() {
  local reason
  reason="$(tail -n 1 -- "${folder}/log")"
  die "cannot $1: ${reason}"
}

machine="$(uname -sm)"
[[ "${machine}" == "Linux x86_64" ]] || die "these wheels are for x86-64 Linux, this machine is ${machine}"
[[ -x "${project}" ]] || die "no ${project}; tests/lanes.sh contracts makes it"
command -v gcc >/dev/null 2>&1 || die "no gcc here; on Debian: tests/lanes.sh contracts installs it"
edgejoule_find_uv "${project}"
mkdir -p -- "${folder}" || die "cannot write ${folder}; set EDGEJOULE_CONTRACTS"
folder="$(cd -- "${folder}" && pwd -P)"
exec 9>"${folder}/lock"
flock 9

# unpack TARGET UV-ARGUMENTS...: installs packages alone into a folder, which is there whole or not at all.
unpack() {
  local target="$1" log="${folder}/log"
  shift
  [[ ! -d "${target}" ]] || return 0
  rm -rf -- "${target}.part"
  if ! env -u VIRTUAL_ENV UV_PYTHON_DOWNLOADS=never "${edgejoule_uv}" pip install --quiet --no-deps \
    --target "${target}.part" "$@" >"${log}" 2>&1; then
    rm -rf -- "${target}.part"
    return 1
  fi
  mkdir -p -- "${target%/*}" || return 1
  mv -- "${target}.part" "${target}"
}

# wheel FOLDER PYTHON-VERSION REQUIREMENT: a wheel's content, whatever Python this machine has.
wheel() {
  unpack "$1" --python "${project}" --only-binary :all: --python-version "$2" \
    --python-platform x86_64-manylinux_2_34 "$3"
}

requirements() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' -- "$1"; }

listed="$(requirements "${here}/torch_tensorrt.txt")"
for requirement in ${listed}; do
  wheel "${folder}/torch_tensorrt/${requirement##*==}" 3.10 "${requirement}" ||
    cannot "fetch ${requirement}"
done

listed="$(requirements "${here}/dagshub.txt")"
for requirement in ${listed}; do
  wheel "${folder}/dagshub/${requirement##*==}" 3.10 "${requirement}" ||
    cannot "fetch ${requirement}"
done

# The bindings are imported by an interpreter of their own; not every version has a wheel for every
# Python, and 3.10 is the one that all have.
version="$(cat -- "${folder}/python/version" 2>/dev/null || true)"
if [[ -z "${version}" ]]; then
  python="$(edgejoule_find_python 3.10 || edgejoule_python_file "${project}" any)"
  version="$("${python}" -I -c 'import sys; sys.stdout.write("%d.%d" % sys.version_info[:2])')"
  rm -rf -- "${folder}/python" "${folder}/bindings"
  "${edgejoule_uv}" venv --quiet --python "${python}" "${folder}/python" >"${folder}/log" 2>&1 ||
    cannot "make an environment"
  "${edgejoule_uv}" pip install --quiet --python "${folder}/python/bin/python" numpy \
    >"${folder}/log" 2>&1 || cannot "install numpy"
  printf '%s\n' "${version}" >"${folder}/python/version"
fi
listed="$(requirements "${here}/bindings.txt")"
for requirement in ${listed}; do
  name="${requirement##*==}"
  wheel "${folder}/bindings/${name}" "${version}" "${requirement}" ||
    wheel "${folder}/bindings-3.10/${name}" 3.10 "${requirement}" ||
    cannot "fetch ${requirement}"
  [[ -d "${folder}/bindings/${name}" ]] ||
    say "TensorRT ${name}: no bindings for Python ${version}; its names are only searched for in the file"
done
mkdir -p -- "${folder}/standin"
for library in libnvinfer libnvinfer_plugin libnvonnxparser libnvparsers; do
  for major in 8 10 11; do
    gcc -shared -fPIC -O1 -o "${folder}/standin/${library}.so.${major}" "${here}/standin.c" \
      >"${folder}/log" 2>&1 || cannot "compile standin.c"
  done
done

tag="$("${project}" -I -c 'import sys; sys.stdout.write("cp%d%d" % sys.version_info[:2])')"
pinned="$(sha256sum <"${here}/rtx/requirements.txt")"
pinned="${pinned:0:12}"
# Not only wheels: tensorrt_rtx_cu13 is a package of two lines that is built from source.
unpack "${folder}/rtx-${tag}-${pinned}" --python "${project}" -r "${here}/rtx/requirements.txt" ||
  cannot "fetch TensorRT for RTX"
ln -sfn -- "rtx-${tag}-${pinned}" "${folder}/rtx"
printf '%s\n' "${folder}"
