"""The Python face: each method against a real server over real sockets."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.daemon.messages import POLICY, STATE
from tests.daemon.server import Server, runtime_directory, serving
from xfrmi.client import Client
from xfrmi.errors import XfrmError
from xfrmi.wire.address import pack_address
from xfrmi.wire.link_types import IFF_UP, LinkInfo
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_const import Default
from xfrmi.wire.xfrm_msg import Aevent, Defaults, Migration, Move, StateFilter, Thresholds
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, Replay, StateId, StateInfo

STATE_ID = StateId(STATE.dst, STATE.spi)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client() as client:
        yield client


def test_states(client: Client) -> None:
    client.add_state(STATE)
    assert client.state(STATE).reqid == client.state(STATE_ID).reqid == 7
    assert [state.spi for state in client.states()] == [STATE.spi]
    assert list(client.states(StateFilter(proto=51))) == []
    client.update_state(replace(STATE, if_id=43))
    assert client.state(STATE).if_id == 43
    client.delete_state(STATE)
    larval = client.alloc_spi(replace(STATE, spi=0, aead=None), 0x500, 0x500)
    assert larval.spi == 0x500
    assert client.count_states().count == 1
    client.flush_states()
    assert client.count_states().count == 0


def test_replay_counters(client: Client) -> None:
    client.add_state(STATE)
    client.set_replay(Aevent(STATE_ID, replay=Replay(oseq=99)))
    assert client.replay(STATE).replay == Replay(oseq=99)


def test_migration(client: Client) -> None:
    client.add_state(STATE)
    client.add_policy(POLICY)
    moved = replace(STATE, src=pack_address("198.51.100.1"))
    moves = (Move(STATE.src, STATE.dst, moved.src, moved.dst),)
    client.migrate(Migration(POLICY.selector, POLICY.dir, moves, if_id=42))
    assert [state.src for state in client.states()] == [moved.src]
    assert client.policy(POLICY).templates[0].src == moved.src


def test_policies(client: Client) -> None:
    client.add_policy(POLICY)
    client.update_policy(replace(POLICY, priority=3))
    (policy,) = client.policies()
    assert policy.priority == client.policy(POLICY).priority == 3
    assert client.policy(PolicyId(dir=POLICY.dir, if_id=POLICY.if_id, index=policy.index)) == policy
    assert client.count_policies().count_out == 1
    client.delete_policy(POLICY)
    client.add_policy(POLICY)
    client.flush_policies()
    assert list(client.policies()) == []
    client.set_thresholds(Thresholds(ipv4=(16, 16)))
    assert client.count_policies().ipv4 == (16, 16)
    client.set_defaults(Defaults(fwd=Default.BLOCK))
    assert client.defaults() == Defaults(Default.ACCEPT, Default.BLOCK, Default.ACCEPT)


def test_links(client: Client) -> None:
    client.add_link(LinkInfo(name="ipsec0", if_id=42, link=3))
    link = client.link("ipsec0")
    assert (link.if_id, link.link, link.mtu, link.kind, link.flags & IFF_UP) == (42, 3, 1500, "xfrm", 0)
    client.set_link(LinkInfo(ifindex=link.ifindex, name="ipsec1", kind="", mtu=1400, flags=IFF_UP, change=IFF_UP))
    (link,) = client.links()
    assert (link.name, link.mtu, link.flags & IFF_UP) == ("ipsec1", 1400, IFF_UP)
    client.set_link(LinkInfo(ifindex=link.ifindex, if_id=43, link=3))
    assert client.link("ipsec1").if_id == 43
    client.delete_link("ipsec1")
    assert client.links() == []


def test_a_link_moves_to_the_namespace_of_a_descriptor(server: Server, client: Client) -> None:
    """By name, pid or path: what is opened here is what the daemon gets, whatever it may open itself."""
    client.add_link(LinkInfo(name="ipsec0", if_id=42), netns=os.getpid())
    ifindex = client.link("ipsec0").ifindex
    client.set_link(LinkInfo(ifindex=ifindex, kind=""), netns="/proc/self/ns/net")
    (device,) = server.devices
    assert device.moved_to == [os.stat("/proc/self/ns/net").st_ino] * 2
    with pytest.raises(XfrmError) as refused:
        client.set_link(LinkInfo(ifindex=ifindex, kind=""), netns="no-such-namespace")
    assert refused.value.errno == errno.ENOENT
    with pytest.raises(XfrmError) as refused:
        client.set_link(LinkInfo(ifindex=ifindex, kind="", netns_fd=0))
    assert refused.value.errno == errno.EBADF


@pytest.mark.parametrize(
    ("info", "number", "extack"),
    [
        (LinkInfo(name="a"), errno.EINVAL, "if_id must be non zero"),
        (LinkInfo(name="a", if_id=1, external=True), errno.EINVAL, "link and if_id must be zero"),
        (LinkInfo(name="ipsec0", if_id=43), errno.EEXIST, ""),
        (LinkInfo(name="a", if_id=42), errno.EEXIST, ""),
        (LinkInfo(name="a", if_id=1, kind="vti"), errno.EOPNOTSUPP, "Unknown device type"),
    ],
)
def test_links_refused(client: Client, info: LinkInfo, number: int, extack: str) -> None:
    """DEV-01 to DEV-03, 7.8."""
    client.add_link(LinkInfo(name="ipsec0", if_id=42))
    with pytest.raises(XfrmError) as refused:
        client.add_link(info)
    assert (refused.value.errno, refused.value.extack) == (number, extack)
    assert [link.name for link in client.links()] == ["ipsec0"]


def test_a_link_that_is_not_there(client: Client) -> None:
    for order in (client.link, client.delete_link):
        with pytest.raises(XfrmError) as refused:
            order("nosuch")
        assert refused.value.errno == errno.ENODEV
        assert "nosuch" in refused.value.detail


def test_a_refused_move_leaves_the_key_as_it_was(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request that changes the key and something the kernel refuses: nothing of it is done."""
    client.add_link(LinkInfo(name="ipsec0", if_id=42))
    monkeypatch.setattr(server.devices, "set", lambda *_: (_ for _ in ()).throw(XfrmError(errno.EINVAL)))
    with pytest.raises(XfrmError):
        client.set_link(LinkInfo(ifindex=client.link("ipsec0").ifindex, if_id=43, mtu=10))
    assert client.link("ipsec0").if_id == 42


