#!/usr/bin/env python3
"""Adds up the JUnit files of a folder: prints "N passed, N failed, N skipped".

Exits with 1 on a failure, on a folder without results, and when more tests were skipped than
BERTH_SKIPS_MAX allows (unset: any number)."""
import os
import pathlib
import sys
import xml.etree.ElementTree as tree


def main() -> int:
    passed = failed = skipped = 0
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.xml")):
        for case in tree.parse(path).getroot().iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                failed += 1
            elif case.find("skipped") is not None:
                skipped += 1
            else:
                passed += 1
    limit = os.environ.get("BERTH_SKIPS_MAX", "")
    too_many = limit != "" and skipped > int(limit)
    if too_many:
        print(f"{skipped} tests were skipped, {limit} may be: a prerequisite went missing")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or too_many or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
