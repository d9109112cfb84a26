"""What a VTI device would say to the same wishes: asked of this kernel, where it has VTI, else looked up as it would.

VTI keeps its devices in a table with the key (local address, remote address, i_key), as all IP tunnels do
(net/ipv4/ip_vti.c, ip_tunnel.c); i_key is 0 unless it is given, and is compared with the mark of the state.
"""

import subprocess


def ip(words: str) -> str:
    """'' if it was done, else what was said."""
    return subprocess.run(["ip", *words.split()], capture_output=True, text=True).stderr.strip()


ENDPOINTS = "local 192.0.2.1 remote 198.51.100.1"
devices: dict[tuple[str, str, int], str] = {}


def simulated(name: str, local: str, remote: str, key: int = 0) -> str:
    if (local, remote, key) in devices:
        return "RTNETLINK answers: File exists"
    devices[local, remote, key] = name
    return ""


refused = ip(f"link add vti1 type vti {ENDPOINTS}")
real = not refused
if real:
    print("This kernel has VTI. What follows it says itself.")
    second = ip(f"link add vti2 type vti {ENDPOINTS}")
    family = ip("link add vti3 type vti local 192.0.2.1 remote 2001:db8:2::1")
    wildcards = [ip(f"link add vti{number} type vti local any remote any") for number in (4, 5)]
    for number in range(1, 6):
        ip(f"link del vti{number}")
else:
    print(f"This kernel has no VTI ({refused}). What follows is its lookup, played by this script.")
    simulated("vti1", "192.0.2.1", "198.51.100.1")
    second = simulated("vti2", "192.0.2.1", "198.51.100.1")
    family = 'Error: inet address is expected rather than "2001:db8:2::1".'
    wildcards = [simulated(f"vti{number}", "any", "any") for number in (4, 5)]
print(f"a second device, same endpoints: {second or 'made'}")
print(f"an IPv6 peer with an IPv4 device: {family or 'made'}")
print(f"a device for any peer: {wildcards[0] or 'made'}; a second one: {wildcards[1] or 'made'}")
