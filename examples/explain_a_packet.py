"""One packet through ESP, step by step and byte by byte: without root, without a network, without a daemon.

In a notebook the last expression of a cell is enough: an explanation shows itself there. See docs/explain.md.
"""

from pathlib import Path

from xfrmi.teach import Tables, explain

tables = Tables.read(str(Path(__file__).parent / "states.txt"))
ping = bytes.fromhex("4500001c000100004001664c0a0100010a0201010800f7ff00000000".replace(" ", ""))

# What leaves: every choice, every number, every byte.
sent = explain(ping, tables, direction="out", interface="ipsec0")
print(sent.text())

# What arrives is the same packet, and the other end explains what it makes of it.
came = explain(sent.sent[0], tables, direction="in")
assert came.delivered == (ping,)
print(came.verdict)

# A bit turned on the way. This is not a table of answers: the packet is changed, and an engine receives it.
for offset in (8, 22, 30, 50, 75):
    print(sent.flip(offset))
