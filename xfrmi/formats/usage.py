"""What `help` prints for each object: the grammar in the notation of ip(8)."""

from __future__ import annotations

from typing import Final

_ID = """\
ID := [ src ADDR ] [ dst ADDR ] proto { esp | ah | comp | route2 | hao } [ spi SPI ]
MODE := transport | tunnel | beet | iptfs | ro | in_trigger"""

_SELECTOR = """\
SELECTOR := [ src ADDR[/PLEN] ] [ dst ADDR[/PLEN] ] [ dev DEV ] [ UPSPEC ]
UPSPEC := proto { tcp | udp | sctp | dccp } [ sport PORT ] [ dport PORT ]
        | proto { icmp | ipv6-icmp | mobility-header } [ type NUMBER ] [ code NUMBER ]
        | proto gre [ key { DOTTED-QUAD | NUMBER } ] | proto PROTO"""

_LIMIT = """\
LIMIT := { time-soft | time-hard | time-use-soft | time-use-hard } SECONDS
        | { byte-soft | byte-hard } SIZE | { packet-soft | packet-hard } COUNT"""

STATE_USAGE: Final = f"""\
Usage: xfrmi state {{ add | update }} ID ALGO ... [ mode MODE ] [ reqid REQID ] [ if_id IF_ID ] [ dir {{ in | out }} ]
        [ mark MARK [ mask MASK ] ] [ output-mark MARK [ mask MASK ] ] [ seq SEQ ] [ sel SELECTOR ]
        [ replay-window SIZE ] [ replay-seq SEQ ] [ replay-oseq SEQ ] [ replay-seq-hi SEQ ] [ replay-oseq-hi SEQ ]
        [ flag FLAG ... ] [ extra-flag EXTRA-FLAG ... ] [ limit LIMIT ] ... [ encap ENCAP SPORT DPORT OADDR ]
        [ tfcpad LENGTH ] [ pcpu-num CPU ] [ nat-keepalive-interval SECONDS ] [ mtimer-thresh SECONDS ]
        [ coa ADDR ] [ ctx CTX ]
        [ offload [ crypto | packet ] dev DEV dir {{ in | out }} ]
       xfrmi state allocspi ID [ mode MODE ] [ mark MARK [ mask MASK ] ] [ reqid REQID ] [ seq SEQ ]
        [ min SPI max SPI ] [ dir {{ in | out }} ] [ pcpu-num CPU ]
       xfrmi state {{ get | delete }} ID [ mark MARK [ mask MASK ] ]
       xfrmi state {{ list [ nokeys ] | deleteall }} [ ID ] [ mode MODE ] [ reqid REQID ] [ flag FLAG ... ]
       xfrmi state flush [ proto XFRM-PROTO ]
       xfrmi state count
{_ID}
ALGO := aead NAME KEY ICV-BITS | enc NAME KEY | auth NAME KEY | auth-trunc NAME KEY BITS | comp NAME
FLAG := noecn | decap-dscp | nopmtudisc | wildrecv | icmp | af-unspec | align4 | esn
EXTRA-FLAG := dont-encap-dscp | oseq-may-wrap
ENCAP := espinudp | espinudp-nonike | espintcp
{_SELECTOR}
{_LIMIT}"""

POLICY_USAGE: Final = f"""\
Usage: xfrmi policy {{ add | update }} dir DIR [ SELECTOR ] [ if_id IF_ID ] [ tmpl TMPL ] ... [ priority PRIORITY ]
        [ action {{ allow | block }} ] [ mark MARK [ mask MASK ] ] [ index INDEX ] [ ptype PTYPE ]
        [ flag {{ localok | icmp | cpu-acquire }} ... ] [ limit LIMIT ] ... [ ctx CTX ]
       xfrmi policy {{ get | delete }} dir DIR {{ SELECTOR | index INDEX }} [ if_id IF_ID ] [ mark MARK [ mask MASK ] ]
        [ ptype PTYPE ] [ ctx CTX ]
       xfrmi policy {{ list [ nosock ] | deleteall }} [ SELECTOR ] [ dir DIR ] [ index INDEX ] [ ptype PTYPE ]
        [ action {{ allow | block }} ] [ priority PRIORITY ] [ flag {{ localok | icmp | cpu-acquire }} ... ]
       xfrmi policy flush [ ptype PTYPE ]
       xfrmi policy count
       xfrmi policy set [ hthresh4 LBITS RBITS ] [ hthresh6 LBITS RBITS ]
       xfrmi policy setdefault {{ in | fwd | out }} {{ block | accept }} ...
       xfrmi policy getdefault
DIR := in | out | fwd
PTYPE := main | sub
TMPL := ID [ mode MODE ] [ reqid REQID ] [ level {{ required | use }} ]
{_ID}
{_SELECTOR}
{_LIMIT}"""

MONITOR_USAGE: Final = """\
Usage: xfrmi monitor [ nokeys ] [ all-nsid ] [ all | OBJECT ... ]
OBJECT := acquire | expire | SA | aevent | policy | report"""

LINK_TYPE_USAGE: Final = """\
Usage: ... xfrm dev [ PHYS_DEV ] [ if_id IF-ID ]
\t\t[ external ]

Where: IF-ID := { 0x1..0xffffffff }"""

LINK_USAGE: Final = """\
Usage: xfrmi link add [ name ] NAME [ mtu MTU ] [ txqueuelen PACKETS ] [ index IDX ] [ netns { PID | NAME } ]
        type xfrm [ dev PHYS_DEV ] { if_id IF-ID | external }
       xfrmi link set [ dev ] NAME [ { up | down } ] [ mtu MTU ] [ name NEWNAME ] [ txqueuelen PACKETS ]
        [ netns { PID | NAME } ] [ alias TEXT ] [ { arp | multicast | allmulticast | promisc } { on | off } ]
        [ type xfrm [ dev PHYS_DEV ] if_id IF-ID ]
       xfrmi link delete [ dev ] NAME
       xfrmi link show [ [ dev ] NAME ] [ up ] [ type TYPE ]
IF-ID := 0x1..0xffffffff"""
