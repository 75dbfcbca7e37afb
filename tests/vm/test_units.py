"""The unit tests on this kernel and its control groups: the programs that the build made (TAP)."""
import os
import re
import subprocess
import warnings

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
    ended = re.findall(r"^((?:not )?ok) \d+ -? ?(# SKIP)?", text, re.MULTILINE)
    failed = [one for one in ended if one == ("not ok", "")]
    plan = re.search(r"^1\.\.(\d+)$", text, re.MULTILINE)
    assert done.returncode == 0 and not failed, text[-4000:]
    assert plan and len(ended) == int(plan[1]), text[-4000:]
    reasons = re.findall(r"^# skipped: (.*)$", text, re.MULTILINE)
    if len(reasons) == int(plan[1]):
        pytest.skip(reasons[0])
    for reason in reasons:  # told, and no more: what this kernel lacks
        warnings.warn(f"{program.name} skipped a part: {reason}", stacklevel=1)