def test_errors_carry_phrase_and_sentence(client: Client) -> None:
    client.add_state(STATE)
    with pytest.raises(XfrmError) as refused:
        client.add_state(replace(STATE, if_id=43))
    assert refused.value.errno == errno.EEXIST
    assert "if_id" in refused.value.detail
    with pytest.raises(XfrmError) as refused:
        client.add_policy(replace(POLICY, dir=3))
    assert refused.value.extack == "Invalid policy direction"


def test_a_dump_left_half_read_disturbs_nothing(client: Client) -> None:
    for spi in range(1, 101):
        client.add_state(replace(STATE, spi=spi))
    assert next(client.states()).spi == 100
    assert client.count_states().count == 100
    assert len(list(itertools.islice(client.states(), 3))) == 3
    assert len(list(client.states())) == 100


def test_requests_while_a_dump_is_being_read(client: Client) -> None:
    for spi in range(1, 501):
        client.add_state(replace(STATE, spi=spi))
    for state in client.states():
        client.delete_state(state)
    assert client.count_states().count == 0
    client.add_state(STATE)
    assert [(one.spi, other.spi) for one in client.states() for other in client.states()] == [(STATE.spi, STATE.spi)]


def test_monitor(client: Client) -> None:
    everything, policies = client.monitor(), client.monitor([Group.POLICY])
    client.add_state(STATE)
    client.add_policy(POLICY)
    client.delete_state(STATE)
    heard = [next(everything) for _ in range(3)]
    assert [event.type for event in heard] == [XfrmMsg.NEWSA, XfrmMsg.NEWPOLICY, XfrmMsg.DELSA]
    assert isinstance(heard[0].notice, StateInfo)
    assert heard[0].notice.spi == STATE.spi
    event = next(policies)
    assert event.type == XfrmMsg.NEWPOLICY
    assert isinstance(event.notice, PolicyInfo)


def test_the_end_of_the_daemon_is_told(client: Client, server: Server) -> None:
    client.add_state(STATE)
    events = client.monitor()
    server.stop()
    for act in (lambda: next(events), client.count_states):
        with pytest.raises(XfrmError) as ended:
            act()
        assert ended.value.errno == errno.ECONNRESET


def test_nobody_there() -> None:
    with runtime_directory():
        for act in (Client().count_states, Client().links, Client().stat, Client().monitor):
            with pytest.raises(XfrmError) as refused:
                act()
            assert refused.value.errno == errno.ECONNREFUSED
            assert 'start one there with "xfrmi daemon"' in refused.value.detail


def test_stat_and_unknown_commands(client: Client, server: Server) -> None:
    server.engine.stats[3] = 9
    assert client.stat()["XfrmInNoStates"] == 9
    with pytest.raises(XfrmError) as refused:
        client.command("nosuch")
    assert refused.value.errno == errno.EINVAL
