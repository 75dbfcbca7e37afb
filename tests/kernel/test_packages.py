"""With the packages that people use: plots and tables are results with no call needed."""
import base64
import struct
import subprocess
import zlib

import pytest
import rig

PACKAGES = ("numpy", "pandas", "matplotlib")


@pytest.fixture(autouse=True)
def packages():
    if subprocess.run([rig.PYTHON, "-c", "import " + ", ".join(PACKAGES)], capture_output=True).returncode:
        pytest.skip(f"{rig.PYTHON} lacks one of {', '.join(PACKAGES)}")


def decode_png(text):
    """Width, height and the raw rows of a base64 PNG; every chunk's checksum is checked."""
    data = base64.b64decode(text, validate=True)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, pixels, size = 8, b"", None
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length:at + 12 + length])[0]
        if kind == b"IHDR":
            size = struct.unpack(">II", body[:8])
        if kind == b"IDAT":
            pixels += body
        at += 12 + length
    assert kind == b"IEND"
    return *size, zlib.decompress(pixels)


def test_a_plot_needs_no_call(kernel):
    done = kernel.run("import matplotlib.pyplot as plt\nplt.plot([1, 4, 9])\nplt.title('squares');")
    (result,) = done.results
    width, height, pixels = decode_png(result["image/png"])
    assert width > 300 and height > 200 and len(set(pixels)) > 10 and done.err == ""
    assert kernel.run("plt.get_fignums()").plain == "[]"  # closed: not shown again
    assert len(kernel.run("plt.figure(); plt.figure();").results) == 2


def test_show_shows_at_that_moment(kernel):
    done = kernel.run("from matplotlib.pyplot import *\nfor i in range(2):\n  plot([i])\n  show()\n  display(i)")
    assert [sorted(one)[0] for one in done.results] == ["image/png", "text/plain"] * 2, done
    assert [one["text/plain"] for one in done.results][1::2] == ["0", "1"] and done.err == ""


def test_figures_by_value_and_by_display(kernel):
    done = kernel.run("import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\ndisplay(fig)\nfig")
    assert [("image/png" in one) for one in done.results] == [True, True]
    done = kernel.run("from matplotlib.figure import Figure\nf = Figure()\nf.subplots().plot([1])\nf")
    decode_png(done.results[0]["image/png"])


def test_a_plot_before_an_error_is_shown(kernel):
    done = kernel.run("import matplotlib.pyplot as plt\nplt.plot([1])\n1/0")
    assert done.code == 1 and "image/png" in done.results[0]


def test_a_plot_that_cannot_be_drawn(kernel):
    done = kernel.run("import matplotlib.pyplot as plt\nplt.title('$\\\\undefinedmacro{$')\n1;")
    assert done.code == 1 and done.error and "<kernel>" not in done.err, done
    assert kernel.run("plt.get_fignums()").plain == "[]"


def test_subprocesses_plot_too(kernel):
    done = kernel.run("import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import matplotlib.pyplot as p;"
                      " p.plot([1]); p.savefig(\"x.png\"); p.show()']).returncode")
    assert done.plain == "0" and (kernel.folder / "x.png").stat().st_size > 1000


def test_a_table_is_html(kernel):
    done = kernel.run("import pandas as pd\npd.DataFrame({'a': [1, 2], 'é': ['<x>', None]})")
    (result,) = done.results
    assert "<table" in result["text/html"] and "&lt;x&gt;" in result["text/html"]
    assert result["text/plain"].splitlines()[0].split() == ["a", "é"]
    assert kernel.run("pd.Series([1])").results[0].keys() == {"text/plain"}


def test_arrays(kernel):
    assert kernel.run("import numpy as np\nnp.arange(3) * 2").plain == "array([0, 2, 4])"
    assert kernel.run("np.float64(1) / 0").err.count("RuntimeWarning") == 1


def test_plots_of_a_script(script_kernel):
    done = script_kernel.script("import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\nplt.plot([2])")
    assert ["image/png" in one for one in done.results].count(True) == 2 and done.code == 0, done
