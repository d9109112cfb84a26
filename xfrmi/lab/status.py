"""How labs fare: which nodes and daemons live, what links have done to packets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xfrmi.lab.link_setting import setting_now
from xfrmi.lab.one_way import Counts
from xfrmi.lab.registry import LinkRecord, Record, read_record, start_time
from xfrmi.lab.wire import read_counts

_FATES = {
    "lost": "lost",
    "duplicated": "doubled",
    "reordered": "out of order",
    "corrupted": "damaged",
    "too_long": "too long",
    "overrun": "overrun",
}


def describe(folder: Path) -> str:
    """A few lines for a person."""
    record = read_record(folder)
    if record is None or not record.alive:
        return f"{folder.name}: down, its keeper has ended; clean up with: xfrmi lab down {folder.name}"
    if record.state != "up":
        return f"{record.name}: being built"
    lines = [f"{record.name}: up, {'rootless' if record.rootless else 'as root'}, keeper {record.pid}"]
    lines += _nodes(record)
    for program, pid in record.programs.items():
        lines.append(f"  {'✓' if start_time(pid) else '✗'} {program}" + ("" if start_time(pid) else ": has ended"))
    for link in record.links:
        now = setting_now(folder, link.stem)
        lines.append(f"  {link.name.replace(' ', ' ── ')}" + (f": {now.describe()}" if now and now.describe() else ""))
        counts = read_counts(folder / link.counts) if link.counts else None
        for end, way in zip(link.name.split(), counts or (), strict=False):
            lines.append(f"    from {end}: {_told(way)}")
    return "\n".join(lines)


def _nodes(record: Record) -> Iterator[str]:
    """A line for each device that has addresses, name and kind in front of a node's first."""
    width = max(map(len, record.nodes))
    for name, node in record.nodes.items():
        head = f"{name:<{width}}  {node.kind:<6}"
        across = max(map(len, node.addresses), default=0)
        for device, words in (node.addresses or {"": []}).items():
            yield f"  {head}  {device:<{across}}  {' '.join(words)}".rstrip()
            head = " " * len(head)


def _told(counts: Counts) -> str:
    fates = [f"{number} {word}" for name, word in _FATES.items() if (number := getattr(counts, name))]
    return ", ".join([f"{counts.carried} carried", *fates])


def as_json(folders: list[Path]) -> str:
    return json.dumps([_values(folder) for folder in folders], indent=1)


def _values(folder: Path) -> dict[str, Any]:
    record = read_record(folder)
    if record is None or not record.alive:
        return {"name": folder.name, "state": "down"}
    programs = {name: {"pid": pid, "runs": bool(start_time(pid))} for name, pid in record.programs.items()}
    return {
        "name": record.name, "state": record.state, "file": record.file, "keeper": record.pid,
        "rootless": record.rootless, "nodes": {name: asdict(node) for name, node in record.nodes.items()},
        "programs": programs, "links": [_link(folder, link) for link in record.links],
    }  # fmt: skip


def _link(folder: Path, link: LinkRecord) -> dict[str, Any]:
    now = setting_now(folder, link.stem)
    counts = read_counts(folder / link.counts) if link.counts else None
    ends = link.name.split()
    return {
        "endpoints": ends,
        "faults": now.faults.describe() if now else link.faults,
        "on": now.on if now else True,
        "changeable": bool(link.stem),
        "counts": {end: asdict(way) for end, way in zip(ends, counts, strict=True)} if counts else None,
    }
