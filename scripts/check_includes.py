#!/usr/bin/env python3
"""Fails on an #include that points upwards, or sideways between providers.

The table is the one in ARCHITECTURE.md: a folder of src/ may include itself, base, wire and what its
row names. Every include between folders is written from src/ ("base/err.h")."""
import pathlib
import re
import sys

PROVIDERS = ("engine", "image", "lang", "network", "auth", "store")
LAYERS = {
    "base": (),
    "wire": ("base",),
    **{name: ("base", "wire") for name in PROVIDERS},
    "core": ("base", "wire", *PROVIDERS),
    "api": ("base", "wire", *PROVIDERS, "core"),
    "server": ("base", "wire", *PROVIDERS, "core", "api"),
    # Programs with privilege, or inside a sandbox: the bottom two layers and their own folder.
    "native": ("base", "wire"),
    "init": ("base", "wire"),
    "unpack": ("base", "wire"),
    "monitor": ("base",),
    "docker": ("base", "wire"),
    "egress": ("base", "wire"),
    "cli": ("base", "wire"),
}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def faults(source: pathlib.Path):
    for path in sorted(source.rglob("*.[ch]")):
        folder = path.relative_to(source).parts[0]
        if folder not in LAYERS:
            yield f"{path}: folder {folder} is in no layer; add it to scripts/check_includes.py"
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            parts = match.group(1).split("/")
            # Generated files are included by name alone, from the folder that generates them.
            target = parts[0] if len(parts) > 1 else folder
            if target != folder and target not in LAYERS[folder]:
                yield f"{path}:{number}: {folder} may not include {match.group(1)}"


def main() -> int:
    found = list(faults(pathlib.Path("src")))
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
