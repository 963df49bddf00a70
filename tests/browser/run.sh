#!/bin/sh
# Runs the tests of the pages and of the JavaScript client. FANFARE_BIN names the server to test;
# FANFARE_PAGES=proxy serves web/ from here, for a server that has no pages built in.
set -eu
cd "$(dirname "$0")"

if [ ! -x "${CHROMIUM:-/usr/bin/chromium}" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "chromium is missing: apt-get install chromium fonts-dejavu-core" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-dejavu-core >/dev/null
fi

if [ ! -x node_modules/node/bin/node ] || [ ! -d node_modules/puppeteer-core ]; then
  npm ci --no-audit --no-fund --loglevel=error
fi

# The pinned node; where its package could not install it, the system's does if it is new enough.
node=node_modules/node/bin/node
[ -x "$node" ] || node=$(command -v node)
"$node" -e 'if (parseInt(process.versions.node, 10) < 22) {
  console.error("node 22 or newer is needed, this is " + process.version); process.exit(1); }'

FANFARE_BIN=$(realpath "${FANFARE_BIN:-../../target/release/fanfare}")
export FANFARE_BIN
exec "$node" --test --test-reporter=tap --test-concurrency=1 ./*.test.mjs
