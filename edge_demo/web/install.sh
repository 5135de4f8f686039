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
    command -v node npm >/dev/null || fail 2 "expected node and npm, which this machine lacks. Install Node.js 20.11 or newer."
    npm ci --no-audit --no-fund "$@" || fail 2 "expected npm to install what package-lock.json lists. Check the network and npm's registry."
}

case "${1-}" in
"") [ litert/core.js -nt package-lock.json ] || install_packages --omit=dev ;;
tests) [ node_modules/.package-lock.json -nt package-lock.json ] && [ -d node_modules/playwright-core ] || install_packages ;;
*) fail 2 "expected nothing or tests, received '$1'." ;;
esac
if [ ! litert/core.js -nt package-lock.json ] || [ ! litert/core.js -nt vendor.mjs ]; then npm run --silent vendor; fi

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
