#!/usr/bin/env bash
# Makes .venv hold exactly what constraints.txt names, and Spark ready to run; does nothing when it does already.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${PATH//"$PWD/.venv/bin:"/} # an activated .venv must not remake itself

stop() {
    echo "setup: $*" >&2
    exit 1
}

is_supported() { # a pyenv shim may exist and still fail, so the interpreter is run
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" || stop "PYTHON=$PYTHON is no Python 3.11 or 3.12."
        echo "$PYTHON"
        return
    fi
    for candidate in python3.12 python3.11 python3 python "$HOME"/.pyenv/versions/3.1[12].*/bin/python; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    stop "Python 3.11 or 3.12 is needed, and none was found (on Debian 12: apt-get install -y python3 python3-venv)." \
        "Name one with: make PYTHON=/path/to/python3.12"
}

make_venv() {
    local python version package
    python=$(find_python)
    if [ "$(df -Pk . | awk 'NR == 2 {print int($4 / 1048576)}')" -lt 8 ]; then
        stop "the packages need 8 GB in $PWD, and less is free."
    fi
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then # Debian ships them apart
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        package="python$version-venv"
        if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
            echo "setup: installing $package" >&2
            { apt-get update -qq || true; } >&2
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >&2 ||
                stop "run: apt-get update && apt-get install -y $package"
        else
            stop "$python has no venv module. Run: sudo apt-get install -y $package"
        fi
    fi
    echo "setup: making .venv with $("$python" --version)" >&2
    "$python" -m venv --clear .venv
}

install_packages() {
    local wanted
    wanted=$(grep -c '^[a-z]' constraints.txt)
    echo "setup: installing up to $wanted packages from constraints.txt, 6 GB unpacked" >&2
    if .venv/bin/python -m pip install --quiet --disable-pip-version-check uv; then
        # Compiled once here; where Python may not write bytecode, every process would compile all that it imports.
        .venv/bin/uv pip install --python .venv/bin/python --compile-bytecode -r constraints.txt >&2 &&
            .venv/bin/uv pip install --python .venv/bin/python --no-deps --no-build-isolation -e . >&2 && return
        echo "setup: uv did not succeed, trying pip" >&2
    fi
    .venv/bin/python -m pip install --no-deps -r constraints.txt >&2
    .venv/bin/python -m pip install --no-deps --no-build-isolation -e . >&2
}

# Lets a bare spark-submit find Delta's jars, this Python and this Java without being told.
write_spark_conf() {
    local conf delta
    conf=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("pyspark").submodule_search_locations[0])')/conf
    delta=$(.venv/bin/python -c 'import importlib.metadata as m; print(m.version("delta-spark"))')
    mkdir -p "$conf"
    echo "spark.jars.packages io.delta:delta-spark_2.13:$delta" >"$conf/spark-defaults.conf"
    {
        echo "export JAVA_HOME=\"\${JAVA_HOME:-$java_home}\""
        echo "export PYSPARK_PYTHON=\"\${PYSPARK_PYTHON:-$PWD/.venv/bin/python}\""
    } >"$conf/spark-env.sh"
}

# Two processes that fetch the same jars into an empty cache at once get in each other's way.
fetch_jars() {
    echo "setup: fetching Delta's jars" >&2
    JAVA_HOME="$java_home" SPARK_LOCAL_IP=127.0.0.1 .venv/bin/python >/dev/null 2>.venv/jars.log -c '
from pyspark.sql import SparkSession
SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate().stop()' ||
        echo "setup: Delta's jars could not be fetched (.venv/jars.log says why); the first job will try again" >&2
}

java_home=$(scripts/java.sh ensure)
state=$(cat constraints.txt setup.py scripts/setup.sh | cksum; echo "$PWD $java_home")
if [ -x .venv/bin/python ] && [ "$(cat .venv/setup-state 2>/dev/null)" = "$state" ]; then
    exit 0
fi
if ! is_supported .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1 ||
    ! grep -qF " $PWD/.venv" .venv/pyvenv.cfg; then # none, half made, or moved here from another folder
    make_venv
fi
install_packages
write_spark_conf
fetch_jars
echo "$state" >.venv/setup-state
echo "setup: done in $SECONDS s" >&2
