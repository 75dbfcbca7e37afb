"""Sessions of JavaScript and R through a real server: state, values, stdin, errors, a timeout, an
interrupt. tests/kernel has what the kernels do by themselves."""
import base64
import dataclasses
import shutil

import pytest

from harness import wait_until
from sessions import Session, in_background

PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass
class Language:
    program: str
    keep: str       # keeps 41 in a name x
    more: str       # its value is 42, of x
    value: str      # how that is shown
    stdin: str      # prints its standard input
    error: str      # an error "went wrong" of a function
    error_name: str
    exit: str       # ends with 3
    loop: str       # prints "begun" and never ends
    wait: str       # prints "begun" and waits


LANGUAGES = {
    "javascript": Language(
        program="node", keep="const x = 41;", more="x + 1", value="42",
        stdin="process.stdout.write(require('fs').readFileSync(0, 'utf8'))",
        error="function f() { throw new RangeError('went wrong'); }\nf()", error_name="RangeError",
        exit="process.exit(3)", loop="console.log('begun'); for (;;);",
        wait="console.log('begun'); await new Promise(() => {})"),
    "r": Language(
        program="Rscript", keep="x <- 41", more="x + 1", value="[1] 42",
        stdin="writeLines(readLines('stdin'))",
        error="f <- function() stop('went wrong')\nf()", error_name="simpleError",
        exit="quit(status = 3)", loop="cat('begun\\n'); repeat {}", wait="cat('begun\\n'); Sys.sleep(1000)"),
}


@pytest.fixture(params=sorted(LANGUAGES))
def language(request):
    one = LANGUAGES[request.param]
    if shutil.which(one.program) is None:
        pytest.skip(f"there is no {one.program} here")
    return request.param, one


@pytest.fixture
def session(server, language):
    one = Session(server, lang=language[0])
    yield one
    one.delete()


def plain(answer):
    return [result["text/plain"] for result in answer["results"]]


def test_state_and_values(session, language):
    assert session.run(language[1].keep)["exit_code"] == 0
    answer = session.run(language[1].more)
    assert (answer["exit_code"], plain(answer), answer["stdout"]) == (0, [language[1].value], ""), answer


def test_stdin_is_the_runs_own(session, language):
    for text in ("one\n", "a longer one\nof two lines\n", ""):
        answer = session.run(language[1].stdin, stdin=text)
        assert (answer["exit_code"], answer["stdout"]) == (0, text), answer


def test_an_error(session, language):
    answer = session.run(language[1].error)
    assert answer["exit_code"] == 1
    assert answer["error"]["name"] == language[1].error_name and answer["error"]["value"] == "went wrong", answer
    assert "went wrong" in answer["stderr"]


def test_exit_keeps_the_state(session, language):
    session.run(language[1].keep)
    assert session.run(language[1].exit)["exit_code"] == 3
    assert plain(session.run(language[1].more)) == [language[1].value]


@pytest.mark.parametrize("kind", ["loop", "wait"])
def test_a_timeout_keeps_the_state(session, language, kind):
    session.run(language[1].keep)
    answer = session.run(getattr(language[1], kind), timeout=2)
    assert answer["stdout"] == "begun\n" and answer["state"] == "kept", answer
    assert plain(session.run(language[1].more)) == [language[1].value]


def test_an_interrupt(session, language):
    session.run(language[1].keep)
    result = in_background(lambda: session.run(language[1].loop))
    execution = session.running()
    wait_until(lambda: "begun" in session.server.get(f"/executions/{execution}").json().get("stdout", "begun"), "begun")
    answer = session.server.post({}, path=session.path + "/interrupt")
    assert answer.status == 200, answer
    assert result()["exit_code"] == 130
    assert plain(session.run(language[1].more)) == [language[1].value]


@pytest.mark.parametrize("language", ["r"], indirect=True)
def test_a_plot_of_r(session):
    answer = session.run("plot(1:3)")
    images = [result["image/png"] for result in answer["results"] if "image/png" in result]
    assert len(images) == 1 and base64.b64decode(images[0]).startswith(PNG), answer


@pytest.mark.parametrize("lang, env, code, shown", [
    ("javascript", {"LC_ALL": "de_DE.UTF-8"}, "Intl.DateTimeFormat().resolvedOptions().locale", "'de-DE'"),
    ("javascript", {"TZ": "Asia/Tokyo"}, "new Date(0).getHours()", "9"),
    ("r", {"TMPDIR": "/workspace"}, "dirname(tempdir())", '[1] "/workspace"'),
    ("r", {"TZ": "Asia/Tokyo"}, "format(as.POSIXct(0, origin = '1970-01-01'), '%H')", '[1] "09"')])
def test_variables_mean_the_same_to_a_kernel_that_waited(make_server, lang, env, code, shown):
    """What the interpreter looks at when it starts only is in at_start of its file."""
    if shutil.which(LANGUAGES[lang].program) is None:
        pytest.skip(f"there is no {lang} here")
    server = make_server({"BERTH_POOL_MIN": "0", "BERTH_POOL_MAX": "1"})
    for _ in range(2):
        one = Session(server, lang=lang, env=env)
        assert plain(one.run(code)) == [shown]
        one.delete()
        Session(server, lang=lang).delete()  # the pool makes one of this kind
        wait_until(lambda: server.metric("berth_pool_ready") > 0, "a kernel waits")
