"""The rigs leave no kernel behind, however the tests end."""
import os
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from rig import HANG_SECS

FOLDER = pathlib.Path(__file__).resolve().parent
NODE = os.environ.get("BERTH_KERNEL_NODE") or shutil.which("node")

# Each starts a kernel whose code never looks at its channel again, says its number, and hangs.
DRIVERS = {
    "python": """
import pathlib, rig
kernel = rig.Kernel(pathlib.Path({folder!r}))
kernel.start("print('begun', flush=True)\\nwhile True: pass").until("begun")
""",
    "node": """
import configparser, pathlib, rig_lines
words = configparser.ConfigParser(interpolation=None)
words.read(rig_lines.REPO / "languages" / "javascript.ini")
command = [{node!r}] + words["language"]["kernel_run"].split()[1:]
kernel = rig_lines.LinesKernel(pathlib.Path({folder!r}), command, "node.js")
kernel.start("console.log('begun'); for (;;);").until("begun")
""",
}


def is_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("kind", sorted(DRIVERS))
def test_a_kernel_ends_with_its_driver(tmp_path, kind):
    if kind == "node" and NODE is None:
        pytest.skip("there is no node here")
    text = DRIVERS[kind].format(folder=str(tmp_path), node=NODE)
    text += "print(kernel.process.pid, flush=True)\nimport time\ntime.sleep(3600)\n"
    with subprocess.Popen([sys.executable, "-c", text], cwd=FOLDER, stdout=subprocess.PIPE, text=True) as driver:
        pid = int(driver.stdout.readline())
        driver.kill()
        driver.wait(HANG_SECS)
    end = time.monotonic() + HANG_SECS
    try:
        while not is_gone(pid):
            assert time.monotonic() < end, f"the kernel {pid} lives on"
            time.sleep(0.02)
    finally:
        if not is_gone(pid):
            os.kill(pid, 9)
