#!/bin/sh
# Make before break: who receives knows a key before anybody uses it; the old ones go when nothing is under way.
cd "$(dirname "$0")"
xfrmi lab exec sun -- ip -batch moon-to-sun.xfrm
xfrmi lab exec moon -- ip -batch sun-to-moon.xfrm
xfrmi lab exec moon -- ip -batch moon-to-sun.xfrm
xfrmi lab exec sun -- ip -batch sun-to-moon.xfrm
sleep 0.1
for host in moon sun; do
    xfrmi lab exec $host -- sh -c '
        ip xfrm state delete dst 198.51.100.1 proto esp spi 0x701
        ip xfrm state delete dst 192.0.2.1 proto esp spi 0x702'
done
