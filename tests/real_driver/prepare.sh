#!/usr/bin/env bash
# Fetches and builds what boot.sh boots, once, into a folder outside the checkout. Prints the folder.
#
#   tests/real_driver/prepare.sh
#
# Fetched from the Debian mirror that this machine's apt is set to, checked by apt's signatures, with
# apt lists of our own: the machine's architectures, lists and packages stay as they are. Root is not
# needed. Not in the repository, because it is other people's work under other licences:
#   - Debian 12's arm64 kernel and headers, busybox, and CPython 3.11 for arm64
#   - drivers/hwmon/ina3221.c of Debian's kernel sources 6.1 and 5.10, both compiled as they are
# EDGEJOULE_RIG says where it goes (default: edgejoule/real_driver in the user's cache folder, 0.3 GB).
# What is fetched stays; delete the folder to fetch newer packages.
set -euo pipefail
here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
rig="${EDGEJOULE_RIG:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/edgejoule/real_driver}"
suite=bookworm
older=bullseye
modules=(virtio virtio_ring virtio_mmio virtio_console i2c-dev) # in the order of loading
keys=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'real_driver: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 2
}

commands=(apt-get dpkg-deb qemu-system-aarch64 dtc fdtoverlay cpio make aarch64-linux-gnu-gcc xz flock)
for name in "${commands[@]}"; do
  command -v "${name}" >/dev/null 2>&1 || die "no ${name} here; on Debian: tests/lanes.sh real_driver installs it"
done
machine="$(dpkg --print-architecture)"
[[ "${machine}" == amd64 ]] || die "the kernel's build tools are fetched for amd64, this machine is ${machine}"
[[ -r "${keys}" ]] || die "no ${keys}; install debian-archive-keyring"
# The kernel's build takes no such path. The checkout may have one: nothing is built there.
[[ "${rig}" != *[[:space:]:,]* ]] || die "no space, colon or comma may be in ${rig}; set EDGEJOULE_RIG"

mkdir -p -- "${rig}"
rig="$(cd -- "${rig}" && pwd -P)"
exec 9>"${rig}/lock"
flock 9

# apt_lists FOLDER "SUITE..." "ARCHITECTURES": lists of our own for these suites of the machine's mirror.
apt_lists() {
  local folder="${rig}/$1" lines="" uri name security
  rm -rf -- "${folder}"
  mkdir -p -- "${folder}"/{state/lists/partial,cache/archives/partial}
  : >"${folder}/status"
  for name in $2; do
    security=""
    [[ "${name}" != *-security ]] || security=-security
    # What the machine's apt would fetch tells its mirrors, whatever format its sources have.
    uri="$(env -u APT_CONFIG apt-get update --print-uris 2>/dev/null |
      sed -n "s#^'\(.*/debian${security}\)/dists/.*#\1#p" | sed -n 1p)"
    [[ -n "${uri}" ]] || continue
    lines+="deb [signed-by=${keys} arch=${3// /,}] ${uri} ${name} main"$'\n'
  done
  [[ -n "${lines}" ]] || die "this machine's apt names no Debian mirror; run the lane on a Debian machine"
  printf '%s' "${lines}" >"${folder}/sources.list"
  # Hooks of the machine's apt configuration are for the machine's own lists.
  cat >"${folder}/apt.conf" <<END
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "${folder}/state";
Dir::State::lists "lists";
Dir::State::status "${folder}/status";
Dir::Cache "${folder}/cache";
Dir::Etc::sourcelist "${folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
END
  export APT_CONFIG="${folder}/apt.conf"
  apt-get -qq update
}

# fetch FOLDER PACKAGE...: downloads packages into a folder.
fetch() {
  local folder="${rig}/$1"
  shift
  mkdir -p -- "${folder}"
  (cd -- "${folder}" && apt-get -qq download "$@")
}

# driver_source PACKAGE VERSION: takes the driver alone out of a package with a kernel's source.
driver_source() {
  local package="$1" path="linux-source-$2/drivers/hwmon/ina3221.c"
  # tar stops at the file, and those before it in the pipe complain.
  dpkg-deb --fsys-tarfile "${package}" 2>/dev/null | tar -xO "./usr/src/linux-source-$2.tar.xz" |
    xz -dc | tar -xO --occurrence=1 "${path}" >"${rig}/ina3221-$2.c" || [[ -s "${rig}/ina3221-$2.c" ]]
}

