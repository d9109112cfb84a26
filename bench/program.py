"""What each end-to-end program does with its measurements: run them, print them, keep them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.contenders import Contender
from bench.report import sections, show
from bench.rounds import Measurement, plain_results, run


def program(
    options: argparse.Namespace,
    measurements: Sequence[Measurement[Any]],
    contenders: Mapping[str, Contender] | None = None,
) -> int:
    """Exit status: 1 if something that was tried has no result."""
    told = run(options, measurements, contenders)
    for measurement, results in zip(measurements, told.results, strict=True):
        show(sections(measurement, results))
    print("\n".join([*told.absent, *told.failed, weather(told.machine)]))
    if options.json:
        named = {each.title: plain_results(results) for each, results in zip(measurements, told.results, strict=True)}
        options.json.write_text(json.dumps(named))
    return 1 if told.failed else 0


def weather(machine: dict[str, Any]) -> str:
    return (
        f"Linux {machine['kernel']}, Python {machine['python']}, {machine['cores']} cores, {machine['rounds']} rounds, "
        f"load average {machine['load_before']:.1f} before, {machine['load_after']:.1f} after"
    )
