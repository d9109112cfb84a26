"""A real Linux kernel as the other end: Debian's, in qemu, with its own xfrm interfaces and its own `ip`."""
