"""Requests carried out: what the grammar made of a command line, asked of the daemon, printed as ip prints it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from xfrmi.cli.options import Options
from xfrmi.errors import XfrmError
from xfrmi.formats import requests as r
from xfrmi.formats.grammar import parse
from xfrmi.formats.show import Show
from xfrmi.formats.tokens import matches
from xfrmi.wire.link_types import IFF_UP
from xfrmi.wire.xfrm_info_msg import Defaults, SadInfo, SpdInfo

if TYPE_CHECKING:
    from xfrmi.client import Client

_SIOCGIFFLAGS = 0x8913
_IFREQ = struct.Struct("=16sH22x")


def ifindex_of(name: str) -> int:
    """0 if there is no such device."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def ifname(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"if{ifindex}" if ifindex else "*"


def is_up(ifindex: int) -> bool:
    """IFF_UP of a device here; what cannot be found is taken to be up."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(ifname(ifindex).encode(), 0))
    except OSError:
        return True
    return bool(_IFREQ.unpack(answer)[1] & IFF_UP)


class Executor:
    """Runs command lines over one client."""

    def __init__(self, client: Client, options: Options) -> None:
        self._client = client
        self._options = options

    def run(self, words: list[str]) -> int:
        """One command line; the exit status. Raises GrammarError, XfrmError."""
        start = 1 if matches(words[0], "xfrm") and len(words) > 1 else 0
        rest = words[start:]
        if rest[0] == "stat":
            return self._stat()
        if self._wants_listing(rest) and ((listing := sys.stdin.read()).strip() or rest[-1] == "-"):
            return self._replay_listing(rest[0], listing)
        self._carry_out(parse(words, family=self._options.family, ifindex_of=ifindex_of))
        return 0

    def _show(self, nokeys: bool = False) -> Show:
        options = self._options
        return Show(
            stats=options.stats, details=options.details, oneline=options.oneline, nokeys=nokeys, ifname=ifname,
            is_up=is_up,
        )  # fmt: skip

    def _print_json(self, value: Any) -> None:
        import json

        print(json.dumps(value, indent=4 if self._options.pretty else None))

    def _carry_out(self, request: r.Request) -> None:
        client = self._client
        match request:
            case r.AddState(info, update):
                (client.update_state if update else client.add_state)(info)
            case r.AllocSpi(wanted):
                self._states([client.alloc_spi(wanted.info, wanted.min, wanted.max)])
            case r.GetState(state_id):
                self._states([client.state(state_id)])
            case r.DeleteState(state_id):
                client.delete_state(state_id)
            case r.ListStates(wanted_states, nokeys):
                self._states(filter(wanted_states.matches, client.states()), nokeys)
            case r.DeleteStates(wanted_states):
                for state in list(filter(wanted_states.matches, client.states())):
                    client.delete_state(state)
            case r.FlushStates(proto):
                client.flush_states(proto)
            case r.AddPolicy(policy, update):
                (client.update_policy if update else client.add_policy)(policy)
            case r.GetPolicy(policy_id):
                self._policies([client.policy(policy_id)])
            case r.DeletePolicy(policy_id):
                client.delete_policy(policy_id)
            case r.ListPolicies(wanted_policies):
                self._policies(filter(wanted_policies.matches, client.policies()))
            case r.DeletePolicies(wanted_policies):
                for policy in list(filter(wanted_policies.matches, client.policies())):
                    client.delete_policy(policy)
            case r.FlushPolicies(policy_type):
                client.flush_policies(policy_type)
            case r.SetThresholds(thresholds):
                client.set_thresholds(thresholds)
            case r.SetDefaults(defaults):
                client.set_defaults(defaults)
            case r.CountStates() | r.CountPolicies() | r.GetDefaults():
                self._counts(request)
            case r.Monitor():
                self._monitor(request)
            case r.AddLink() | r.SetLink() | r.DeleteLink() | r.ShowLinks():
                from xfrmi.cli.links import carry_out

                carry_out(client, request, self._show(), self._print_json if self._options.json else None)

    def _states(self, states: Iterable[Any], nokeys: bool = False) -> None:
        show = self._show(nokeys)
        if self._options.json:
            from xfrmi.formats.json_xfrm import state_json

            self._print_json([state_json(state, show) for state in states])
            return
        from xfrmi.formats.print_state import print_state

        for state in states:
            sys.stdout.write(print_state(state, show))

    def _policies(self, policies: Iterable[Any]) -> None:
        show = self._show()
        if self._options.json:
            from xfrmi.formats.json_xfrm import policy_json

            self._print_json([policy_json(policy, show) for policy in policies])
            return
        from xfrmi.formats.print_policy import print_policy

        for policy in policies:
            sys.stdout.write(print_policy(policy, show))

    def _counts(self, request: r.CountStates | r.CountPolicies | r.GetDefaults) -> None:
        client, show = self._client, self._show()
        found: SadInfo | SpdInfo | Defaults
        match request:
            case r.CountStates():
                found = client.count_states()
            case r.CountPolicies():
                found = client.count_policies()
            case _:
                found = client.defaults()
        if self._options.json:
            from xfrmi.formats import json_xfrm

            match found:
                case SadInfo():
                    self._print_json(json_xfrm.state_count_json(found))
                case SpdInfo():
                    self._print_json(json_xfrm.policy_count_json(found))
                case _:
                    self._print_json(dict(json_xfrm.defaults_json(found)))
            return
        from xfrmi.formats import print_stat

        match found:
            case SadInfo():
                sys.stdout.write(print_stat.print_state_count(found, show))
            case SpdInfo():
                sys.stdout.write(print_stat.print_policy_count(found, show))
            case _:
                sys.stdout.write(print_stat.print_defaults(found))

    def _stat(self) -> int:
        """The counters, in the format of /proc/net/xfrm_stat."""
        counters = self._client.stat()
        if self._options.json:
            self._print_json(counters)
        else:
            from xfrmi.formats.print_stat import print_stat

            sys.stdout.write(print_stat(list(counters.values())))
        return 0

    def _monitor(self, request: r.Monitor) -> None:
        from xfrmi.formats.print_monitor import print_notice
        from xfrmi.wire.xfrm_attr import Group

        show = self._show(request.nokeys)
        events = self._client.monitor(Group(group) for group in request.groups)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                try:
                    event = next(events)
                except XfrmError as error:
                    if error.errno != errno.ENOBUFS:  # some events are lost, the next ones are not
                        raise
                    print(f"xfrmi: {error.detail or 'events were lost'}", file=sys.stderr)
                    continue
                if self._options.json:
                    from xfrmi.formats.json_event import notice_json

                    self._print_json(notice_json(event.type, event.notice, show))
                else:
                    sys.stdout.write(print_notice(event.type, event.notice, show))
                sys.stdout.flush()

    def _wants_listing(self, words: list[str]) -> bool:
        """`state add -`, `policy add -`; the dash may be left out where standard input is a file or a pipe."""
        if len(words) not in (2, 3) or not matches(words[1], "add"):
            return False
        if not (matches(words[0], "state") or matches(words[0], "policy") or words[0] == "sa"):
            return False
        if len(words) == 3:
            return words[2] == "-"
        return self._options.batch is None and sys.stdin is not None and not sys.stdin.isatty()

    def _replay_listing(self, kind: str, text: str) -> int:
        """Add all of what `ip xfrm state` or `ip xfrm policy` printed, the oldest first."""
        from xfrmi.formats.listing import ListingError, parse_policies, parse_states

        try:
            if matches(kind, "policy"):
                for policy in reversed(parse_policies(text, ifindex_of=ifindex_of)):
                    self._client.add_policy(policy)
            else:
                for state in reversed(parse_states(text, ifindex_of=ifindex_of)):
                    self._client.add_state(state)
        except ListingError as error:
            raise XfrmError(errno.EINVAL, detail=str(error)) from None
        return 0
