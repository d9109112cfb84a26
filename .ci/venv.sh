#!/bin/sh
# venv.sh PYTHON VENV EXTRA: a virtual environment with xfrmi[EXTRA] in it, or one sentence saying what is missing.
set -u
python=$1 venv=$2 extra=$3

fail() {
    echo "xfrmi: $1" >&2
    exit 1
}

[ -n "$python" ] || fail "no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python is not Python 3.11 or newer; name another one: make PYTHON=/path/to/python3"

if ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
    rm -rf "$venv"
    echo "xfrmi: making a virtual environment in $venv ..."
    if "$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        "$python" -m venv "$venv" || fail "could not make a virtual environment in $venv (is the folder writable?)"
    elif "$python" -c 'import virtualenv' >/dev/null 2>&1; then
        "$python" -m virtualenv -q "$venv" || fail "virtualenv could not make $venv"
    else
        minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$python has no venv module; install it: apt install python$minor-venv (Debian, Ubuntu), or name a Python that has it: make PYTHON=/path/to/python3"
    fi
fi

case $extra in lab) what="the demo needs" ;; *) what="the tests need" ;; esac
echo "xfrmi: installing what $what ..."
# An editable install: the clone is what runs. Shown only when it fails.
log=$venv/install.log
if ! "$venv/bin/python" -m pip --disable-pip-version-check install --quiet -e ".[$extra]" >"$log" 2>&1; then
    cat "$log" >&2
    fail "pip could not install the packages (above); is a package index reachable?"
fi
