"""A lab made in Python, for notebooks and tests: how does loss on the way look from inside a tunnel?

    python examples/lab_from_python.py

The nodes live in processes of their own; this one only asks. So it works in a notebook, and without root.
"""

import re

from xfrmi.lab.plan import Plan
from xfrmi.lab.running import up

NETDEV = """
[NetDev]
Name=ipsec0
Kind=xfrm

[Xfrm]
InterfaceId=42
"""

STATE = """
state add src {src} dst {dst} proto esp spi {spi} mode tunnel if_id 42 replay-window 128 \\
      aead rfc4106(gcm(aes)) 0x{key} 128
"""

POLICY = "policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir {dir} if_id 42 tmpl src {src} dst {dst} proto esp mode tunnel\n"

HOSTS = {"moon": ("192.0.2.1", "10.0.42.1"), "sun": ("192.0.2.2", "10.0.42.2")}


def lab(loss: str) -> Plan:
    plan = Plan("from-python", "two hosts and a bad cable")
    (moon, _), (sun, _) = HOSTS["moon"], HOSTS["sun"]
    states = STATE.format(src=moon, dst=sun, spi=1, key="11" * 20)
    states += STATE.format(src=sun, dst=moon, spi=2, key="22" * 20)
    for name, (here, inside) in HOSTS.items():
        there = sun if name == "moon" else moon
        policies = POLICY.format(dir="out", src=here, dst=there) + POLICY.format(dir="in", src=there, dst=here)
        plan.node(
            name,
            address={"eth0": [f"{here}/30"], "ipsec0": [f"{inside}/30"]},
            netdev=NETDEV,
            xfrm=states + policies,
        )
    plan.link("moon:eth0", "sun:eth0", delay="1ms", loss=loss)
    return plan


for loss in ("0%", "10%"):
    with up(lab(loss)) as running:
        said = running.run("moon", "ping", "-q", "-c", "50", "-i", "0.01", "10.0.42.2").stdout
        answered = re.search(r"(\d+) received", said)
        print(f"loss {loss} each way: {answered[1] if answered else 'none'} of 50 echoes answered")
