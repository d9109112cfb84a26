"""A NAT: what leaves by one device gets that device's address. The rules are the kernel's, put there over netlink, so
nobody needs the nft command; where it is there, it shows them (`nft list ruleset`).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

TABLE, CHAIN = "lab", "out"
NFPROTO_INET = 1
"""Both families in one table; kernels from 5.2 on make NAT there."""
PRIORITY_SRCNAT = 100
IFNAMSIZ = 16


def masquerade(device: str, port: int | None = None) -> None:
    """In the calling thread's network namespace, from now on, and instead of what was said before. With a `port`, UDP
    leaves from that one whatever it came from, as from a NAT that was switched off and on; flows that it knows keep
    their ports until it forgets them. OSError where the kernel makes no NAT."""
    # Slow to import (0.17 s), and only NATs need them.
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nftsocket import Cmp, Meta, Regs
    from pyroute2.nftables.expressions import genex, masq
    from pyroute2.nftables.main import NFTables

    register = Regs.NFT_REG_1.value

    def load(key: Meta) -> Any:
        return genex("meta", {"key": key.value, "dreg": register})

    def data(value: bytes) -> Any:
        return {"attrs": [("NFTA_DATA_VALUE", value)]}

    def equals(value: bytes) -> Any:
        return genex("cmp", {"sreg": register, "op": Cmp.NFT_CMP_EQ.value, "data": data(value)})

    leaves = [load(Meta.NFT_META_OIFNAME), equals(device.encode().ljust(IFNAMSIZ, b"\0"))]
    rules = [[*leaves, *masq()]]
    if port is not None:
        udp = [load(Meta.NFT_META_L4PROTO), equals(bytes((socket.IPPROTO_UDP,)))]
        put = genex("immediate", {"dreg": register, "data": data(struct.pack("!H", port))})
        port_range = {"flags": ("NF_NAT_RANGE_PROTO_SPECIFIED",), "reg_proto_min": register, "reg_proto_max": register}
        rules.insert(0, [*leaves, *udp, put, genex("masq", port_range)])
    try:
        with NFTables(nfgen_family=NFPROTO_INET) as netlink:
            netlink.get_tables()  # a refusal of what follows it would not understand, and wait
            netlink.table("add", name=TABLE)
            netlink.table("del", name=TABLE)
            netlink.table("add", name=TABLE)
            netlink.chain("add", table=TABLE, name=CHAIN, type="nat", hook="postrouting", priority=PRIORITY_SRCNAT)
            for rule in rules:
                netlink.rule("add", table=TABLE, chain=CHAIN, expressions=[rule])
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None
