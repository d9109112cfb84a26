"""A real kernel's listings: read and printed they are the same text, and the commands that made them give it too."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.each import each
from tests.formats.captures import Step, parse_command, steps, utc_time, utc_timestamp
from xfrmi.formats.json_link import link_json
from xfrmi.formats.listing import parse_policies, parse_stat, parse_states
from xfrmi.formats.print_link import print_link
from xfrmi.formats.print_policy import print_policy
from xfrmi.formats.print_stat import print_defaults, print_policy_count, print_stat, print_state_count
from xfrmi.formats.print_state import print_state
from xfrmi.formats.requests import AddLink, AddPolicy, AddState, DeleteLink, DeletePolicy, SetDefaults, SetLink
from xfrmi.formats.show import Show
from xfrmi.formats.tokens import GrammarError
from xfrmi.wire.link_types import IFF_LOWER_UP, IFF_NOARP, IFF_UP, LinkInfo, LinkStats
from xfrmi.wire.xfrm_info_msg import Defaults, SadInfo, SpdInfo
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Replay, StateInfo

ALL = steps()
LISTING = re.compile(r"ip ((?:-s )*)xfrm (state|policy)(?: get .*)?(?: \| sed .*)?")


def shown_with(command: str) -> Show:
    return Show(stats=command.split("xfrm")[0].count("-s"), localtime=utc_time)


def without_dates(text: str) -> str:
    return re.sub("add .*", "add DATE", text)


def listings(table: str) -> list[Step]:
    found = [step for step in ALL if step.rc == 0 and step.output.strip()]
    return [step for step in found if (match := LISTING.fullmatch(step.command)) and match[2] == table]


@each("step", listings("state"), ids=lambda step: f"{step.vector}: {step.command[:40]}")
def test_a_listing_of_states_is_printed_as_it_was_read(step: Step) -> None:
    text = step.output.replace("add DATE", "add 2026-11-23 23:43:43 use -")
    infos = parse_states(text, timestamp=utc_timestamp)
    assert len(infos) == step.output.count("\nsrc ") + 1
    printed = "".join(print_state(info, shown_with(step.command)) for info in infos)
    assert printed == text


@pytest.mark.parametrize("step", listings("policy"), ids=lambda step: step.command[:40])
def test_a_listing_of_policies_is_printed_as_it_was_read(step: Step) -> None:
    text = step.output.replace("add DATE", "add 2026-11-23 23:43:43 use -")
    infos = parse_policies(text, timestamp=utc_timestamp)
    printed = "".join(print_policy(info, shown_with(step.command)) for info in infos)
    assert printed == text


def as_dumped(info: StateInfo) -> StateInfo:
    """What the kernel adds to a new state: a replay context (7.3), the truncation of `auth` (4.3), a masked mark."""
    if info.auth is not None:
        info = replace(info, auth_trunc=Algorithm(info.auth.name, info.auth.key, 96))
    if info.replay is None and info.replay_esn is None:
        info = replace(info, replay=Replay())
    return replace(info, mark=info.mark._replace(value=info.mark.value & info.mark.mask))


@each("vector", sorted({step.vector for step in listings("state")}))
def test_state_commands_make_the_listings_that_the_kernel_shows(vector: str) -> None:
    states: dict[tuple[bytes, int, int], StateInfo] = {}
    compared = 0
    for step in steps(vector):
        if step.vector != vector or step.rc:
            continue
        if LISTING.fullmatch(step.command) and " get " not in step.command:
            show = shown_with(step.command)
            printed = "".join(print_state(as_dumped(info), show) for info in reversed(states.values()))
            assert without_dates(printed) == without_dates(step.output)
            compared += 1
        elif "deleteall" in step.command or "flush" in step.command:
            states.clear()
        elif isinstance(request := parse_command(step.command), AddState):
            states[request.info.dst, request.info.spi, request.info.mark.value] = request.info
    assert compared


def test_policy_commands_make_the_listings_that_the_kernel_shows() -> None:
    policies: list[PolicyInfo] = []
    compared = 0
    for step in steps("text/policy"):
        if step.rc or ";" in step.command or "default" in step.command:
            continue
        if LISTING.fullmatch(step.command) and " get " not in step.command:
            seen = parse_policies(step.output.replace("add DATE", "add - use -"))
            assert len(seen) == len(policies)
            # The index is the kernel's choice (SPD-09).
            made = [replace(info, index=kernel.index) for info, kernel in zip(reversed(policies), seen, strict=True)]
            printed = "".join(print_policy(info, shown_with(step.command)) for info in made)
            assert without_dates(printed) == without_dates(step.output)
            compared += 1
        elif "flush" in step.command:
            policies.clear()
        elif isinstance(request := parse_command(step.command), AddPolicy):
            policies.append(request.info)
        elif isinstance(request, DeletePolicy):
            same = [info for info in policies if info.selector == request.id.selector]
            policies.remove(next(info for info in same if (info.dir, info.if_id) == (request.id.dir, request.id.if_id)))
    assert compared == 3


class Devices:
    """As much of rtnetlink as the captures need: what `ip link` made, by name."""

    def __init__(self) -> None:
        self.known = {"lo": 1, "eth0": 2, "eth1": 3}
        self.links: dict[str, LinkInfo] = {}
        self.up = {1, 2, 3}

    def apply(self, command: str) -> None:
        request = parse_command(command, self.known)
        if isinstance(request, AddLink):
            info = request.info
            self.links[info.name] = replace(info, flags=IFF_NOARP, link=info.link or 0)
            self.known[info.name] = max(self.known.values()) + 1
        elif isinstance(request, DeleteLink):
            del self.links[request.device]
            del self.known[request.device]
        elif isinstance(request, SetLink) and request.device in self.links:
            self.change(request)

    def change(self, request: SetLink) -> None:
        info = self.links.pop(request.device)
        index = self.known.pop(request.device)
        name = request.info.name or request.device
        if request.info.change & IFF_UP:
            flags = info.flags & ~(IFF_UP | IFF_LOWER_UP)
            info = replace(info, flags=flags | (IFF_UP | IFF_LOWER_UP if request.info.flags & IFF_UP else 0))
            (self.up.add if info.flags & IFF_UP else self.up.discard)(index)
        mtu = info.mtu if request.info.mtu is None else request.info.mtu
        self.links[name] = replace(info, name=name, mtu=mtu)
        self.known[name] = index

    def show(self, command: str) -> Show:
        names = {index: name for name, index in self.known.items()}
        return Show(details="-d" in command.split(), ifname=names.__getitem__, is_up=self.up.__contains__)


@pytest.mark.parametrize("vector", sorted({step.vector for step in steps("fresh mtu")} | {"create/errors"}))
def test_link_commands_make_what_the_kernel_shows(vector: str) -> None:
    check_links([step for step in steps(vector) if step.vector == vector])


def test_a_device_over_one_that_is_down() -> None:
    """DEV-16: M-DOWN, and nothing else."""
    texts = check_links(steps("create/parent down"))
    assert [("M-DOWN" in text) for text in texts] == [True, False, True]


def check_links(sequence: list[Step]) -> list[str]:
    devices = Devices()
    compared: list[str] = []
    for step in sequence:
        words = step.command.split()
        if words[-3:-1] == ["link", "show"] and step.rc == 0:
            # The index is the kernel's choice.
            index = int(re.findall(r"\d+", step.output)[0])
            info = replace(devices.links[words[-1]], ifindex=index)
            show = devices.show(step.command)
            if "-j" in words:
                assert [link_json(info, show)] == json.loads(step.output)
                assert json.dumps([link_json(info, show)], separators=(",", ":")) == step.output.strip()
            else:
                assert print_link(info, show) == step.output
            compared.append(step.output)
        elif words[:2] == ["ip", "link"] and step.rc == 0:
            devices.apply(step.command)
    assert compared
    return compared


NO_DEVICE = re.compile(r'Device "x0" does not exist|Cannot find device "x0"')
REFUSED = [step for step in ALL if step.rc in (1, 255) and not NO_DEVICE.search(step.output)]


@pytest.mark.parametrize("step", REFUSED, ids=lambda step: step.command[-40:])
def test_what_ip_refuses_itself(step: Step) -> None:
    with pytest.raises(GrammarError) as refused:
        parse_command(step.command, {"lo": 1, "eth0": 2, "eth1": 3})
    assert (refused.value.text, refused.value.exit_code) == (step.output.strip(), step.rc)


def test_the_captures_have_refusals() -> None:
    assert len(REFUSED) == 7


def test_what_the_kernel_refuses_is_grammatical() -> None:
    refused = [step for step in ALL if step.rc == 2 and "address 02:" not in step.command]
    assert len(refused) > 15
    for step in refused:
        parse_command(step.command, {"lo": 1, "eth0": 2, "eth1": 3})


def test_a_link_layer_address_is_refused_as_the_kernel_does() -> None:
    [step] = [step for step in ALL if "address 02:" in step.command]
    with pytest.raises(GrammarError) as refused:
        parse_command(step.command)
    assert (refused.value.text, refused.value.exit_code) == (step.output.strip(), step.rc)


def test_counters_of_a_device() -> None:
    [step] = [step for step in ALL if step.command == "ip -d -s -s link show xfrm0"]
    stats = LinkStats(
        tx_bytes=1636583, tx_packets=1197, tx_errors=702, tx_dropped=678, tx_carrier_errors=19, collisions=1,
        tx_aborted_errors=24,
    )  # fmt: skip
    info = LinkInfo(
        "xfrm0", 23, if_id=42, link=2, link_name="eth0", flags=IFF_NOARP | IFF_UP | IFF_LOWER_UP, stats=stats
    )
    assert print_link(info, Show(details=True, stats=2)) == step.output


def test_xfrm_stat() -> None:
    files = [step.output for step in ALL if step.command == "cat /proc/net/xfrm_stat"]
    assert len(files) == 2
    for text in files:
        counters = parse_stat(text)
        assert len(counters) == 30
        assert print_stat(counters) == text
    assert sum(parse_stat(files[1])) == 9 + 8 + 4 + 4 + 2


def test_counts_and_defaults() -> None:
    said = {step.command: step.output for step in steps("text/fresh")}
    for options, show in (("", Show()), ("-s ", Show(stats=1))):
        assert print_state_count(SadInfo(), show) == said[f"ip {options}xfrm state count"]
        assert print_policy_count(SpdInfo(), show) == said[f"ip {options}xfrm policy count"]
    [blocked, accepted] = [step for step in steps("text/policy") if "getdefault" in step.command]
    request = parse_command(blocked.command.split(";")[1])
    assert isinstance(request, SetDefaults)
    assert print_defaults(replace(request.defaults, fwd=2, output=2)) == blocked.output
    assert print_defaults(Defaults(2, 2, 2)) == accepted.output
