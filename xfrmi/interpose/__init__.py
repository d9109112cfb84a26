"""`xfrmi exec`: unmodified programs, whose xfrm is the daemon's.

Theory of operation. A seccomp filter lets every system call of the supervised programs run natively but a few, and
those ask a supervisor (user notification): opening a netlink socket, sending and receiving on one, and a handful of
others. The supervisor never sees the rest.

- A NETLINK_XFRM socket is a NETLINK_USERSOCK socket in truth, made by the supervisor in the caller's network namespace
  and put into the caller's descriptor table: the *carrier*. Bind, port numbers, poll, multicast membership, queue
  lengths and overruns are the kernel's own.
- What is sent on it goes to the daemon of that namespace, by the daemon's control socket; the answers are queued on the
  carrier, which polls readable then. Nobody else can put them there: the supervisor sends them *from* the carrier *to*
  the carrier, and only who holds a socket can send from its port. Events come from the daemon's hub.
- A NETLINK_ROUTE socket is real. Requests about xfrm links go to the daemon; all else is carried out natively. In what
  the kernel says about links, the TUNs that stand for xfrm devices are shown as what they stand for.
- Receiving is done by the supervisor on the caller's socket, so that answers come from port 0, as the kernel's do.

Descriptors of carriers lie in a range of their own (below 1024, because of select), and that range is how the filter
tells the calls to stop for. Which socket a number in it means is looked up by inode each time: nothing has to be kept
in step with fork, exec, dup and close.

It is no sandbox. What would get around it (io_uring, 32-bit calls, dup2 to a number of one's own) is refused: no
program meets the kernel's NETLINK_XFRM in place of the daemon's without knowing.
"""
