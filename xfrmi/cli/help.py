"""`xfrmi help`, `xfrmi help state`, `xfrmi help state add`: the grammar, and a worked example to paste."""

from __future__ import annotations

import sys

from xfrmi.formats.tokens import USAGE, matches
from xfrmi.formats.usage import LINK_USAGE, MONITOR_USAGE, POLICY_USAGE, STATE_USAGE

OVERVIEW = """\
Usage: xfrmi [ OPTIONS ] OBJECT { COMMAND | help }
       xfrmi [ -force ] -batch FILE
       xfrmi daemon [ --workers N ] [ --remove-on-exit ] [ --kernel-quirks ] [ --keep CAPABILITY ]
                    [ --replace | --reload ]
       xfrmi exec [ -v ] [ --stay ] -- COMMAND
       xfrmi lab { demo | up FILE | down | exec NODE -- COMMAND | shell NODE | watch NODE:DEVICE | status | graph |
                   export --clab FILE FOLDER }
       xfrmi doctor [ -j ]
       xfrmi explain [ -i DEV | -r FILE | HEX ] ...
       xfrmi trace [ DEV ] [ in | out ] ...
       xfrmi capture [ -i DEV ] -w FILE [ --keys ]
       xfrmi top [ --once ] [ -n SECONDS ] ...
       xfrmi web [ LAB ] [ --port N ]
       xfrmi metrics [ -w FILE ]
       xfrmi completion { bash | zsh | fish }
where  OBJECT := { link | state | policy | monitor | stat }
       OPTIONS := { -4 | -6 | -s[tats] | -d[etails] | -o[neline] | -j[son] | -p[retty] | -n[etns] NETNS | -V[ersion] }

The words are those of ip(8): `ip xfrm state ...` is `xfrmi state ...`, `ip link add` is `xfrmi link add`.
`xfrmi help OBJECT COMMAND` shows an example to paste; `xfrmi doctor` says what this machine lacks."""

STAT = """\
Usage: xfrmi stat
The counters, in the format of /proc/net/xfrm_stat."""

DOCTOR = """\
Usage: xfrmi doctor [ -j ]
What this machine lacks for xfrmi (✗), what may be in its way (!), what is well (✓), each with the line that mends it.
Looks only, changes nothing; needs no daemon. As an ordinary user it sees less. Exit status 1 with a ✗, else 0."""

USAGES = {
    "link": LINK_USAGE,
    "state": STATE_USAGE,
    "policy": POLICY_USAGE,
    "monitor": MONITOR_USAGE,
    "stat": STAT,
    "doctor": DOCTOR,
}

EXAMPLES = {
    ("link", "add"): """\
An interface whose key is 42; `dev` binds the ESP packets to a device and may be left out:

    xfrmi link add ipsec0 type xfrm dev eth0 if_id 42
    xfrmi link set ipsec0 up
    ip address add 10.0.42.1/30 dev ipsec0      # an ordinary device from here on
    ip route add 10.2.0.0/16 dev ipsec0""",
    ("link", "set"): """\
    xfrmi link set ipsec0 up mtu 1400
    xfrmi link set ipsec0 netns blue            # its traffic is encrypted out here, it is used in there
    xfrmi link set ipsec0 type xfrm dev eth0 if_id 43""",
    ("state", "add"): """\
One direction of a tunnel from 192.0.2.1 to 198.51.100.1, the same line on both ends. The key is 16 bytes of AES key
and 4 of salt, 128 the length of the ICV in bits; af-unspec lets IPv4 and IPv6 through one state:

    xfrmi state add src 192.0.2.1 dst 198.51.100.1 proto esp spi 0x1001 reqid 1 mode tunnel flag af-unspec \\
        if_id 42 replay-window 128 aead 'rfc4106(gcm(aes))' 0x$(openssl rand -hex 20) 128

The other direction has addresses swapped, its own SPI and its own key. What a real gateway lists can be replayed:

    ip xfrm state | xfrmi state add -""",
    ("policy", "add"): """\
Whatever is routed into the interface with key 42 goes through a state with reqid 1 and the same key:

    xfrmi policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out if_id 42 \\
        tmpl src 192.0.2.1 dst 198.51.100.1 proto esp reqid 1 mode tunnel

and back, for packets to this host (in) and through it (fwd). IPv6 inside takes the same lines with ::/0:

    xfrmi policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir in  if_id 42 \\
        tmpl src 198.51.100.1 dst 192.0.2.1 proto esp reqid 1 mode tunnel
    xfrmi policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir fwd if_id 42 \\
        tmpl src 198.51.100.1 dst 192.0.2.1 proto esp reqid 1 mode tunnel""",
}


def print_help(words: list[str], asked: bool) -> int:
    """What `help` with these words shows; to stdout if it was asked for, else (a bare `xfrmi`) to stderr."""
    if not asked:
        print(OVERVIEW, file=sys.stderr)
        return USAGE
    if not words:
        print(OVERVIEW)
        return 0
    name = next((name for name in USAGES if matches(words[0], name)), None)
    if name is None:
        print(OVERVIEW)
        return 0
    example = next(
        (text for (thing, verb), text in EXAMPLES.items() if thing == name and words[1:] and matches(words[1], verb)),
        None,
    )
    if example is None:
        print(USAGES[name])
        known = [verb for thing, verb in EXAMPLES if thing == name]
        if known:
            print(f"Examples: {', '.join(f'xfrmi help {name} {verb}' for verb in known)}")
    else:
        print(example)
    return 0
