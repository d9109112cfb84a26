"""The interface that stands for all devices, where policies without if_id apply."""

from __future__ import annotations

from typing import Any

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Host, policies, tunnel_state
from xfrmi.core import Interface, PolicyInfo, Selector
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.plain import admit
from xfrmi.wire.ip import Buffer, split_outer
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_ESP, Action, Dir, Mode

LEFT, RIGHT = OUTER[4]
HERE, THERE = INNER[4]


def host(*local: str) -> tuple[Host, Interface]:
    made = Host(*local)
    return made, made.engine.interfaces.add_policy_based()


def send(sender: Host, interface: Interface, packet: Buffer) -> tuple[list[Outgoing], list[Buffer]]:
    return sender.engine.output(interface, [packet], NOW)


def with_tunnel(**fields: Any) -> tuple[Host, Interface]:
    sender, interface = host(HERE)
    sender.engine.add_state(tunnel_state(LEFT, RIGHT, 0x1000, 0, **fields), NOW)
    mode = fields.get("mode", Mode.TUNNEL)
    for info in policies(LEFT, RIGHT, 0, out=True, mode=mode):
        if mode == Mode.TUNNEL or info.selector.family == AF_INET:
            sender.engine.add_policy(info, NOW)
    return sender, interface


def test_out_and_in() -> None:
    sender, interface = with_tunnel()
    (outgoing,), replies = send(sender, interface, udp(HERE, THERE))
    assert not replies and outgoing.path.dst.hex() == "c0000202"
    receiver, its_own = host(THERE)
    receiver.engine.add_state(tunnel_state(LEFT, RIGHT, 0x1000, 0), NOW)
    esp = [split_outer(bytes(packet)) for packet in outgoing.packets]
    assert receiver.engine.input(esp, NOW) == [] and receiver.moved() == {"XfrmInNoPols": 1}
    for info in policies(LEFT, RIGHT, 0, out=False):
        receiver.engine.add_policy(info, NOW)
    (outgoing,), _ = send(sender, interface, udp(HERE, THERE))
    ((found, packets),) = receiver.engine.input([split_outer(bytes(packet)) for packet in outgoing.packets], NOW)
    assert found is its_own and [bytes(packet) for packet in packets] == [bytes(udp(HERE, THERE))]


def test_a_state_whose_device_is_gone_goes_on_without_if_id() -> None:
    """RX-05."""
    sender, interface = with_tunnel()
    (outgoing,), _ = send(sender, interface, udp(HERE, THERE))
    receiver, its_own = host(THERE)
    receiver.engine.add_state(tunnel_state(LEFT, RIGHT, 0x1000, 42), NOW)
    for info in policies(LEFT, RIGHT, 0, out=False):
        receiver.engine.add_policy(info, NOW)
    esp = [split_outer(bytes(packet)) for packet in outgoing.packets]
    assert [found for found, _ in receiver.engine.input(esp, NOW)] == [its_own]


def test_nobody_is_told_but_who_is_blocked_on_this_host() -> None:
    sender, interface = host(HERE)
    for info in policies(LEFT, RIGHT, 0, out=True):
        sender.engine.add_policy(info, NOW)
    assert send(sender, interface, udp(HERE, THERE)) == ([], [])
    assert sender.moved() == {"XfrmOutNoStates": 1}
    blocking = PolicyInfo(Selector.parse(f"{THERE}/32", "0.0.0.0/0"), Dir.OUT, action=Action.BLOCK)
    sender.engine.update_policy(blocking, NOW)
    sender.engine.update_policy(
        PolicyInfo(Selector.parse("0.0.0.0/0", "0.0.0.0/0"), Dir.OUT, action=Action.BLOCK), NOW
    )
    outgoing, replies = send(sender, interface, udp(HERE, THERE))
    assert outgoing == [] and [bytes(reply[20:22]) for reply in replies] == [bytes((3, 13))]
    assert send(sender, interface, udp(THERE, HERE)) == ([], [])
    assert sender.moved() == {"XfrmOutNoStates": 1, "XfrmOutPolBlock": 2}


def test_no_plaintext_without_a_demand() -> None:
    sender, interface = host(HERE)
    sender.engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT), NOW)
    assert send(sender, interface, udp(HERE, THERE)) == ([], []) and sender.moved() == {}


def test_esp_of_ours_that_comes_back_is_a_loop() -> None:
    """Of a state whose source is no address of this host, as in transport mode for others."""
    sender, interface = with_tunnel(mode=Mode.TRANSPORT, flags=0)
    (outgoing,), _ = send(sender, interface, udp(LEFT, RIGHT))
    (esp,) = (bytes(packet) for packet in outgoing.packets)
    assert esp[9] == IPPROTO_ESP
    assert send(sender, interface, esp) == ([], []) and interface.collisions == 1


def test_plain_packets_are_judged_by_if_id_0() -> None:
    receiver, _ = host(THERE)
    for info in policies(LEFT, RIGHT, 0, out=False):
        receiver.engine.add_policy(info, NOW)
    for info in policies(LEFT, RIGHT, 42, out=False):
        receiver.engine.add_policy(info, NOW)
    delivered, forwarded = udp(HERE, THERE), udp(THERE, HERE)
    assert admit(receiver.engine, [delivered, forwarded, b"\x45"], NOW) == []
    assert receiver.moved() == {"XfrmInTmplMismatch": 2}
    receiver.engine.add_policy(PolicyInfo(Selector(AF_INET, proto=17), Dir.IN, priority=0), NOW)
    receiver.engine.update_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.IN), NOW)
    assert admit(receiver.engine, [delivered, forwarded], NOW) == [delivered]
