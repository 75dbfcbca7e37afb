#!/usr/bin/env python3
"""Adds up the JUnit files of a folder: prints what failed and why, then "N passed, N failed, N skipped".

Exits with 1 on a failure, on a folder without results, and when more tests were skipped than
BERTH_SKIPS_MAX allows (unset: any number)."""
import os
import pathlib
import sys
import xml.etree.ElementTree as tree

REASON_LINES = 20  # the end of what a failed test said; the whole of it is in the file


def describe(path: pathlib.Path, suite: tree.Element, case: tree.Element, outcome: tree.Element) -> str:
    said = "\n".join(filter(None, (outcome.get("message"), outcome.text)))
    said = said or suite.findtext("system-err") or suite.findtext("system-out") or ""
    lines = said.strip().splitlines()[-REASON_LINES:]
    name = f"{case.get('classname') or path.stem} {case.get('name')}"
    return "\n    ".join([f"FAILED {name} ({path.name})", *lines])


def main() -> int:
    passed = failed = skipped = 0
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.xml")):
        suites = tree.parse(path).getroot().iter("testsuite")
        for suite, case in ((suite, case) for suite in suites for case in suite.findall("testcase")):
            bad = next((part for part in case if part.tag in ("failure", "error")), None)
            if bad is not None:
                failed += 1
                print(describe(path, suite, case, bad))
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
