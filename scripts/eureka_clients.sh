#!/usr/bin/env bash
# Published Eureka clients, unmodified and at pinned versions, against a real server: they register
# and are pushed, see what others register, lose what is out of service, are evicted, and outlive a
# restart. A client that cannot be installed here is left out, and that is said.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

py_client=0.13.3
websockets=15.0.1
js_client=4.5.0
netflix=1.10.18

export FANFARE_BIN=${FANFARE_BIN:-target/debug/fanfare}
[ -x "$FANFARE_BIN" ] || cargo build --quiet --bin fanfare || exit 1
work=$PWD/target/eureka-clients
mkdir -p "$work"

# Installs Debian packages where this may be done.
packages() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install "$@" >/dev/null
}

if ! python3 -m venv "$work/venv" 2>/dev/null; then
    packages python3-venv
    if ! python3 -m venv "$work/venv"; then
        echo 'SKIPPED: all Eureka clients (Python with venv is not installed)'
        exit 77
    fi
fi
if ! "$work/venv/bin/pip" -q install "py_eureka_client==$py_client" "websockets==$websockets"; then
    echo 'SKIPPED: all Eureka clients (py_eureka_client cannot be installed)'
    exit 77
fi

if command -v node >/dev/null && command -v npm >/dev/null &&
    npm install --silent --no-audit --no-fund --prefix "$work/npm" "eureka-js-client@$js_client" \
        >"$work/npm.log" 2>&1; then
    export EUREKA_NODE_MODULES=$work/npm/node_modules
else
    echo 'SKIPPED: eureka-js-client (it, or Node.js, is not at hand)'
fi

command -v prometheus >/dev/null || packages --no-install-recommends prometheus
if command -v prometheus >/dev/null; then
    EUREKA_PROMETHEUS=$(command -v prometheus)
    export EUREKA_PROMETHEUS
else
    echo "SKIPPED: Prometheus' Eureka discovery (it is not installed)"
fi

# The client's jar files and what they need, and our program that uses them.
netflix_client() {
    command -v mvn >/dev/null && command -v javac >/dev/null || return 1
    mkdir -p "$work/java/classes"
    cat >"$work/java/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>fanfare</groupId>
  <artifactId>eureka-check</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>com.netflix.eureka</groupId>
      <artifactId>eureka-client</artifactId>
      <version>$netflix</version>
    </dependency>
  </dependencies>
</project>
XML
    [ -f "$work/java/lib/eureka-client-$netflix.jar" ] ||
        (cd "$work/java" && timeout 600 mvn -q -B dependency:copy-dependencies \
            -DoutputDirectory="$work/java/lib" >"$work/mvn.log" 2>&1) || return 1
    javac -nowarn -d "$work/java/classes" -cp "$work/java/lib/*" tests/eureka/JavaClient.java \
        >"$work/javac.log" 2>&1
}
if netflix_client; then
    export EUREKA_JAVA_CLASSES="$work/java/classes:$work/java/lib/*"
else
    echo "SKIPPED: Netflix' client (it, Maven or a JDK is not at hand)"
fi

exec "$work/venv/bin/python" tests/eureka/run.py
