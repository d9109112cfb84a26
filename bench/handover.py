"""How long packets wait while a daemon is replaced, by number of states: `python -m bench.handover`.

Twelve streams of 100 packets a second pass; lost, doubled and refused ones are counted. As root, or as
anybody who may have user namespaces.
"""

from __future__ import annotations

import argparse
import signal
import statistics

from tests.netns import in_netns
from tests.system.hosts import OUTER, Hosts, two_hosts
from tests.system.test_replace import PAUSE, TUNNELS, losses, refused, replace, streaming


def add_states(hosts: Hosts, numbers: range) -> None:
    """That nobody uses."""
    ends = f"src {OUTER['moon', 4]} dst {OUTER['sun', 4]}"
    lines = [
        f"state add {ends} proto esp spi {0x10000 + number:#x} reqid 9 mode tunnel if_id 9 flag af-unspec "
        f"aead rfc4106(gcm(aes)) 0x{number:040x} 128\n"
        for number in numbers
    ]
    batch = hosts.moon.folder / "states.batch"
    batch.write_text("".join(lines))
    done = hosts.moon.xfrmi("-batch", str(batch))
    assert done.returncode == 0, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, nargs="+", default=[0, 5000])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--workers", default="1", help="of each of the daemons")
    options = parser.parse_args()

    @in_netns
    def measure() -> None:
        signal.alarm(0)
        with two_hosts("--workers", options.workers) as hosts:
            hosts.set_up(*TUNNELS)
            have = 0
            for count in sorted(options.states):
                add_states(hosts, range(have, count))
                have = count
                before = len(PAUSE.findall(hosts.moon.last_words(lines=9999)))
                with streaming(hosts) as accounts:
                    for _ in range(options.times):
                        replace(hosts.moon, "--workers", options.workers)
                waits = [float(wait) for wait in PAUSE.findall(hosts.moon.last_words(lines=9999))[before:]]
                spread = f"{min(waits):.1f} to {max(waits):.1f}, {len(waits)} times"
                figures = f"{statistics.median(waits):.1f} ms ({spread})"
                errors = f"lost or doubled: {losses(accounts) or 0}, refused: {refused(hosts) or 0}"
                print(f"{count} more states, --workers {options.workers}: packets waited {figures}; {errors}")

    measure()


if __name__ == "__main__":
    main()
