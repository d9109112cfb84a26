"""What staged.py clocks and stages.py tells, by name. Neither needs the other for it: numpy comes with the engine, and
starts threads, and a process with threads gets no user namespace."""

STAGES = ("read TUN", "output", "send", "receive", "input", "write TUN")
BARE = "seal, bare", "open, bare"
SAMPLING = "sampling"
"""The bare calls and all around them: no work of a daemon."""
PACKETS = 40
"""Bare calls in a burst."""
