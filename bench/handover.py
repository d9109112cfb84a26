"""How long packets wait while a daemon is replaced, by number of states: `python -m bench.handover`.

Twelve streams of 100 packets a second pass; lost, doubled and refused ones are counted. `--before 1 --workers 2`: from
one without workers to one with two, and back, in turns. As root, or as anybody who may have user namespaces.
"""

from __future__ import annotations

import argparse
import signal
import statistics

from tests.netns import in_netns
from tests.system.hosts import OUTER, Hosts, two_hosts
from tests.system.test_replace import PAUSE, TUNNELS, losses, refused, replace, streaming
from xfrmi.lab.topology import Lab


def add_tables(hosts: Hosts, states: range, policies: range) -> None:
    """That nobody uses."""
    ends = f"src {OUTER['moon', 4]} dst {OUTER['sun', 4]}"
    lines = [
        f"state add {ends} proto esp spi {0x10000 + number:#x} reqid 9 mode tunnel if_id 9 flag af-unspec "
        f"aead rfc4106(gcm(aes)) 0x{number:040x} 128\n"
        for number in states
    ]
    lines += [
        f"policy add src 10.1.{number >> 8}.{number & 255}/32 dst 10.2.0.0/16 dir out if_id 9 "
        f"tmpl {ends} proto esp reqid 9 mode tunnel\n"
        for number in policies
    ]
    batch = hosts.moon.folder / "tables.batch"
    batch.write_text("".join(lines))
    done = hosts.moon.xfrmi("-batch", str(batch))
    assert done.returncode == 0, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, nargs="+", default=[0, 5000])
    parser.add_argument("--policies", type=int, default=0, help="beside the states, when there are any")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--workers", default="1", help="of each of the daemons")
    parser.add_argument("--before", help="of every other one, which it replaces")
    options = parser.parse_args()
    before = options.before or options.workers

    @in_netns
    def measure() -> None:
        signal.alarm(0)
        with two_hosts("--workers", before, make=Lab) as hosts:
            hosts.set_up(*TUNNELS)
            have = 0
            for count in sorted(options.states):
                add_tables(hosts, range(have, count), range(options.policies if count and not have else 0))
                have = count
                waits: dict[str, list[float]] = {}
                with streaming(hosts) as accounts:
                    for _ in range(options.times):
                        for old, new in {(before, options.workers): 0, (options.workers, before): 0}:
                            replace(hosts.moon, "--workers", new)
                            wait = PAUSE.findall(hosts.moon.last_words(lines=9999))[-1]
                            waits.setdefault(f"{old} to {new}", []).append(float(wait))
                for which, some in waits.items():
                    spread = f"{min(some):.1f} to {max(some):.1f}, {len(some)} times"
                    print(f"{count} more states, --workers {which}: {statistics.median(some):.1f} ms ({spread})")
                print(f"lost or doubled: {losses(accounts) or 0}, refused: {refused(hosts) or 0}")

    measure()


if __name__ == "__main__":
    main()
