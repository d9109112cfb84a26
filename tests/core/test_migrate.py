"""MIGRATE (kernel-behaviour 3.8, 7.4): what a migration finds, moves and refuses."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.samples import GCM, NOW, Log, fails, flow, policy_info, state_id, state_info, template
from xfrmi.core import esp, events
from xfrmi.core.engine import Engine
from xfrmi.errors import XfrmError
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_const import AF_INET6, STATE_ESN, Dir, Mode, SaDir
from xfrmi.wire.xfrm_migrate_msg import Migration, Move
from xfrmi.wire.xfrm_types import Algorithm, Current, Encap, Limits, Mark, ReplayEsn, Selector

HERE, THERE = pack_address("192.0.2.1"), pack_address("192.0.2.2")
HERE_NOW, THERE_NOW = pack_address("198.51.100.1"), pack_address("198.51.100.2")
SELECTOR = Selector.parse("10.0.0.0/8", "10.1.0.0/16")
PACKET = udp("10.0.0.1", "10.1.0.1")
MOVE = Move(HERE, THERE, HERE_NOW, THERE_NOW)


def engine_with(log: Log | None = None, **state: Any) -> Engine:
    engine = Engine()
    engine.add_state(state_info(**state), NOW)
    engine.add_policy(policy_info("10.0.0.0/8", "10.1.0.0/16", templates=(template(),)), NOW)
    if log is not None:
        engine.subscribe(log)
    return engine


def migration(*moves: Move, **fields: Any) -> Migration:
    return Migration(**{"selector": SELECTOR, "moves": moves or (MOVE,)} | fields)


def ends(engine: Engine) -> list[tuple[bytes, bytes]]:
    return [(state.src, state.dst) for state in engine.states()]


def template_ends(engine: Engine) -> list[tuple[bytes, bytes]]:
    (policy,) = engine.policies()
    return [(template.src, template.dst) for template in policy.templates]


def test_3_8_a_state_and_its_template_move() -> None:
    log = Log()
    engine = engine_with(log, seq=5, tfcpad=100, limits=Limits(hard_packets=100))
    (old,) = engine.states()
    old.stats_integrity_failed = 3
    wanted = migration()
    (new,) = engine.migrate(wanted, NOW + 9)
    assert list(engine.states()) == [new] and old not in engine.sad
    assert new.snapshot() == replace(
        old.info, src=HERE_NOW, dst=THERE_NOW, replay=new.snapshot().replay, current=Current(add_time=int(NOW))
    )
    assert template_ends(engine) == [(HERE_NOW, THERE_NOW)]
    assert log == [events.Migrated(wanted, ((old.info, new.info),))], "nothing is said of added or deleted states"
    (policy,) = engine.policies()
    found = engine.sad.resolve(policy.templates[0], policy, flow(), NOW + 9)
    assert found is new


@pytest.mark.parametrize("esn", [False, True])
def test_3_8_numbers_and_ivs_count_on(esn: bool) -> None:
    """No number and no nonce comes twice: what was sealed before and what is sealed after are a row."""
    fields: dict[str, Any] = {"replay_window": 32}
    if esn:
        fields = {"flags": STATE_ESN, "replay_esn": ReplayEsn((0,), oseq=0xFFFFFFFE, replay_window=32)}
    engine = engine_with(**fields)
    (old,) = engine.states()
    packets = [bytes(esp.seal(old, PACKET, NOW)) for _ in range(3)]
    old.window.commit(7, 0)
    (new,) = engine.migrate(migration(), NOW)
    packets += [bytes(esp.seal(new, PACKET, NOW)) for _ in range(3)]
    numbers = [int.from_bytes(packet[24:28], "big") for packet in packets]
    assert numbers == [(numbers[0] + step) & 0xFFFFFFFF for step in range(6)]
    assert len({packet[28:36] for packet in packets}) == 6
    counters = [int.from_bytes(packet[28:36], "big") ^ old.iv_salt for packet in packets]
    assert counters == list(range(6))
    assert (new.packets, new.bytes, new.window.top & 0xFFFFFFFF) == (6, 6 * len(PACKET), 7)


def test_3_8_the_keys_stay() -> None:
    engine = engine_with(aead=Algorithm("rfc4106(gcm(aes))", bytes(range(36)), 64))
    (new,) = engine.migrate(migration(), NOW)
    assert new.info.aead == Algorithm("rfc4106(gcm(aes))", bytes(range(36)), 64)
    assert (new.spi, new.reqid) == (0x1000, 7)


def test_3_8_encapsulation_may_come_change_and_stay() -> None:
    engine = engine_with()
    (state,) = engine.migrate(migration(encap=Encap(2, 4500, 4501)), NOW)
    assert state.encap == Encap(2, 4500, 4501)
    back = Move(HERE_NOW, THERE_NOW, HERE, THERE)
    (state,) = engine.migrate(migration(back), NOW)
    assert state.encap == Encap(2, 4500, 4501)


def test_3_8_another_family() -> None:
    engine = engine_with(selector=Selector.parse("0.0.0.0/0"))
    v6 = replace(MOVE, new_src=pack_address("2001:db8::1"), new_dst=pack_address("2001:db8::2"), new_family=AF_INET6)
    (state,) = engine.migrate(migration(v6), NOW)
    (policy,) = engine.policies()
    assert (state.family, policy.templates[0].family, state.header_len) == (AF_INET6, AF_INET6, 56)
    assert engine.sad.resolve(policy.templates[0], policy, flow(), NOW) is state


def test_3_8_of_several_states_the_newest_moves() -> None:
    """One for each move; a reqid or an if_id of 0 is any."""
    engine = engine_with()
    engine.add_state(state_info(0x2000, reqid=8, if_id=5), NOW)
    engine.migrate(migration(), NOW)
    assert ends(engine) == [(HERE_NOW, THERE_NOW), (HERE, THERE)]
    assert [state.spi for state in engine.states()] == [0x2000, 0x1000]


def test_3_8_reqid_and_if_id_choose() -> None:
    engine = engine_with()
    engine.add_state(state_info(0x2000, reqid=8), NOW)
    engine.migrate(migration(replace(MOVE, reqid=7)), NOW)
    assert [(state.spi, state.src) for state in engine.states()] == [(0x1000, HERE_NOW), (0x2000, HERE)]
    engine = engine_with(if_id=9)
    engine.add_policy(policy_info("10.0.0.0/8", "10.1.0.0/16", if_id=5, templates=(template(),)), NOW)
    engine.migrate(migration(if_id=5), NOW)
    assert ends(engine) == [(HERE, THERE)], "of another if_id"


def test_3_8_what_moves_only_in_name() -> None:
    """The destination, and so the key of the state, may stay the same."""
    engine = engine_with()
    (state,) = engine.migrate(migration(replace(MOVE, new_dst=THERE)), NOW)
    assert engine.sad.find(state_id()) is state and len(engine.sad) == 1


def test_3_8_templates_without_addresses_and_chains() -> None:
    engine = Engine()
    engine.add_policy(
        policy_info("10.0.0.0/8", "10.1.0.0/16", templates=(template(mode=0), template(), template(reqid=9))), NOW
    )
    back = Move(HERE_NOW, THERE_NOW, HERE, THERE, reqid=9)
    engine.migrate(migration(MOVE, back, replace(MOVE, mode=Mode.TRANSPORT)), NOW)
    assert template_ends(engine) == [(HERE, THERE), (HERE_NOW, THERE_NOW), (HERE, THERE)]


def test_3_8_a_transport_template_alone_is_enough() -> None:
    engine = Engine()
    engine.add_policy(policy_info("10.0.0.0/8", "10.1.0.0/16", templates=(template(mode=0),)), NOW)
    engine.migrate(migration(replace(MOVE, mode=Mode.TRANSPORT)), NOW)
    assert template_ends(engine) == [(HERE, THERE)]


def test_3_8_the_policy_is_the_one_of_a_flow() -> None:
    """Its selector may be wider than the one asked for; a marked policy, or one for a device, is found by nobody."""
    engine = engine_with()
    engine.migrate(migration(selector=Selector.parse("10.0.0.1/32", "10.1.2.3/32", proto=17, sport=5)), NOW)
    assert template_ends(engine) == [(HERE_NOW, THERE_NOW)]
    for fields in ({"mark": Mark(1, 1)}, {"ifindex": 3}, {"if_id": 4}, {"type": 1}, {"dir": Dir.IN}):
        engine = Engine()
        engine.add_policy(policy_info("10.0.0.0/8", "10.1.0.0/16", templates=(template(),), **fields), NOW)
        with fails(errno.ENOENT) as caught:
            engine.migrate(migration(), NOW)
        assert caught.value.extack == "Target policy not found"


REFUSED = [
    (migration(*[MOVE] * 7), errno.EINVAL, "Invalid number of SAs to migrate, must be 0 < num <= XFRM_MAX_DEPTH (6)"),
    (migration(MOVE, MOVE), errno.EINVAL, "Entries in the MIGRATE attribute's list must be unique"),
    (migration(replace(MOVE, new_src=bytes(4))), errno.EINVAL,
     "Addresses in the MIGRATE attribute's list cannot be null"),
    (migration(replace(MOVE, new_dst=bytes(4))), errno.EINVAL,
     "Addresses in the MIGRATE attribute's list cannot be null"),
    (migration(dir=3), errno.EINVAL, "Invalid policy direction"),
    (migration(type=2), errno.EINVAL, "Invalid policy type"),
    (migration(selector=Selector()), errno.EAFNOSUPPORT, "Target policy not found"),
    (migration(selector=Selector.parse("10.2.0.0/16")), errno.ENOENT, "Target policy not found"),
    (migration(replace(MOVE, mode=Mode.BEET)), errno.ENODATA, ""),
    (migration(replace(MOVE, reqid=1)), errno.ENODATA, ""),
    (migration(replace(MOVE, new_family=1)), errno.ENODATA, ""),
]  # fmt: skip


@pytest.mark.parametrize("wanted, number, phrase", REFUSED, ids=[str(at) for at in range(len(REFUSED))])
def test_7_4_a_refused_migration_changes_nothing(wanted: Migration, number: int, phrase: str) -> None:
    log = Log()
    engine = engine_with(log)
    (before,) = engine.states()
    with fails(number) as caught:
        engine.migrate(wanted, NOW)
    assert caught.value.extack == phrase
    assert (list(engine.states()), ends(engine), template_ends(engine), log) == (
        [before], [(HERE, THERE)], [(HERE, THERE)], []
    )  # fmt: skip


def test_7_4_a_state_that_cannot_live_there_moves_nobody() -> None:
    """ENODATA: its key is taken, its mode takes no other family, or it is larval; what was moved before it is back."""
    engine = engine_with()
    engine.add_state(state_info(0x2000, reqid=8), NOW)
    engine.add_state(state_info(0x2000, dst="198.51.100.2", reqid=9), NOW)
    before = list(engine.states())
    with fails(errno.ENODATA):
        engine.migrate(migration(replace(MOVE, reqid=7), replace(MOVE, reqid=8)), NOW)
    assert list(engine.states()) == before and template_ends(engine) == [(HERE, THERE)]

    engine = Engine()
    engine.add_state(state_info(mode=Mode.TRANSPORT), NOW)
    engine.add_policy(policy_info("10.0.0.0/8", "10.1.0.0/16", templates=(template(mode=0),)), NOW)
    v6 = Move(HERE, THERE, bytes(15) + b"\1", bytes(15) + b"\2", mode=Mode.TRANSPORT, new_family=AF_INET6)
    with fails(errno.ENODATA):
        engine.migrate(migration(v6), NOW)

    engine = Engine()
    engine.alloc_spi(replace(state_info(0), aead=None), 5, 5, NOW)
    engine.add_policy(policy_info("10.0.0.0/8", "10.1.0.0/16", templates=(template(),)), NOW)
    with fails(errno.ENODATA):
        engine.migrate(migration(), NOW)
    assert [state.spi for state in engine.states()] == [5]


def test_3_8_keepalives_move_along() -> None:
    engine = engine_with(encap=Encap(), dir=SaDir.OUT, nat_keepalive_interval=10, aead=GCM)
    engine.migrate(migration(), NOW)
    (outgoing,) = engine.tick(NOW + 11)
    assert bytes(outgoing.packets[0][16:20]) == THERE_NOW


def test_no_key_in_a_refusal() -> None:
    engine = engine_with()
    with pytest.raises(XfrmError) as caught:
        engine.migrate(migration(replace(MOVE, mode=4)), NOW)
    assert GCM.key.hex() not in f"{caught.value} {caught.value.detail}"
