#!/usr/bin/env python3
"""The table of attacks in SECURITY.md, between its two marks.

  attack_table.py VERDICTS.json   writes the table from the verdicts that the suite has left
  attack_table.py --bombs VERDICTS.json
                                  prints what bombs did to a neighbour, as a table
  attack_table.py --check         fails when the table names other attacks than the suite has, or
                                  when it says that one of them reached something unknown

The names and their order are those of tests/security/attacks.def."""
import json
import os
import pathlib
import re
import sys

REPO = pathlib.Path(__file__).resolve().parent.parent
PAGE = REPO / "SECURITY.md"
BEGIN = "<!-- attacks: written by scripts/attack_table.py -->"
END = "<!-- attacks: end -->"

sys.path[:0] = [str(REPO / "tests"), str(REPO / "tests" / "security")]
os.environ.setdefault("BERTH_BUILD", str(REPO / "build"))
import verdicts  # noqa: E402: found by the path above
import ways  # noqa: E402

LANGUAGES = {"python": "Python", "c": "C", "host": "host"}


def cell(found, name, profile):
    """One verdict for all languages, or each language's own; found: {language: verdict}."""
    words = {language: "reached, known" if verdict == "ESCAPED" and (name, profile) in verdicts.KNOWN
             else verdict for language, verdict in found.items()}
    if not words:
        return "not tried"
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{LANGUAGES[language]}: {words[language]}"
                     for language in LANGUAGES if language in words)


def table(held):
    """The lines between the marks."""
    entries = list(held["verdicts"].values())
    columns = sorted({(one["engine"], one["profile"]) for one in entries},
                     key=lambda pair: (list(ways.WAYS).index(pair[0]), verdicts.PROFILES.index(pair[1])))
    lines = [BEGIN]
    for row in verdicts.rows():
        if row[0] == "SECTION":
            lines += ["", f"### {row[1]}", "",
                      "| attack | how it is tried | " + " | ".join(
                          f"{engine}, {profile}" for engine, profile in columns) + " |",
                      "|---|---|" + "---|" * len(columns)]
            continue
        kind, name, how, arguments = row
        if kind in ("READ", "WRITE"):
            how += f" `{arguments[0]}`"
        languages = ("host",) if kind == "HOST" else verdicts.LANGUAGES
        cells = [cell({one["language"]: one["verdict"] for one in entries if one["name"] == name
                       and one["language"] in languages
                       and (one["engine"], one["profile"]) == column}, name, column[1])
                 for column in columns]
        lines.append(f"| {name} | {how} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", END])


def bombs(held):
    lines = ["| bomb | profile | ended by | limits hit | p50 alone | under it | p99 alone |"
             " under it |", "|---|---|---|---|---|---|---|---|"]
    for one in held.get("figures", {}).values():
        times = [one[when][part] for part in ("p50", "p99") for when in ("alone_us", "under_us")]
        lines.append(f"| {one['name']} | {one['profile']} | {one['killed_by']} | "
                     + ", ".join(one["limits_hit"]) + " | "
                     + " | ".join(f"{time / 1000:.1f} ms" if time else "none" for time in times)
                     + " |")
    return "\n".join(lines)


def between(page):
    parts = re.split(f"{re.escape(BEGIN)}|{re.escape(END)}", page)
    if len(parts) != 3:
        sys.exit(f"{PAGE.name} has no table between its marks")
    return parts


def check():
    listed = re.findall(r"^\| (\w+) \| .* \| .* \|$", between(PAGE.read_text())[1], re.M)
    listed = [name for name in listed if name != "attack"]
    wanted = [row[1] for row in verdicts.rows() if row[0] != "SECTION"]
    faults = [f"{name} is not in the table" for name in wanted if name not in listed]
    faults += [f"{name} is no attack of the suite" for name in listed if name not in wanted]
    faults += [line for line in between(PAGE.read_text())[1].splitlines()
               if re.search(r"ESCAPED|undecided", line)]
    for fault in faults:
        print(f"{PAGE.name}: {fault}", file=sys.stderr)
    return 1 if faults else 0


def main(words):
    if words == ["--check"]:
        return check()
    if len(words) == 2 and words[0] == "--bombs":
        print(bombs(json.loads(pathlib.Path(words[1]).read_text())))
        return 0
    if len(words) != 1 or words[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    before, _, after = between(PAGE.read_text())
    PAGE.write_text(before + table(json.loads(pathlib.Path(words[0]).read_text())) + after)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
