#!/bin/sh
# The pictures of explain.md and of the lessons, by the command itself. Run in the root of the clone; page.png wants Debian's chromium.
set -eu
ping=4500001c000100004001664c0a0100010a0201010800f7ff00000000
xfrmi=.venv/bin/xfrmi
"$xfrmi" explain --config examples/states.txt out "$ping" --svg docs/pictures/explain-out.svg
sent=$("$xfrmi" explain --config examples/states.txt out "$ping" --json | sed -n '/"sent"/,/]/s/^ *"\([0-9a-f]*\)".*/\1/p')
touched=${sent%??}00
"$xfrmi" explain --config examples/states.txt in "$touched" --svg docs/pictures/explain-in.svg
nowhere=4500001c000100004001654c0a0100010a0301010800f7ff00000000
"$xfrmi" explain --config examples/states.txt out "$nowhere" --svg docs/pictures/no-state.svg
page=$(mktemp -d)
trap 'rm -rf "$page"' EXIT
"$xfrmi" explain --config examples/states.txt out "$ping" --html "$page/page.html"
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1000,1560 \
    --screenshot=docs/pictures/page.png "file://$page/page.html" 2>/dev/null
chmod 644 docs/pictures/*
