"""Numbers of the kernel's uapi (linux/xfrm.h, linux/in.h) under their usual names. Nothing here has behaviour."""

from __future__ import annotations

from enum import IntEnum

AF_UNSPEC = 0
AF_INET = 2
AF_INET6 = 10

IPPROTO_ICMP = 1
IPPROTO_IPIP = 4
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_IPV6 = 41
IPPROTO_ROUTING = 43
IPPROTO_FRAGMENT = 44
IPPROTO_GRE = 47
IPPROTO_ESP = 50
IPPROTO_AH = 51
IPPROTO_ICMPV6 = 58
IPPROTO_NONE = 59
IPPROTO_DSTOPTS = 60
IPPROTO_HOPOPTS = 0
IPPROTO_BEETPH = 94
IPPROTO_COMP = 108
IPPROTO_SCTP = 132
IPPROTO_DCCP = 33
IPPROTO_MH = 135
IPPROTO_UDPLITE = 136

IKE_PORTS = (500, 4500)
"""UDP. IKE passes whatever policies say, by the policies that IKE daemons give their sockets."""

XFRM_INF = 0xFFFFFFFFFFFFFFFF
"""No byte or packet limit (LT-02: zero is a limit of zero)."""
XFRM_MAX_DEPTH = 6
"""Templates a policy may hold; five are usable (OUT-07)."""
REPLAY_ESN_MAX = 4096
"""Largest replay window, packets."""


class Mode(IntEnum):
    TRANSPORT = 0
    TUNNEL = 1
    ROUTEOPTIMIZATION = 2
    IN_TRIGGER = 3
    BEET = 4
    IPTFS = 5


class Dir(IntEnum):
    """Policy direction (XFRM_POLICY_*)."""

    IN = 0
    OUT = 1
    FWD = 2


class SaDir(IntEnum):
    """XFRMA_SA_DIR; 0 stands for an absent attribute."""

    NONE = 0
    IN = 1
    OUT = 2


class Action(IntEnum):
    ALLOW = 0
    BLOCK = 1


class Default(IntEnum):
    """XFRM_USERPOLICY_*: a default policy."""

    UNSPEC = 0
    BLOCK = 1
    ACCEPT = 2


class PolicyType(IntEnum):
    MAIN = 0
    SUB = 1


# xfrm_usersa_info.flags (3.5)
STATE_NOECN = 1
STATE_DECAP_DSCP = 2
STATE_NOPMTUDISC = 4
STATE_WILDRECV = 8
STATE_ICMP = 16
STATE_AF_UNSPEC = 32
STATE_ALIGN4 = 64
STATE_ESN = 128

# XFRMA_SA_EXTRA_FLAGS
SA_XFLAG_DONT_ENCAP_DSCP = 1
SA_XFLAG_OSEQ_MAY_WRAP = 2

# xfrm_userpolicy_info.flags
POLICY_LOCALOK = 1
POLICY_ICMP = 2
POLICY_CPU_ACQUIRE = 4

UDP_ENCAP_ESPINUDP_NON_IKE = 1
UDP_ENCAP_ESPINUDP = 2
TCP_ENCAP_ESPINTCP = 7


class XfrmStat(IntEnum):
    """Lines of /proc/net/xfrm_stat in print order (section 6); the value is the index into `Engine.stats`."""

    IN_ERROR = 0
    IN_BUFFER_ERROR = 1
    IN_HDR_ERROR = 2
    IN_NO_STATES = 3
    IN_STATE_PROTO_ERROR = 4
    IN_STATE_MODE_ERROR = 5
    IN_STATE_SEQ_ERROR = 6
    IN_STATE_EXPIRED = 7
    IN_STATE_MISMATCH = 8
    IN_STATE_INVALID = 9
    IN_TMPL_MISMATCH = 10
    IN_NO_POLS = 11
    IN_POL_BLOCK = 12
    IN_POL_ERROR = 13
    OUT_ERROR = 14
    OUT_BUNDLE_GEN_ERROR = 15
    OUT_BUNDLE_CHECK_ERROR = 16
    OUT_NO_STATES = 17
    OUT_STATE_PROTO_ERROR = 18
    OUT_STATE_MODE_ERROR = 19
    OUT_STATE_SEQ_ERROR = 20
    OUT_STATE_EXPIRED = 21
    OUT_POL_BLOCK = 22
    OUT_POL_DEAD = 23
    OUT_POL_ERROR = 24
    FWD_HDR_ERROR = 25
    OUT_STATE_INVALID = 26
    ACQUIRE_ERROR = 27
    OUT_STATE_DIR_ERROR = 28
    IN_STATE_DIR_ERROR = 29
    IN_IPTFS_ERROR = 30
    OUT_NO_QUEUE_SPACE = 31

    @property
    def label(self) -> str:
        """As the kernel spells it, e.g. XfrmInNoStates."""
        return "Xfrm" + "".join(part.capitalize() for part in self.name.split("_"))
