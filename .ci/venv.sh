#!/bin/sh
# venv.sh VENV EXTRA [PYTHON]: a virtual environment with xfrmi[EXTRA] in it; at once if it is there already.
# What is missing is said in one sentence with the line that mends it, and the exit status is 1.
#
# The packages are those of requirements/EXTRA.txt, by their hashes; with XFRMI_UNLOCKED=1 in the environment, the newest
# that pyproject.toml allows.
#
# In VENV: `clone` says for which folder it was made, `installing` that pip is at work (or was, and got killed),
# `EXTRA.stamp` when the packages were complete, `install.log` what pip said last, `unlocked` that not only what is
# locked was installed.
set -u
venv=$1 extra=$2 python=${3-}
here=$(pwd -P) lock=requirements/$extra.txt
case $extra in
    lab) goal="demo" ;;
    dev) goal="test" ;;
    *) goal=$extra ;;
esac
name_one="name one: make $goal PYTHON=/path/to/python3"

fail() {
    echo "xfrmi: $1" >&2
    exit 1
}

identity() {
    "$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null
}

usable() {
    [ -x "$venv/bin/python" ] && [ "$(cat "$venv/clone" 2>/dev/null)" = "$here" ] && [ ! -e "$venv/installing" ] &&
        { [ -z "$python" ] || [ "$(identity "$python")" = "$(identity "$venv/bin/python")" ]; }
}

installed() {
    has_it=$extra
    [ "$extra" = lab ] && has_it=dev # all of lab
    for stamp in "$venv/$extra.stamp" "$venv/$has_it.stamp"; do
        [ -e "$stamp" ] && [ -z "$(find pyproject.toml "$lock" -newer "$stamp")" ] && return
    done
    return 1
}

make_venv() {
    if [ -z "$python" ]; then
        python=$(sh .ci/python.sh)
        old=$(python3 -V 2>/dev/null)
        [ -n "$python" ] || [ -z "$old" ] ||
            fail "Python 3.11 or newer is needed, and python3 is $old; install a newer one beside it: apt install python3.11 python3.11-venv (Ubuntu 22.04), or $name_one"
        [ -n "$python" ] ||
            fail "Python 3.11 or newer is needed, and there is none; install it: apt install python3 python3-venv (Debian, Ubuntu), or $name_one"
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python is not Python 3.11 or newer; $name_one"
    if [ -e "$venv" ]; then
        [ -e "$venv/pyvenv.cfg" ] || rmdir "$venv" 2>/dev/null ||
            fail "$venv is in the way, and no virtual environment; remove it, or name another folder: make $goal VENV=/path"
        rm -rf "$venv"
    fi
    echo "xfrmi: making a virtual environment in $venv ..."
    if "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        module=venv
    elif "$python" -c 'import virtualenv' 2>/dev/null; then
        module=virtualenv
    else
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$python lacks its venv module; install it: apt install python$version-venv (Debian, Ubuntu), or $name_one"
    fi
    why=$("$python" -m "$module" "$venv" 2>&1) || fail "no virtual environment could be made in $venv: $(last "$why")"
    echo "$here" >"$venv/clone"
}

last() {
    printf '%s\n' "$1" | tail -n 1
}

install() {
    echo "xfrmi: installing what make $goal needs ..."
    log=$venv/install.log
    : >"$venv/installing"
    # Exactly what is locked, whichever index or mirror it comes from; then the clone, which is what runs (editable).
    if [ -n "${XFRMI_UNLOCKED-}" ]; then
        touch "$venv/unlocked"
        extras=$extra
        [ "$extra" = lab ] && extras=lab,web # half a megabyte; the lock of lab has it, too (make lock)
        pip install -e ".[$extras]"
    else
        pip install --require-hashes -r "$lock" && pip install --no-build-isolation --no-deps -e .
    fi >"$log" 2>&1
    status=$?
    rm -f "$venv/installing"
    [ $status = 0 ] || explain "$log"
    touch "$venv/$extra.stamp"
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check "$@" --quiet
}

explain() {
    if grep -q 'No space left on device' "$1"; then
        fail "the disk is full; make room, then again: make $goal"
    elif grep -Eq 'Failed (to build|building)|Python\.h|command .*(gcc|cc).* failed' "$1"; then
        version=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "a package (python-pytun?) has no ready-made wheel for Python $version on $(uname -m), and compiling it failed; install a compiler and headers: apt install gcc libc6-dev python$version-dev (Debian, Ubuntu); what pip said: $1"
    elif grep -Eq 'DO NOT MATCH THE HASHES' "$1"; then
        fail "a package is not the one that $lock names; look whose it is, or take what there is: XFRMI_UNLOCKED=1 make $goal (what pip said: $1)"
    elif grep -Eq 'No matching distribution found' "$1"; then
        fail "the package index lacks what $lock names, or has it for no Python such as this; take what there is: XFRMI_UNLOCKED=1 make $goal (what pip said: $1)"
    elif grep -Eq 'ConnectionError|ProxyError|SSLError|Timeout|Max retries|Connection broken' "$1"; then
        fail "the package index cannot be reached; see to the network, or name a mirror: PIP_INDEX_URL=https://... make $goal, or a proxy: https_proxy=http://... make $goal (what pip said: $1)"
    fi
    fail "pip could not install the packages: $(grep ERROR "$1" | tail -n 1) (all that it said: $1)"
}

usable && installed && exit
[ -w . ] || fail "this folder is read-only; work in a copy: cp -r . ~/xfrmi && cd ~/xfrmi && make $goal"
usable || make_venv
install
