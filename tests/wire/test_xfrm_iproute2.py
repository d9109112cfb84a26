"""What iproute2 sends, recorded, means what its command line says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.each import each
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.address import pack_address
from xfrmi.wire.netlink import Message
from xfrmi.wire.xfrm_const import AF_INET, Default, Dir, Mode
from xfrmi.wire.xfrm_msg import Defaults, SpiRequest, StateFilter, Thresholds, XfrmMsg
from xfrmi.wire.xfrm_types import (
    Algorithm,
    Encap,
    Limits,
    Mark,
    PolicyId,
    PolicyInfo,
    Replay,
    ReplayEsn,
    Selector,
    StateId,
    StateInfo,
    Template,
)

KEY = bytes(range(20))
SRC, DST = "192.0.2.1", "192.0.2.2"
AEAD = Algorithm("rfc4106(gcm(aes))", KEY, 128)
CBC = Algorithm("cbc(aes)", KEY[:16])
AF_UNSPEC_FLAGS = 1 | 2 | 32
TRAFFIC = replace(Selector.parse("10.0.0.0/8", "10.1.0.0/16", proto=6, sport=80, dport=443), ifindex=1)
IPROUTE2 = [
    StateInfo(SRC, DST, 0x1000, mode=Mode.TUNNEL, reqid=7, if_id=42, aead=AEAD,
              replay_esn=ReplayEsn((0,) * 4, replay_window=128)),
    StateInfo(SRC, DST, 0x1000, mode=Mode.TUNNEL, aead=AEAD, flags=128, replay_esn=ReplayEsn((0,), replay_window=32),
              encap=Encap(2, 4500, 4501)),
    StateInfo(SRC, DST, 0x1000, crypt=CBC, auth_trunc=Algorithm("hmac(sha256)", KEY[:16], 96), replay_window=32,
              selector=TRAFFIC),
    StateInfo(SRC, DST, 0x1000, crypt=CBC, auth=Algorithm("hmac(sha1)", KEY), mark=Mark(0x10, 0xFF),
              set_mark=Mark(5, 0xF), flags=AF_UNSPEC_FLAGS, extra_flags=3),
    StateInfo("2001:db8::1", "2001:db8::2", 4096, mode=Mode.TUNNEL, aead=AEAD, tfcpad=100, seq=9 << 24,
              replay=Replay(oseq=6, seq=5),
              limits=Limits(soft_bytes=1000, hard_bytes=2000, hard_packets=3, hard_add=60, soft_use=30)),
    StateId(DST, 0x1000, mark=Mark(1, 3), src=pack_address(SRC)),
    StateId(DST, 0x1000, src=bytes(4)),
    SpiRequest(StateInfo(SRC, DST, mode=Mode.TUNNEL, reqid=3, limits=Limits(0, 0, 0, 0)), 0x100, 0x1FF),
    StateFilter(50, AF_INET, pack_address("192.0.2.0"), 24, pack_address("198.51.100.1"), 32),
    StateFilter(),
    50,
    0,
    0xFFFFFFFF,
    PolicyInfo(Selector.parse("10.0.0.0/8", "10.1.0.0/16"), Dir.OUT, 42,
               (Template(pack_address(SRC), pack_address(DST), reqid=7),), priority=5),
    PolicyInfo(Selector.parse("2001:db8::/32", "::/0", proto=17, sport=53), Dir.IN, action=1, flags=3, type=1, index=9,
               mark=Mark(1, 0xFFFFFFFF), limits=Limits(hard_bytes=9),
               templates=(Template(bytes(16), bytes(16), mode=Mode.TRANSPORT, optional=1),
                          Template(pack_address("2001:db8::1"), pack_address("2001:db8::2"), 5, 108, Mode.BEET))),
    PolicyId(Selector.parse("10.0.0.0/8", "0.0.0.0/0"), Dir.FWD, if_id=3),
    PolicyId(Selector.parse(), Dir.IN, index=16),
    None,
    1,
    0xFFFFFFFF,
    Thresholds((24, 16), (64, 48)),
    Defaults(Default.BLOCK, Default.ACCEPT, Default.UNSPEC),
    Defaults(),
]  # fmt: skip
RECORDED = json.loads((Path(__file__).parents[1] / "vectors/iproute2/xfrm_requests.json").read_text())["requests"]


@each("recorded, expected", list(zip(RECORDED, IPROUTE2, strict=True)), ids=lambda v: str(v)[13:60])
def test_requests_of_iproute2(recorded: dict[str, str], expected: object) -> None:
    flags = sum(getattr(netlink, name) for name in recorded["flags"].split("|"))
    kind = XfrmMsg[recorded["type"].removeprefix("XFRM_MSG_")]
    message = Message(kind, flags, 1, 0, memoryview(bytes.fromhex(recorded["body"])))
    assert xfrm_msg.decode_request(message) == expected
