"""The kernel of R by itself. BERTH_KERNEL_RSCRIPT names another Rscript."""
import base64
import configparser
import os
import shutil

import pytest

from rig_lines import REPO, LinesKernel

LANGUAGE = configparser.ConfigParser(interpolation=None)
LANGUAGE.read(REPO / "languages" / "r.ini")
RSCRIPT = os.environ.get("BERTH_KERNEL_RSCRIPT") or shutil.which("Rscript")
pytestmark = pytest.mark.skipif(RSCRIPT is None, reason="there is no R here")


@pytest.fixture
def make_r(tmp_path):
    made = []

    def make(**options):
        made.append(LinesKernel(tmp_path, [RSCRIPT] + LANGUAGE["language"]["kernel_run"].split()[1:], "r.R", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def r(make_r):
    """Whatever the test did to it, the next run has to work as if nothing had been."""
    one = make_r()
    yield one
    after = one.run("cat('out\\n'); message('err'); 6 * 7")
    assert (after.code, after.out, after.err, after.plain) == (0, "out\n", "err\n", "[1] 42"), after


def test_state_and_values(r):
    outcome = r.run("x <- 5\nx\ny <- x * 2\ny")
    assert (outcome.code, outcome.out, outcome.plain, outcome.err) == (0, "[1] 5\n", "[1] 10", ""), outcome
    assert r.run("ls()").plain == '[1] "x" "y"'
    for code in ("invisible(3)", "z <- 1", "cat('')", "for (i in 1:2) i", "", "# nothing"):
        assert r.run(code).results == [], code


def test_text_beyond_ascii(r):
    assert r.run("c('\u00e9\u4e2d', \"q\\\"\\t\")\n").plain == '[1] "\u00e9\u4e2d"   "q\\"\\t"'


def test_a_data_frame_is_html_too(r):
    data = r.run("data.frame(a = 1:2, b = c('<x>', 'y'))").results[0]
    assert "<td>&lt;x&gt;</td>" in data["text/html"] and data["text/plain"].startswith("  a   b")


def test_plots(r):
    outcome = r.run("hist(cars$speed); plot(cars); 7")
    assert outcome.code == 0 and outcome.results[0] == {"text/plain": "[1] 7"}
    images = [base64.b64decode(data["image/png"]) for data in outcome.results[1:]]
    assert len(images) == 2 and all(image.startswith(b"\x89PNG") and image.endswith(b"IEND\xaeB`\x82") for image in images)
    assert r.run("1").results == [{"text/plain": "[1] 1"}]


def test_code_comes_as_it_is(r):
    """Backslashes in all places; and much of it, beyond ASCII, takes no time that grows with its square."""
    for text in ("", "\\", "\\\\", "\\n", "\n\\", "\\\n", "\t\r\n", "é\\né", "\\\\n\\t\\\\"):
        quoted = text.replace("\\", "\\\\")
        outcome = r.run(f"writeLines(toString(utf8ToInt('{quoted}')))")
        expected = ", ".join(str(ord(c)) for c in text)
        assert (outcome.code, outcome.out) == (0, expected + "\n"), (text, outcome)
    assert r.run("# " + "x" * 1100000 + "\n'the end'").plain == '[1] "the end"'
    assert r.run("# é \\ and a\ttab\n" * 40000 + "'é'").plain == '[1] "é"'


@pytest.mark.parametrize("code", ["readLines('stdin')", "readLines(file('stdin'))"])
def test_stdin(r, code):
    for text in ("one", "two"):
        assert r.run(code, stdin=text.encode() + b"\n").plain == f'[1] "{text}"'


def test_errors(r):
    outcome = r.run("f <- function(n) stop('boom ', n)\ng <- function() f(1)\n\ng()", file="cell-x")
    assert outcome.code == 1 and (outcome.error["name"], outcome.error["value"]) == ("simpleError", "boom 1")
    assert outcome.error["traceback"] == "Error in f(1) : boom 1\n  1: g() at cell-x#4\n  2: f(1) at cell-x#2"
    assert outcome.err == outcome.error["traceback"] + "\n"
    assert r.run("stop(structure(class = c('mine', 'error', 'condition'), list(message = 'm', call = NULL)))").error["name"] == "mine"
    assert "cell-y:1:6: unexpected assignment" in r.run("x <- <- 3", file="cell-y").error["value"]
    assert r.run("f <- function() f(); f()").code == 1


def test_warnings(r):
    assert r.run("f <- function() warning('careful'); f(); warning('top'); 1").err == "Warning in f() : careful\nWarning: top\n"


@pytest.mark.parametrize("code", ["quit(status = 3)", "tryCatch(q(status = 3), error = function(e) 1)", "f <- function() base::quit('no', 3); f()"])
def test_quit_keeps_the_state(r, code):
    r.run("kept <- 1")
    outcome = r.run(code)
    assert (outcome.code, outcome.lost, r.run("kept").plain) == (3, False, "[1] 1")


@pytest.mark.parametrize("code", ["repeat {}", "Sys.sleep(1000)", "tryCatch(repeat {}, error = function(e) 1)", "system('sleep 1000')"])
def test_interrupts(r, code):
    r.run("kept <- 1")
    for _ in range(3):
        r.start("cat('go\\n'); " + code).until("go\n")
        if "system" in code:
            children = f"/proc/{r.process.pid}/task/{r.process.pid}/children"
            r.pump(lambda: open(children).read())  # a signal before the child is there is R's to ignore
        r.interrupt()
        assert r.wait().code == 130
    assert r.run("kept").plain == "[1] 1"


def test_a_late_signal_is_dropped(r):
    r.interrupt(told=False)
    assert r.run("1").plain == "[1] 1"


def test_variables(r, tmp_path):
    (tmp_path / "lib").mkdir()
    r.set("R_LIBS", str(tmp_path / "lib"))
    assert r.run(f"normalizePath('{tmp_path}/lib') == .libPaths()[1]").plain == "[1] TRUE"


@pytest.mark.parametrize("code", [
    "closeAllConnections()", "print <- paste <- cat <- function(...) stop('no')", "rm(list = ls(all.names = TRUE)); options(device = NULL)",
    "unlink(tempdir(), recursive = TRUE); plot(1)", "q <- quit <- NULL; options(warn = 0)", "sink('/dev/null'); sink()",
])
def test_hostile_code_stops_nothing(make_r, code):
    one = make_r()
    one.run(code)
    assert one.run("'x'").plain == '[1] "x"'
    one.start("base::cat('go\\n'); repeat {}").until("go\n").interrupt()
    assert one.wait().code == 130


def test_end_of_file_ends_it(make_r):
    one = make_r()
    assert one.close() == 0
    one.close = lambda: None
