#!/bin/sh
# The pictures of explain.md, top.md, lab.md, web.md, the lessons and the examples, by the command itself. Run in the
# root of the clone; page.png and those of the lab's page want Debian's chromium.
set -eu
ping=4500001c000100004001664c0a0100010a0201010800f7ff00000000
xfrmi=.venv/bin/xfrmi
"$xfrmi" explain --config examples/states.txt out "$ping" --svg docs/pictures/explain-out.svg
sent=$("$xfrmi" explain --config examples/states.txt out "$ping" --json | sed -n '/"sent"/,/]/s/^ *"\([0-9a-f]*\)".*/\1/p')
touched=${sent%??}00
"$xfrmi" explain --config examples/states.txt in "$touched" --svg docs/pictures/explain-in.svg
for lab in $(cd examples && ls -d [01]*-*); do
    case $lab in 01-* | 11-*) continue ;; esac # these lessons type the command
    "$xfrmi" lab graph --svg "docs/pictures/lab-$lab.svg" "examples/$lab"
done
unknown=450000540000000040328e42c0000201c6336401000099990000000100$(seq -s '' -f %02g 55)
"$xfrmi" explain --config examples/states.txt in "$unknown" --svg docs/pictures/no-such-spi.svg
nowhere=4500001c000100004001654c0a0100010a0301010800f7ff00000000
"$xfrmi" explain --config examples/states.txt out "$nowhere" --svg docs/pictures/no-state.svg
page=$(mktemp -d)
trap 'rm -rf "$page"' EXIT
"$xfrmi" explain --config examples/states.txt out "$ping" --html "$page/page.html"
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1000,1560 \
    --screenshot=docs/pictures/page.png "file://$page/page.html" 2>/dev/null
"$xfrmi" lab up --changeable examples/01-two-hosts
"$xfrmi" lab link moon:internet off
"$xfrmi" lab link internet:sun loss 10%
"$xfrmi" lab graph --lab 01-two-hosts --svg docs/pictures/lab-graph.svg
"$xfrmi" lab down 01-two-hosts
"$xfrmi" lab up docs/pictures/top.toml
trap '"$xfrmi" lab down top; rm -rf "$page"' EXIT
exec_in() { node=$1; shift; "$xfrmi" lab exec --native "$node" -- "$@"; }
exec_in moon ping -q -i 0.01 -c 450 10.0.42.2 > "$page/pings" & one=$!
exec_in moon ping -q -i 0.04 -c 112 10.0.43.2 >> "$page/pings" & other=$!
sleep 2
"$xfrmi" lab exec sun -- ip xfrm state allocspi src 192.0.2.2 dst 192.0.2.1 proto esp reqid 42 mode tunnel \
    min 0x4402 max 0x4402 > "$page/larval"
exec_in sun "$PWD/$xfrmi" top --svg "$PWD/docs/pictures/top.svg"
wait "$one" "$other"
# docs/pictures/web.png and docs/pictures/web-dark.png, by the test that uses the page.
XFRMI_PICTURES="$PWD/docs/pictures" .venv/bin/python -m pytest -q -n0 tests/web/test_browser.py
chmod 644 docs/pictures/*
