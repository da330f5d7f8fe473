"""Checks every crate of the lock file against deny.toml: licences, sources and bans.

Runs offline, from `cargo metadata` alone, so that it needs no tool beyond cargo; `cargo deny check` reads the
same file and checks more. Exit status 1 and one line per finding when something is not allowed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def licence_ok(expression: str | None, allowed: set[str]) -> bool:
    """Evaluates an SPDX expression (AND binds tighter than OR) against the allowed identifiers."""
    if not expression:
        return False
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    pos = 0

    def atom() -> bool:
        nonlocal pos
        token = tokens[pos]
        pos += 1
        if token == "(":
            value = either()
            pos += 1
            return value
        if pos < len(tokens) and tokens[pos] == "WITH":
            token = f"{token} WITH {tokens[pos + 1]}"
            pos += 2
        return token in allowed

    def both() -> bool:
        nonlocal pos
        value = atom()
        while pos < len(tokens) and tokens[pos] == "AND":
            pos += 1
            value = atom() and value
        return value

    def either() -> bool:
        nonlocal pos
        value = both()
        while pos < len(tokens) and tokens[pos] == "OR":
            pos += 1
            value = both() or value
        return value

    return either()


def main() -> int:
    """Prints the findings; returns how the process should exit."""
    config = tomllib.loads((ROOT / "deny.toml").read_text())
    allowed = set(config["licenses"]["allow"])
    registries = {"registry+" + r for r in config["sources"]["allow-registry"]}
    banned = {entry["crate"] for entry in config["bans"].get("deny", [])}
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)["packages"]
    findings, versions = [], defaultdict(set)
    for p in packages:
        name = f"{p['name']} {p['version']}"
        versions[p["name"]].add(p["version"])
        if p["source"] is not None and p["source"] not in registries:
            findings.append(f"{name}: source {p['source']} is not an allowed registry")
        if not licence_ok(p["license"], allowed):
            findings.append(f"{name}: licence {p['license']!r} is not allowed by deny.toml")
        if p["name"] in banned:
            findings.append(f"{name}: banned by deny.toml")
        if p["source"] is None:
            for d in p["dependencies"]:
                if d["req"] == "*" and d.get("path") is None:
                    findings.append(f"{name}: wildcard requirement on {d['name']}")
    for name, found in sorted(versions.items()):
        if len(found) > 1:
            print(f"note: {name} in {len(found)} versions: {', '.join(sorted(found))}")
    for line in findings:
        print(line, file=sys.stderr)
    print(f"{len(packages)} crates checked, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
