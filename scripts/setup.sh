#!/usr/bin/env bash
# Makes a Python environment that holds exactly what a lock file names, and Spark ready to run; does nothing when it is
# there already.
#   setup.sh [ENVIRONMENT [LOCK]]    .venv and constraints.txt unless named
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
lock=${2:-constraints.txt}
PATH=${PATH//"$PWD/$venv/bin:"/} # an activated one must not remake itself

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
    echo "setup: making $venv with $("$python" --version)" >&2
    "$python" -m venv --clear "$venv"
}

install_packages() {
    echo "setup: installing up to $(grep -c '^[a-z]' "$lock") packages from $lock, 6 GB unpacked" >&2
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    # Compiled once here; where Python may not write bytecode, every process would compile all that it imports.
    "$venv/bin/uv" pip sync --python "$venv/bin/python" --compile-bytecode "$lock" >&2
    "$venv/bin/uv" pip install --python "$venv/bin/python" --no-deps --no-build-isolation -e . >&2
}

# Petastorm needs an older pyarrow than today's Spark. Training alone sees this folder; what is not in it comes from the
# environment around it.
install_petastorm() {
    rm -rf "$venv/petastorm"
    if ! grep -q '^petastorm==' "$lock"; then
        "$venv/bin/uv" pip install --python "$venv/bin/python" --target "$venv/petastorm" --no-deps --compile-bytecode \
            -r constraints-petastorm.txt >&2
    fi
}

# Lets a bare spark-submit find this Python and this Java without being told, and say what is wrong alone.
write_spark_conf() {
    local conf
    conf=$("$venv/bin/python" -c 'import importlib.util as u; print(u.find_spec("pyspark").submodule_search_locations[0])')/conf
    mkdir -p "$conf"
    rm -f "$conf/spark-defaults.conf"
    cp scripts/log4j2.properties "$conf"
    {
        echo "export JAVA_HOME=\"\${JAVA_HOME:-$java_home}\""
        echo "export PYSPARK_PYTHON=\"\${PYSPARK_PYTHON:-$PWD/$venv/bin/python}\""
    } >"$conf/spark-env.sh"
}

fetch_jars() {
    echo "setup: fetching the jars of Delta, of Hadoop's S3 client and of Comet" >&2
    JAVA_HOME="$java_home" SPARK_LOCAL_IP=127.0.0.1 "$venv/bin/python" scripts/fetch_jars.py >/dev/null 2>"$venv/jars.log" ||
        stop "Delta's jars could not be fetched: $(grep -m 1 -iE 'unresolved|not found|error|exception' "$venv/jars.log" || tail -n 1 "$venv/jars.log")" \
            "($venv/jars.log has all). They come from the Maven repository that Spark's Ivy knows."
    if ! compgen -G "$venv/lib/python*/site-packages/pyspark/jars/*hadoop-aws-*.jar" >/dev/null; then
        echo "setup: no jar of Hadoop's S3 client: lakes and logs lie on file systems, not in stores" >&2
    fi
    if ! compgen -G "$venv/lib/python*/site-packages/pyspark/jars/*comet-spark-*.jar" >/dev/null; then
        echo "setup: no jar of Comet, whose releases are for Spark 4.1 on Linux: everything runs on plain Spark" >&2
    fi
}

archive_classes() {
    echo "setup: archiving the classes that Spark loads" >&2
    JAVA_HOME="$java_home" SPARK_LOCAL_IP=127.0.0.1 "$venv/bin/python" scripts/class_archive.py >/dev/null 2>"$venv/classes.log" ||
        echo "setup: there is no archive of Spark's classes, and every start takes seconds more ($venv/classes.log says why)" >&2
}

java_home=$(scripts/java.sh ensure)
state=$(cat "$lock" constraints-petastorm.txt setup.py scripts/setup.sh scripts/fetch_jars.py scripts/class_archive.py scripts/log4j2.properties learn_spark/lake/delta_jars.py | cksum; grep '^COMET =' learn_spark/lake/engine.py; echo "$PWD $java_home")
if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/setup-state" 2>/dev/null)" = "$state" ]; then
    exit 0
fi
if ! is_supported "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 ||
    ! grep -qF " $PWD/$venv" "$venv/pyvenv.cfg"; then # none, half made, or moved here from another folder
    make_venv
fi
install_packages
install_petastorm
write_spark_conf
fetch_jars
archive_classes
echo "$state" >"$venv/setup-state"
echo "setup: done in $SECONDS s" >&2
