"""What the two request handlers share: a datagram of netlink requests taken apart, and each of them answered.

A handler knows bytes and credentials only, so it serves every transport: the Unix sockets of our own clients, a
netlink carrier of supervised tools, a plain call in a test. In the order of 7.1:

1. what is no request, and control messages, do nothing (NL-02);
2. the handler carries the request out, wholly or not at all; a refusal is then all there is;
3. replies first, then the acknowledgement if one was asked for (NL-06); a dump ends with NLMSG_DONE instead (NL-07).

Requests are carried out before `handle` returns. The entries of a dump are encoded while they are taken from what it
returns, so that a table of any size holds up nobody for longer than its reader wants.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from xfrmi.daemon.credentials import Credentials
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_MULTI, NLM_F_REQUEST, NLMSG_MIN_TYPE, Message


class Handler:
    """One netlink protocol. `dumps` are the request types that NLM_F_DUMP makes a dump of."""

    dumps: frozenset[int]

    def handle(self, datagram: bytes, credentials: Credentials) -> Iterator[bytes]:
        """Carry out the requests of `datagram` in order. The datagrams that answer them, in order."""
        answers = []
        try:
            for request in netlink.split(datagram):
                answers.append(self._answer(request, credentials))
        except XfrmError:
            pass  # impossible framing: like the kernel, end here; there is no message to answer
        return itertools.chain.from_iterable(answers)

    def carry_out(self, request: Message, credentials: Credentials) -> Iterable[bytes]:
        """Do it; the messages that answer, for a dump as `dump` makes them. XfrmError if refused."""
        raise NotImplementedError

    def is_dump(self, request: Message) -> bool:
        return request.is_dump and request.type in self.dumps

    @staticmethod
    def dump(request: Message, kind: int, bodies: Iterable[bytes]) -> Iterator[bytes]:
        """The datagrams of a dump: an entry of type `kind` for each of `bodies`, then NLMSG_DONE."""
        entries = (netlink.message(kind, NLM_F_MULTI, request.seq, request.pid, body) for body in bodies)
        return netlink.datagrams(itertools.chain(entries, (netlink.done(request),)))

    def _answer(self, request: Message, credentials: Credentials) -> Iterable[bytes]:
        answers: Iterable[bytes] = ()
        if request.flags & NLM_F_REQUEST and request.type >= NLMSG_MIN_TYPE:
            try:
                answers = self.carry_out(request, credentials)
            except XfrmError as failure:
                return (netlink.refusal(request, failure),)
            if self.is_dump(request):
                return answers
        return (*answers, netlink.ack(request)) if request.flags & NLM_F_ACK else answers
