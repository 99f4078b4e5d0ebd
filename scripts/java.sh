#!/usr/bin/env bash
# Spark 4 runs on Java 17 and 21.
#   java.sh home      print the home of a Java 17 or 21, or fail
#   java.sh ensure    the same, after installing Debian's headless JRE where there is none and we may
#   java.sh run CMD   run CMD with JAVA_HOME set
set -euo pipefail

fits() { # a Java home of the right version; its release file is read because starting Java takes longer
    [ -x "$1/bin/java" ] || return 1
    local version=""
    if [ -r "$1/release" ]; then
        version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$1/release")
    fi
    if [ -z "$version" ]; then
        version=$("$1/bin/java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    fi
    [ "$version" = 17 ] || [ "$version" = 21 ]
}

candidates() {
    [ -z "${JAVA_HOME:-}" ] || echo "$JAVA_HOME"
    local on_path
    if on_path=$(command -v java); then
        on_path=$(readlink -f "$on_path")
        echo "${on_path%/bin/java}"
    fi
    local home
    for home in /usr/lib/jvm/* /opt/java/* /opt/jdk* "$HOME"/.sdkman/candidates/java/* "$HOME"/.jdks/* \
        "$HOME"/.asdf/installs/java/* /Library/Java/JavaVirtualMachines/*/Contents/Home /opt/homebrew/opt/openjdk@*; do
        [ ! -d "$home" ] || echo "$home"
    done
}

find_home() {
    local home
    while read -r home; do
        if fits "$home"; then
            echo "$home"
            return 0
        fi
    done < <(candidates)
    return 1
}

debian_package() {
    local package
    for package in openjdk-17-jre-headless openjdk-21-jre-headless; do
        if [[ $(LC_ALL=C apt-cache policy "$package" 2>/dev/null) == *"Candidate: "[0-9]* ]]; then
            echo "$package"
            return 0
        fi
    done
    return 1
}

stop_without_java() {
    echo "setup: Spark needs Java 17 or 21, and none was found. $1" >&2
    exit 1
}

install_java() {
    command -v apt-get >/dev/null ||
        stop_without_java "Install a JRE 17 or 21, or point JAVA_HOME at one, and run make again."
    if [ "$(id -u)" -ne 0 ]; then
        stop_without_java "Run: sudo apt-get update && sudo apt-get install -y $(
            debian_package || echo openjdk-17-jre-headless)"
    fi
    echo "setup: no Java 17 or 21 found, installing Debian's headless JRE" >&2
    apt-get update -qq >&2 || true
    local package
    package=$(debian_package) || stop_without_java "apt-get offers neither openjdk-17-jre-headless nor openjdk-21-jre-headless."
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >&2 ||
        stop_without_java "apt-get could not install it. Run: apt-get update && apt-get install -y $package"
}

case "${1:-}" in
    home) find_home ;;
    ensure) find_home || { install_java && find_home; } || stop_without_java "Point JAVA_HOME at one." ;;
    run)
        shift
        JAVA_HOME=$(find_home) || stop_without_java "Run: make setup"
        export JAVA_HOME
        exec "$@"
        ;;
    *)
        sed -n '2,5s/^# *//p' "$0" >&2
        exit 2
        ;;
esac
