#!/usr/bin/env bash
# Installs what the browser app needs, where it is missing or old:
#   install.sh        litert/: LiteRT for the browser, from npm (38 MB)
#   install.sh tests  also what its tests drive a browser with, and Debian's Chromium, unless CHROMIUM names another
# Exit code 2, with the reason as the last line: something is missing; 3: Chromium cannot be installed here.
set -euo pipefail
cd "$(dirname "$0")"

fail() {
    echo "error: $2" >&2
    exit "$1"
}

install_packages() {
    local needed="expected Node.js 20.11 or newer and npm" remedy="Install Node.js 22 LTS or newer, from nodejs.org." name version major minor
    for name in node npm; do
        command -v "$name" >/dev/null || fail 2 "$needed; this machine has no $name. $remedy"
    done
    version=$(node --version)
    IFS=. read -r major minor _ <<<"${version#v}"
    ((major > 20 || (major == 20 && minor >= 11))) || fail 2 "$needed, received Node.js ${version#v}. $remedy"
    npm ci --no-audit --no-fund --no-update-notifier "$@" ||
        fail 2 "expected npm to install what package-lock.json lists. Check the network and npm's registry."
}

is_new() {
    local of
    for of in package-lock.json vendor.mjs; do [ "$1" -nt "$of" ] || return; done
}

case "${1-}" in "" | tests) ;; *) fail 2 "expected nothing or tests, received '$1'." ;; esac

# One at a time, by a lock on this folder; macOS has no such command.
exec 9<.
if command -v flock >/dev/null; then
    flock -n 9 || { echo "waiting for another install.sh to end" >&2 && flock 9; }
fi
if [ "${1-}" = tests ]; then
    [ node_modules/.package-lock.json -nt package-lock.json ] && [ -d node_modules/playwright-core ] || install_packages
fi
if ! is_new litert/core.js; then
    [ node_modules/.package-lock.json -nt package-lock.json ] || install_packages --omit=dev
    npm run --silent vendor || fail 2 "expected LiteRT in node_modules/, to be copied to litert/. Remove node_modules/, then run install.sh again."
fi

[ "${1-}" = tests ] || exit 0
command -v "${CHROMIUM:-chromium}" >/dev/null && exit 0
[ -z "${CHROMIUM-}" ] || fail 2 "expected a browser, received CHROMIUM=$CHROMIUM, which is none."
command -v apt-get >/dev/null || fail 3 "Chromium is missing, and there is no apt-get to install it. Install it, or name it in CHROMIUM."
root=()
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail 3 "Chromium is missing, and installing it takes root. Run: apt-get install chromium"
    root=(sudo -n)
fi
"${root[@]}" apt-get -qq update >&2 && "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >&2 ||
    fail 3 "Chromium is missing, and apt-get could not install it. Check the network and the apt sources."
