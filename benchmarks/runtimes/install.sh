#!/usr/bin/env bash
# Unpacks the runtimes of other devices into hidden folders beside this script, without root:
#   install.sh vulkan    .vulkan/   a GPU in software: SwiftShader and a Vulkan loader, which come with Chromium (6 MB out of a package of 32)
#   install.sh arm64     .arm64/    an emulated Raspberry Pi 4: qemu, Python, and the wheels of the versions that .venv has (190 MB; loads 110)
#   install.sh browser   .browser/  LiteRT for the browser, and what drives it (55 MB); the browser is Debian's: apt-get install chromium
# vulkan and arm64 are packages of Debian 12. PYTHON names the interpreter whose versions are taken (default: .venv/bin/python).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$here/../../.venv/bin/python}

fail() {
    echo "error: $1" >&2
    exit 2
}

# packages ARCHITECTURE NAME... downloads Debian packages into $partial. apt keeps its lists there too, so it needs no root, and any architecture will do.
packages() {
    local apt="$partial/apt-$1" options=(-qq -o "APT::Architecture=$1" -o "APT::Architectures::=$1" -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any)
    options+=(-o "Dir::State=$apt" -o Dir::State::status=/dev/null -o "Dir::Cache=$apt")
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    shift
    apt-get "${options[@]}" update || fail "expected apt-get to reach a Debian archive. Check the network and the apt sources."
    (cd "$partial" && apt-get "${options[@]}" download "$@") || fail "expected the packages $* of Debian 12. Run this on Debian 12."
}

# members PACKAGE PATH... unpacks files of a downloaded package, without their folders.
members() {
    local package="$partial/$1"
    shift
    dpkg --fsys-tarfile "$package"_*.deb | tar -x -C "$partial/new" --transform 's|.*/||' "$@"
}

install_vulkan() {
    packages "$(dpkg --print-architecture)" chromium-common
    members chromium-common ./usr/lib/chromium/{libvulkan.so.1,libvk_swiftshader.so,vk_swiftshader_icd.json}
}

install_arm64() {
    local wheels
    wheels=$("$python" -m pip freeze | grep -E '^(ai-edge-litert|numpy)==') || fail "expected $python to have ai-edge-litert. Run \`make install\`."
    packages "$(dpkg --print-architecture)" qemu-user-static
    packages arm64 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libstdc++6 libgcc-s1 libexpat1 libffi8 libssl3 zlib1g
    members qemu-user-static ./usr/bin/qemu-aarch64-static
    for package in "$partial"/*_arm64.deb; do dpkg -x "$package" "$partial/new"; done
    # shellcheck disable=SC2086
    "$python" -m pip install -q --target "$partial/new/usr/lib/python3/dist-packages" --python-version 3.11 --only-binary=:all: \
        --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 $wheels
    # qemu opens a file of this folder in place of the machine's of the same path. Without these the runtime reads about the processors of the
    # machine, finds none of ARM, and crashes.
    mkdir -p "$partial/new/proc" "$partial/new/sys/devices/system/cpu"
    printf '%s\t: %s\n' processor 0 'CPU implementer' 0x41 'CPU architecture' 8 'CPU variant' 0x0 'CPU part' 0xd08 'CPU revision' 3 \
        Features 'fp asimd evtstrm crc32 cpuid' >"$partial/new/proc/cpuinfo"
    for list in possible present; do echo 0 >"$partial/new/sys/devices/system/cpu/$list"; done
}

install_browser() {
    command -v npm >/dev/null || fail "expected npm, which this machine lacks. Install Node.js 20 or newer."
    npm install --silent --no-package-lock --prefix "$partial/new" @litertjs/core@2.5.3 @litertjs/wasm-utils@2.5.3 playwright-core@1.65.1
}

case "${1-}" in
vulkan | arm64) command -v apt-get dpkg >/dev/null || fail "expected apt-get and dpkg of Debian 12, which this machine lacks." ;;
browser) ;;
*) fail "expected vulkan, arm64 or browser, received '${1-}'." ;;
esac
[ ! -d "$here/.$1" ] || exit 0
partial=$(mktemp -d "$here/.$1.XXXXXX")
trap 'rm -rf "$partial"' EXIT
mkdir "$partial/new"
"install_$1"
# Nothing half-installed stands under the final name. Another run may have been first.
mv -T "$partial/new" "$here/.$1" || [ -d "$here/.$1" ]