if [[ ! -e "${rig}/fetched" ]]; then
  say "fetching Debian's arm64 kernel and Python (once, about 250 MB) ..."
  rm -rf -- "${rig}/packages" "${rig}/kernel" "${rig}/guest"
  apt_lists apt "${suite} ${suite}-security" "amd64 arm64"
  abi="$(apt-cache depends linux-image-arm64:arm64 | sed -n 's/.*linux-image-\(6\.1\.0-[0-9]*\)-arm64.*/\1/p' | sed -n 1p)"
  [[ -n "${abi}" ]] || die "no linux-image-arm64 in ${suite}"
  fetch packages/kernel "linux-image-${abi}-arm64:arm64" "linux-headers-${abi}-arm64:arm64" \
    "linux-headers-${abi}-common" linux-kbuild-6.1:amd64
  fetch packages/guest {busybox-static,python3.11-minimal,libpython3.11-minimal,libpython3.11-stdlib}:arm64 \
    {libc6,zlib1g,libexpat1,libffi8}:arm64
  fetch packages/source linux-source-6.1
  driver_source "${rig}"/packages/source/linux-source-6.1_*.deb 6.1
  mkdir -p -- "${rig}/kernel" "${rig}/guest"
  for package in "${rig}"/packages/kernel/*.deb; do dpkg-deb -x "${package}" "${rig}/kernel"; done
  for package in "${rig}"/packages/guest/*.deb; do dpkg-deb -x "${package}" "${rig}/guest"; done
  # Of 4000 modules the guest loads a few.
  mkdir -- "${rig}/kernel/modules"
  for name in "${modules[@]}"; do
    find "${rig}/kernel/lib" -name "${name}.ko" -exec mv -- {} "${rig}/kernel/modules/" \;
  done
  rm -rf -- "${rig}/packages" "${rig}/apt" "${rig}/kernel/lib"
  printf '%s\n' "${abi}" >"${rig}/fetched"
fi
if [[ ! -e "${rig}/fetched-older" ]]; then
  say "fetching the driver of Linux 5.10 (once, about 120 MB) ..."
  apt_lists apt-older "${older}" amd64
  fetch packages linux-source-5.10
  driver_source "${rig}"/packages/linux-source-5.10_*.deb 5.10
  rm -rf -- "${rig}/packages" "${rig}/apt-older"
  : >"${rig}/fetched-older"
fi

abi="$(cat -- "${rig}/fetched")"
built="$(cat -- "${here}"/prepare.sh "${here}"/init "${here}"/boards.dts "${here}"/kernel/* "${rig}"/ina3221-*.c | sha256sum)"
known="$(cat -- "${rig}/built" 2>/dev/null || true)"
if [[ "${known}" != "${abi} ${built}" ]]; then
  say "building the drivers and the guest ..."
  rm -f -- "${rig}/built"
  # --- the drivers, and the chip they talk to
  headers="${rig}/kernel/usr/src"
  sed -i "s|^include /usr/src|include ${headers}|" "${headers}/linux-headers-${abi}-arm64/Makefile"
  rm -rf -- "${rig}/modules"
  mkdir -- "${rig}/modules"
  cp -- "${here}"/kernel/* "${rig}/modules/"
  cp -- "${rig}/ina3221-6.1.c" "${rig}/modules/ina3221_6_1.c"
  cp -- "${rig}/ina3221-5.10.c" "${rig}/modules/ina3221_5_10.c"
  make -s -C "${headers}/linux-headers-${abi}-arm64" "M=${rig}/modules" ARCH=arm64 \
    CROSS_COMPILE=aarch64-linux-gnu- KBUILD_MODPOST_WARN=1 modules >"${rig}/modules/log" 2>&1 ||
    die "the kernel modules do not build, see ${rig}/modules/log"
  # --- the guest: Debian's files without what nothing there reads
  root="${rig}/root"
  rm -rf -- "${root}"
  mkdir -p -- "${root}"/{dev,proc,sys,tmp,modules,etc}
  cp -a -- "${rig}/guest/." "${root}/"
  python="${root}/usr/lib/python3.11"
  rm -rf -- "${root:?}"/usr/share "${root}"/etc/init.d "${python}"/{lib2to3,pydoc_data,ensurepip,distutils}
  ln -sf python3.11 "${root}/usr/bin/python3"
  for name in ina3221_6_1 ina3221_5_10 ina3221_model; do
    aarch64-linux-gnu-strip -g -o "${root}/modules/${name}.ko" "${rig}/modules/${name}.ko"
  done
  : >"${root}/modules/order"
  for name in "${modules[@]}"; do
    [[ -e "${rig}/kernel/modules/${name}.ko" ]] || continue # built in
    cp -- "${rig}/kernel/modules/${name}.ko" "${root}/modules/"
    printf '%s\n' "${name}" >>"${root}/modules/order"
  done
  install -m 755 -- "${here}/init" "${root}/init"
  (cd -- "${root}" && find . -print0 | cpio --quiet -0 -o -H newc -R 0:0 >"${rig}/root.cpio")
  rm -rf -- "${root}"
  # --- the machine and its boards
  cp -- "${rig}/kernel/boot/vmlinuz-${abi}-arm64" "${rig}/vmlinuz"
  qemu-system-aarch64 -M virt,gic-version=3,dumpdtb="${rig}/virt.dtb" -cpu cortex-a57 -m 512 -nic none \
    -display none >/dev/null 2>&1 || die "QEMU cannot describe its machine"
  dtc -q -I dts -O dtb -o "${rig}/boards.dtbo" "${here}/boards.dts"
  fdtoverlay -i "${rig}/virt.dtb" -o "${rig}/machine.dtb" "${rig}/boards.dtbo"
  printf '%s %s\n' "${abi}" "${built}" >"${rig}/built"
fi
printf '%s\n' "${rig}"
