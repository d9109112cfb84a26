"""What tests against foreign implementations share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.netns import need_tun
from tests.oracle.kernelpeer import kernel
from tests.oracle.kernelpeer.machine import BOOT_SECONDS, Machine
from tests.oracle.kernelpeer.pair import Pair, clean, last_words, pair
from tests.oracle.spread import EVERYTHING
from tests.stage import SECONDS, Stage
from xfrmi.lab.topology import Lab

collect_ignore_glob = [] if EVERYTHING else ["test_kernel_peer*.py"]
"""`make interop`: an emulated machine takes half a minute of processor time before it has said much."""


@pytest.fixture(scope="session")
def kernel_pair() -> Iterator[Stage[Pair]]:
    """xfrmi and a kernel; it boots with the first test that asks."""
    with Stage(pair, clean, last_words, seconds=BOOT_SECONDS + SECONDS) as stage:
        yield stage


@contextmanager
def machine() -> Iterator[Machine]:
    need_tun()
    if lack := kernel.lacking():
        pytest.skip(f"THE KERNEL IN QEMU IS NOT TESTED: {lack}")
    with Lab() as lab:
        built = Machine(lab.node("router"), "sun", kernel.folder())
        try:
            yield built
        finally:
            built.close()


@pytest.fixture(scope="session")
def booted() -> Iterator[Stage[Machine]]:
    with Stage(
        machine, lambda _: None, lambda built: f"the kernel said:\n{built.last_words()}", BOOT_SECONDS + SECONDS
    ) as stage:
        yield stage
