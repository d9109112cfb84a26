#!/bin/sh
# Prints the first Python >= 3.11 that can make a virtual environment; else the first >= 3.11; else nothing.
second=
for name in python3 python3.14 python3.13 python3.12 python3.11 python /usr/bin/python3 /usr/local/bin/python3; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
    if "$name" -c 'import venv, ensurepip' >/dev/null 2>&1; then
        echo "$name"
        exit
    fi
    second=${second:-$name}
done
echo "$second"
