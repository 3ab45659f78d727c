"""``opc cache ls|verify|gc|clear``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from opc.cache import folder, manage
from opc.cache.manage import Listed
from opc.errors import RuntimeCallError, fail
from opc.report.tables import duration, table

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_FAILED_CHECK = 3


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("action", choices=["ls", "verify", "gc", "clear"], help="what to do")
    parser.add_argument(
        "--size", type=size, metavar="BYTES", help="what gc leaves, such as 256M (default: 512M)"
    )


def size(text: str) -> int:
    """Read ``256M``; raises ArgumentTypeError, which argparse reports as a usage error."""
    number = text.rstrip("KMG")
    if not number.isascii() or not number.isdigit() or text[len(number) :] not in _UNITS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of bytes, such as 256M")
    return int(number) * _UNITS[text[len(number) :]]


def run(options: argparse.Namespace) -> int:
    """List, check, shrink or empty the cache. Raises RuntimeCallError E0915 where there is none."""
    if options.size is not None and options.action != "gc":
        sys.stderr.write("usage: opc cache gc [--size BYTES]\nopc cache: error: --size is an option of gc\n")
        return 2
    found = folder.find()
    if not found.usable:
        where = f"the cache '{found.path}'" if found.path else "the cache"
        message = f"{where} is not used: {found.problem}"
        raise fail(RuntimeCallError, "E0915", message, help=f"{folder.VARIABLE} names another folder")
    if options.action == "clear":
        return _tell({"removed": manage.clear(), "folder": found.path}, options.json)
    if options.action == "gc":
        dropped = manage.gc(manage.CAPACITY if options.size is None else options.size, check_all=True)
        rest = manage.entries()
        facts = {"removed": len(dropped), "bytes freed": sum(e.size for e in dropped)}
        facts |= {"left": len(rest), "bytes left": sum(e.size for e in rest)}
        return _tell({**facts, "folder": found.path}, options.json)
    return _list(options.action == "verify", found.path, options.json)


def _tell(facts: dict[str, object], as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        sys.stdout.write(", ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
    return 0


def _list(only_damaged: bool, path: str, as_json: bool) -> int:
    rows = [_row(e) for e in manage.entries()]
    damaged = [r for r in rows if not r["sound"]]
    if as_json:
        shown = damaged if only_damaged else rows
        total = {"folder": path, "entries": len(rows), "damaged": len(damaged), "listed": shown}
        sys.stdout.write(json.dumps(total, indent=2) + "\n")
    else:
        _print(damaged if only_damaged else rows)
        count = f"{len(rows)} entries, {sum(r['bytes'] for r in rows):,} bytes"
        note = "; `opc cache gc` drops them" if damaged else ""
        sys.stdout.write(f"{path}: {count}, {len(damaged)} damaged{note}\n")
    return _FAILED_CHECK if only_damaged and damaged else 0


def _print(rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    header = ("key", "kernel", "machine", "arguments", "bytes", "last used")
    shown = [
        (
            r["key"][:12],
            r["kernel"] or "damaged",
            r["machine"],
            r["arguments"],
            f"{r['bytes']:,}",
            f"{duration(max(r['seconds_since_use'], 1.0))} ago",
        )
        for r in rows
    ]
    sys.stdout.write(table(header, shown) + "\n")


def _row(listed: Listed) -> dict[str, Any]:
    entry = manage.check(listed)
    about = entry.manifest if entry else {}
    shapes = [f"{dtype}[{','.join(map(str, shape))}]" for _, _, dtype, shape, _ in about.get("args", ())]
    return {
        "key": listed.key,
        "kernel": about.get("kernel", ""),
        "machine": about.get("machine", ""),
        "arguments": f"tuned: {about['plans'] or 'as the model chose'}"
        if "plans" in about
        else " ".join(shapes),
        "bytes": listed.size,
        "seconds_since_use": round(time.time() - listed.used, 1),
        "sound": entry is not None,
    }
