"""The unit tests on this kernel and its control groups: the programs that the build made (TAP)."""
import os
import re
import subprocess

import pytest

import harness

PROGRAMS = sorted(path for path in (harness.BUILD / "tests" / "unit").glob("test_*")
                  if path.is_file() and os.access(path, os.X_OK))
BESIDE = {"BERTH_INIT": "berth-init", "BERTH_NATIVE": "berth-native"}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_unit(program):
    env = {**harness.clean_environment({"CMOCKA_MESSAGE_OUTPUT": "TAP"}),
           **{name: str(harness.BUILD / target) for name, target in BESIDE.items()}}
    done = subprocess.run([str(program)], env=env, capture_output=True, text=True, check=False,
                          timeout=120 * harness.SLOW)
    text = done.stdout + done.stderr
    assert done.returncode == 0 and "not ok" not in text, text[-4000:]
    plan = re.search(r"^1\.\.(\d+)$", done.stdout, re.MULTILINE)
    assert plan and len(re.findall(r"^ok ", done.stdout, re.MULTILINE)) == int(plan[1]), text[-4000:]
    for reason in re.findall(r"^# skipped: .*$", done.stderr + done.stdout, re.MULTILINE):
        print(reason)
