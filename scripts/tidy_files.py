#!/usr/bin/env python3
"""Prints the sources of src/ that a compile_commands.json names, one a line, each once."""
import json
import os
import sys


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        commands = json.load(file)
    source = os.path.realpath("src") + os.sep
    paths = {os.path.realpath(os.path.join(c["directory"], c["file"])) for c in commands}
    for path in sorted(paths):
        if path.startswith(source):
            print(os.path.relpath(path))


if __name__ == "__main__":
    main()
