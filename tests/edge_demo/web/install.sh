#!/usr/bin/env bash
# Installs what the tests of the browser app need, where it is missing: LiteRT, a driver for the browser, and Debian's Chromium.
# CHROMIUM names another. Exit code 3, with the reason as the last line: Chromium cannot be installed here.
set -euo pipefail
web=$(cd "$(dirname "$0")/../../../edge_demo/web" && pwd)

fail() {
    echo "error: $2" >&2
    exit "$1"
}

command -v node npm >/dev/null || fail 2 "expected node and npm, which this machine lacks. Install Node.js 20.11 or newer."
cd "$web"
if [ ! -e litert/core.js ] || ! cmp -s package-lock.json node_modules/.installed; then
    npm ci --no-audit --no-fund
    npm run --silent vendor
    cp package-lock.json node_modules/.installed
fi

command -v "${CHROMIUM:-chromium}" >/dev/null && exit 0
[ -z "${CHROMIUM:-}" ] || fail 2 "expected a browser at CHROMIUM, received '$CHROMIUM'."
command -v apt-get >/dev/null || fail 3 "Chromium is missing, and there is no apt-get to install it. Install it, or name it in CHROMIUM."
if [ "$(id -u)" = 0 ]; then root=(); elif sudo -n true 2>/dev/null; then root=(sudo -n); else
    fail 3 "Chromium is missing, and installing it takes root. Run: apt-get install chromium"
fi
"${root[@]}" apt-get -qq update >&2 && "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium >&2 ||
    fail 3 "Chromium is missing, and apt-get could not install it. Check the network and the apt sources."
