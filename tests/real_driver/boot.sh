#!/usr/bin/env bash
# Runs a Python program of this checkout on an emulated arm64 machine with the unmodified Linux driver
# of the INA3221.
#
#   tests/real_driver/boot.sh [options] BOARD PROGRAM [ARGUMENT...]
#
#   BOARD    orin-nano (its tree is that of the Orin NX too), agx-orin, single-shot (no board is so)
#   PROGRAM  a Python file, its path from the checkout's root; it runs as root under CPython 3.11 with
#            the standard library, and can import everything of the checkout that needs no more
#   --driver 6.1|5.10   whose driver: 6.1 (as JetPack 6's: a read returns at once, the default), or
#                       5.10 (as JetPack 5's: every read waits for a conversion)
#   --out FOLDER        where the files come that the program leaves in $OUT, its working folder
#   --limit SECONDS     of real time, after which the machine is ended (default 240)
#
# The program's stdout, stderr and exit status are this script's. Other exit statuses: 2 wrong usage or
# something is missing on this machine, 124 the limit, 125 the machine ended without a result.
#
# The sensor is found below /sys as on a board; what the chips measure is up to the program:
# tests/real_driver/guest/chip.py writes registers and plays tables of conversions.
#
# Time in the guest is counted in instructions (2 ns each, sleeping costs nothing): its clock does not
# depend on how busy this machine is, and a run repeats but for what is random in the program. So times
# measured in the guest are good for comparing one way of reading with another, not as a board's.
#
# Needs no root, no network after the first time (prepare.sh), no /dev/kvm.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
root="$(cd -- "${here}/../.." && pwd -P)"

die() {
  printf 'boot.sh: %s\n' "$1" >&2
  exit "${2:-2}"
}

driver=6.1
out=""
limit=240
while [[ "${1:-}" == --* ]]; do
  (($# >= 2)) || die "$1 needs a value"
  case "$1" in
    --driver) driver="$2" ;;
    --out) out="$2" ;;
    --limit) limit="$2" ;;
    *) die "no option $1; options: --driver, --out, --limit" ;;
  esac
  shift 2
done
(($# >= 2)) || die "give a board and a program: tests/real_driver/boot.sh orin-nano measure_power.py rails"
board="$1"
program="$2"
shift 2
[[ "${board}" =~ ^(orin-nano|agx-orin|single-shot)$ ]] || die "no board ${board}; boards: orin-nano, agx-orin, single-shot"
[[ "${driver}" =~ ^(6\.1|5\.10)$ ]] || die "no driver ${driver}; drivers: 6.1, 5.10"
[[ -f "${root}/${program}" ]] || die "no file ${program} in the checkout"
if [[ -n "${out}" ]]; then
  mkdir -p -- "${out}"
  out="$(cd -- "${out}" && pwd -P)"
fi

rig="$("${here}/prepare.sh")"
run="$(mktemp -d)"
trap 'rm -rf -- "${run}"' EXIT

# The checkout's Python files and the command travel in a second archive, which the kernel unpacks over
# the first. (A file system shared with this machine would wait for it, while the guest's clock, which
# counts instructions, ran ahead.)
mkdir -p -- "${run}/tree/checkout"
(cd -- "${root}" && find . -name '.?*' -prune -o -type f \( -name '*.py' -o -path "./${program}" \) -print0 |
  cpio --quiet -0 -pdm "${run}/tree/checkout")
{
  printf 'export PYTHONPATH=/checkout PYTHONPYCACHEPREFIX=/tmp/pycache\n'
  printf 'exec python3'
  printf ' %q' "/checkout/${program}" "$@"
  printf '\n'
} >"${run}/tree/job"
(cd -- "${run}/tree" && find . -print0 | cpio --quiet -0 -o -H newc -R 0:0 >"${run}/checkout.cpio")
cat -- "${rig}/root.cpio" "${run}/checkout.cpio" >"${run}/initrd"

status=0
cd -- "${run}" # QEMU takes a comma in a path for the end of it
timeout --kill-after=5 "${limit}" qemu-system-aarch64 \
  -M virt,gic-version=3 -cpu cortex-a57 -smp 1 -m 512 -accel tcg -icount shift=1,sleep=off \
  -nodefaults -display none -monitor none -no-reboot -dtb "${rig}/machine.dtb" \
  -kernel "${rig}/vmlinuz" -initrd "${run}/initrd" \
  -append "console=ttyAMA0 quiet panic=-1 edgejoule.board=${board} edgejoule.driver=${driver/./_}" \
  -serial file:console -chardev file,id=result,path=result.tar \
  -device virtio-serial-device -device virtserialport,chardev=result \
  </dev/null >"${run}/qemu" 2>&1 || status=$?
if ! tar -C "${run}" -xf "${run}/result.tar" 2>/dev/null || [[ ! -s "${run}/status" ]]; then
  tail -n 20 -- "${run}/qemu" "${run}/console" >&2
  ((status == 124)) && die "the machine did not end within ${limit} s" 124
  die "the machine ended without a result" 125
fi
if [[ -n "${out}" ]]; then
  cp -R -- "${run}/out/." "${out}/"
  cp -- "${run}/kernel.log" "${out}/"
fi
cat -- "${run}/stdout"
cat -- "${run}/stderr" >&2
read -r status <"${run}/status"
exit "${status}"
