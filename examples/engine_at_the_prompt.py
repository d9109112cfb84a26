"""Two engines, one packet: everything xfrmi decides, without root, without a network.

Run it, or paste it into a Python prompt line by line and look at what each object holds.
"""

import secrets
import time

from xfrmi.core import Algorithm, Engine, PolicyInfo, Selector, StateInfo, Template
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import Dir, Mode, XfrmStat

now = time.time()
key = Algorithm("rfc4106(gcm(aes))", secrets.token_bytes(20), 128)  # 16 bytes of key, 4 of salt
state = StateInfo(src="192.0.2.1", dst="192.0.2.2", spi=0x1000, mode=Mode.TUNNEL, reqid=1, if_id=42, aead=key)
template = Template("192.0.2.1", "192.0.2.2", reqid=1)
everything = Selector.parse("0.0.0.0/0", "0.0.0.0/0")

# Left sends: an interface, a state, a policy. The if_id ties them together.
left = Engine()
xfrm0 = left.add_interface("xfrm0", if_id=42)
left.add_state(state, now)
left.add_policy(PolicyInfo(everything, Dir.OUT, if_id=42, templates=(template,)), now)

# Right receives: the same state, a policy for what comes in.
right = Engine()
right.add_interface("xfrm0", if_id=42)
right.add_state(state, now)
for direction in (Dir.IN, Dir.FWD):
    right.add_policy(PolicyInfo(everything, direction, if_id=42, templates=(template,)), now)

inner = bytes.fromhex("450000211234400040110000c6336401c63364020457 08ae000d0000 68656c6c6f".replace(" ", ""))
outgoing, _ = left.output(xfrm0, [inner], now)
outer = bytes(outgoing[0].packets[0])
print(f"inner {len(inner)} bytes -> outer {len(outer)} bytes")
print(f"  outer IP {outer[:20].hex()}")
print(f"  SPI      {outer[20:24].hex()}  sequence {outer[24:28].hex()}  IV {outer[28:36].hex()}")
print(f"  sealed   {outer[36:-16].hex()}")
print(f"  ICV      {outer[-16:].hex()}")

((interface, packets),) = right.input([split_outer(outer)], now)
assert bytes(packets[0]) == inner
print(f"right delivers it on {interface.name}, unchanged")

# Once more the same bytes: the replay window of a state without one lets them pass; with one they would not.
broken = bytearray(outer)
broken[40] ^= 1
assert right.input([split_outer(bytes(broken))], now) == []
print(f"one bit turned: dropped, {XfrmStat.IN_STATE_PROTO_ERROR.label} = {right.stats[XfrmStat.IN_STATE_PROTO_ERROR]}")
