"""Sessions whose kernel speaks lines (kernels/README.md), over HTTP on the real engine: bash and ruby, what
keeps their state and what ends it."""
import contextlib
import http.client
import os
import shutil
import signal

import pytest

from harness import SLOW, wait_until
from sessions import Session, in_background


def needs(program):
    return pytest.mark.skipif(not shutil.which(program), reason=f"there is no {program} here")


needs_ruby = needs("ruby")


@pytest.fixture
def bash(server):
    one = Session(server, lang="bash")
    yield one
    if one.get().status == 200:
        one.delete()


@pytest.fixture
def ruby(server):
    if not shutil.which("ruby"):
        pytest.skip("there is no ruby here")
    one = Session(server, lang="ruby")
    yield one
    if one.get().status == 200:
        one.delete()


def interrupted(session, code, name):
    """What becomes of code that is interrupted once it has made the file NAME."""
    answer = in_background(lambda: session.run(code.replace("NAME", name)))
    path = session.path + f"/files?path={name}"
    wait_until(lambda: session.server.get(path).status == 200, "it runs")
    running = session.get().json()["running"]
    assert session.server.post({}, path=session.path + "/interrupt").json()["interrupted"] == running
    return answer()


# ---- bash ----

def test_bash_keeps_its_state(bash):
    done = bash.run("x=41; declare -A map=([key]='a b'); list=(1 2 3)\nadd() { echo $((x + $1)); }\n"
                    "mkdir -p /workspace/folder; cd /workspace/folder; export SEEN=yes; shopt -s nullglob")
    assert (done["status"], done["state"], done["stdout"]) == ("success", "kept", ""), done
    done = bash.run("add 1; echo \"${map[key]}\" ${#list[@]}; pwd; printenv SEEN; echo no*match; echo 'tab\there \\n'")
    assert done["stdout"] == "42\na b 3\n/workspace/folder\nyes\n\ntab\there \\n\n", done
    assert (done["stderr"], done["results"], done["error"]) == ("", [], None), done


def test_bash_exit_codes(bash):
    bash.run("x=1")
    for code, exit_code in (("false", 1), ("exit 3", 3), ("f() { exit 5; }; f; echo no", 5), ("(exit 4)", 4), ("nosuchcommand", 127), ("echo hi; exit", 0),
                            ("set -e; f() { false; echo no; }; f; echo no", 1), ("echo still; false; echo no", 1),
                            ("set +e; set -u; echo $unknown; echo no", 1), ("set +u; kill -INT $BASHPID; echo no", 130)):
        done = bash.run(code)
        assert (done["exit_code"], done["state"], done["killed_by"]) == (exit_code, "kept", None), (code, done)
        assert "no\n" not in done["stdout"], done
        assert done["status"] == ("success" if exit_code == 0 else "error")
    assert bash.run("exit 7")["exit_code"] == 7
    assert bash.run("echo $? $x")["stdout"] == "7 1\n"


def test_bash_says_what_is_wrong(bash):
    done = bash.run("echo one\n\nnosuchcommand")
    assert (done["stdout"], done["exit_code"]) == ("one\n", 127), done
    assert done["stderr"] == "bash: line 3: nosuchcommand: command not found\n", done
    done = bash.run("echo one\nif true; then")
    assert "syntax error" in done["stderr"] and done["exit_code"] != 0 and done["state"] == "kept", done
    assert bash.run("echo after")["stdout"] == "after\n"
    for code in ("false", "set -x; false", "set +x; false"):
        assert bash.run(code)["exit_code"] == 1
        done = bash.run("echo $? ))")
        assert "syntax error" in done["stderr"] and "__berth" not in done["stderr"], done
        bash.run("(exit 5)")
        done = bash.run("echo $?")
        assert done["stdout"] == "5\n" and "__berth" not in done["stderr"], done


def test_bash_reads_stdin(bash):
    done = bash.run("read -r first; echo \"[$first]\"; cat", stdin="one\ntwo\nthree")
    assert done["stdout"] == "[one]\ntwo\nthree", done
    assert bash.run("read -r more || echo end; cat | wc -c")["stdout"] == "end\n0\n"
    large = "x" * 1000000
    assert bash.run("wc -c", stdin=large)["stdout"].strip() == "1000000"
    assert bash.run("head -c 3; echo; cat /dev/stdin | wc -c", stdin="abcdef")["stdout"].split() == ["abc", "6"]
    done = bash.run("echo x >&0; echo x > /dev/stdin; exec 0<&-; echo $?", stdin="kept")
    assert done["state"] == "kept", done
    assert bash.run("cat", stdin="again")["stdout"] == "again"


@pytest.mark.parametrize("code", ["touch /workspace/NAME; while :; do :; done",
                                  "touch /workspace/NAME; sleep 600; echo no",
                                  "f() { touch /workspace/NAME; sleep 600 | cat; }; f; echo no"])
def test_bash_is_interrupted(bash, code):
    bash.run("kept=yes; cd /workspace")
    for name in ("first", "second"):
        done = interrupted(bash, code, name)
        assert (done["exit_code"], done["state"], done["killed_by"], done["stdout"]) == (130, "kept", None, ""), done
        assert bash.run("echo $kept; pwd")["stdout"] == "yes\n/workspace\n"


def test_bash_interrupted_as_soon_as_it_runs(bash):
    bash.run("kept=yes")
    for _ in range(20):
        answer = in_background(lambda: bash.run("while :; do :; done", timeout=20 * SLOW))
        running = wait_until(lambda: bash.get().json()["running"], "it runs", step_secs=0)
        bash.server.post({}, path=bash.path + "/interrupt")
        done = answer()
        assert (done["execution_id"], done["exit_code"], done["killed_by"]) == (running, 130, None), done
        if done["state"] == "lost":  # so many copies of one shell there are not
            bash.run("kept=yes")
        assert bash.run("echo $kept")["stdout"] == "yes\n"


def test_bash_timeouts(bash):
    bash.run("x=1")
    done = bash.run("echo before; while :; do :; done", timeout=0.5)
    assert (done["status"], done["killed_by"], done["state"]) == ("timeout", "timeout", "kept"), done
    assert done["stdout"] == "before\n"
    done = bash.run("trap '' INT; while :; do :; done", timeout=0.5)
    assert (done["status"], done["killed_by"], done["state"]) == ("timeout", "timeout", "lost"), done
    assert bash.run("echo \"[$x]\"")["stdout"] == "[]\n"


def test_bash_that_ends_is_replaced(bash):
    for code, exit_code, printed in (("exec echo gone", 0, "gone\n"), ("exec sh -c 'exit 5'", 5, ""),
                                     ("trap 'echo bye' EXIT; exit 6", 6, "bye\n"), ("kill -KILL $$; sleep 600", 137, "")):
        bash.run("x=1")
        done = bash.run(code)
        assert (done["exit_code"], done["state"], done["stdout"]) == (exit_code, "lost", printed), (code, done)
        assert bash.run("echo \"[$x]\"")["stdout"] == "[]\n"
    assert bash.run("exec nosuchcommand; echo on")["exit_code"] == 127


def test_bash_ends_so_often(bash):
    """Each exit costs a process; some day the state goes, and never the session."""
    states = [bash.run(f"exit {i}") for i in range(60)]
    assert [done["exit_code"] for done in states] == list(range(60))
    assert states[0]["state"] == "kept" and sum(done["state"] == "lost" for done in states) == 2


def test_bash_options_and_traps(bash):
    done = bash.run("set -x; echo traced")
    assert (done["stdout"], done["stderr"].lstrip("+")) == ("traced\n", " echo traced\n"), done
    bash.run("set +x")
    done = bash.run("trap 'echo bye' EXIT; echo hello")
    assert done["stdout"] == "hello\nbye\n", done
    assert bash.run("echo next; break; continue; return")["stdout"] == "next\n"
    assert bash.run("for i in 1 2; do break 9; done")["state"] == "kept"
    bash.run("exec > /workspace/log 2>&1; echo in the log; IFS=,; set -f; TMOUT=1")
    assert bash.run("cat /workspace/log; echo $-")["stdout"].startswith("in the log\n")
    assert bash.run("shopt -u sourcepath; enable -n read; echo ok")["stdout"] == "ok\n"


def test_bash_background(bash):
    done = bash.run("(while [ ! -e /workspace/go ]; do sleep 0.01; done; echo late; touch /workspace/done) &\necho first")
    assert done["stdout"] == "first\n", done
    done = bash.run("touch /workspace/go; wait; echo second")
    assert done["stdout"] == "late\nsecond\n", done
    done = bash.run("yes > /dev/null & yes >&2 & head -c 100 /dev/zero | wc -c; kill %1 %2; wait")
    assert done["stdout"] == "100\n", done


def test_bash_says_what_only_a_kernel_says(bash):
    """The code may write to init as the kernel does: that ends its own run, and nothing else."""
    bash.run("x=1")
    forged = ("for fd in /proc/$$/fd/*; do [[ $(readlink $fd) == pipe:* ]] && "
              "printf 'M {}\\nD 300\\nD x\\n\\nnonsense\\n' > $fd 2>/dev/null; done; true")
    assert bash.run(forged)["state"] == "kept"
    assert bash.run("echo $x")["stdout"] == "1\n"


def test_env_and_files_of_bash(server):
    session = Session(server, lang="sh", env={"WORD": "two words\\n", "LC_ALL": "C.UTF-8"})
    assert session.run("echo \"[$WORD]\"; echo é | wc -m")["stdout"] == "[two words\\n]\n2\n"
    session.delete()
    for _ in range(2):  # also from the pool
        session = Session(server, lang="bash", env={"WORD": "x=y\nz"})
        assert session.run("echo \"[$WORD]\"")["stdout"] == "[x=y\nz]\n"
        session.delete()


# ---- ruby ----

def test_ruby_keeps_its_state(ruby):
    done = ruby.run("require 'set'\nx = 41\nNAME = 'constant'\ndef add(n) = n + 1\nclass Point; attr_accessor :x; end;")
    assert (done["status"], done["state"], done["results"]) == ("success", "kept", []), done
    done = ruby.run("puts add(x), NAME\nPoint.new.x\n[Set.new([1]).size, \"caf\u00e9\\n\"]")
    assert done["stdout"] == "42\nconstant\n", done
    assert done["results"] == [{"text/plain": "[1, \"caf\u00e9\\n\"]"}], done
    assert ruby.run("puts __FILE__ == $0, __LINE__")["stdout"] == "true\n1\n"


def test_ruby_errors_and_exits(ruby):
    ruby.run("x = 1")
    done = ruby.run("def f\n  1 / 0\nend\nf")
    assert (done["status"], done["exit_code"], done["state"]) == ("error", 1, "kept"), done
    assert (done["error"]["name"], done["error"]["value"]) == ("ZeroDivisionError", "divided by 0")
    assert ":2:in" in done["stderr"] and done["error"]["traceback"] in done["stderr"]
    assert "kernel" not in done["stderr"] and "-e:" not in done["stderr"]
    done = ruby.run("if true")
    assert done["error"]["name"] == "SyntaxError" and done["exit_code"] == 1, done
    for code, exit_code in (("exit 3", 3), ("abort 'bye'", 1), ("exit", 0)):
        done = ruby.run(code)
        assert (done["exit_code"], done["state"], done["error"]) == (exit_code, "kept", None), done
    assert ruby.run("x")["results"] == [{"text/plain": "1"}]
    done = ruby.run("exit! 5")
    assert (done["exit_code"], done["state"]) == (5, "lost"), done
    assert ruby.run("x")["error"]["name"] == "NameError"


def test_ruby_streams(ruby):
    done = ruby.run("a = gets; warn a; puts $stdin.read", stdin="first\nrest")
    assert (done["stdout"], done["stderr"]) == ("rest\n", "first\n"), done
    assert ruby.run("p gets, STDIN.read;")["stdout"] == "nil\n\"\"\n"
    for left in ("gets", "STDIN.ungetc('x' * 100)", "STDIN.set_encoding('UTF-16LE:UTF-8'); STDIN.getc"):
        ruby.run(left, stdin="first\nnot read\n")
        assert ruby.run("STDIN.read")["results"] == [{"text/plain": '""'}], left
        ruby.run(left, stdin="first\nnot read\n")
        assert ruby.run("puts gets", stdin="new\n")["stdout"] == "new\n", left
    ruby.run("STDOUT.close; STDIN.close; $stderr = nil rescue 1;")
    assert ruby.run("puts gets", stdin="again\n")["stdout"] == "again\n"
    done = ruby.run("system('echo child; cat')", stdin="for it")
    assert done["stdout"] == "child\nfor it", done


@pytest.mark.parametrize("code", ["File.write('NAME', ''); loop {}", "File.write('NAME', ''); sleep",
                                  "File.write('NAME', ''); system('sleep 600'); puts 'no'",
                                  "File.write('NAME', ''); Thread.new { sleep }.join"])
def test_ruby_is_interrupted(ruby, code):
    ruby.run("kept = 'yes'")
    for name in ("first", "second"):
        done = interrupted(ruby, code, name)
        assert (done["exit_code"], done["state"], done["error"]["name"]) == (130, "kept", "Interrupt"), done
        assert ruby.run("puts kept")["stdout"] == "yes\n"


def test_ruby_timeouts(ruby):
    ruby.run("x = 1")
    done = ruby.run("loop {}", timeout=0.5)
    assert (done["status"], done["killed_by"], done["state"]) == ("timeout", "timeout", "kept"), done
    done = ruby.run("trap('INT', 'IGNORE'); loop {}", timeout=0.5)
    assert (done["status"], done["killed_by"], done["state"]) == ("timeout", "timeout", "lost"), done
    assert ruby.run("defined?(x).inspect")["results"] == [{"text/plain": '"nil"'}]


def test_ruby_threads_and_forks(ruby):
    done = ruby.run("fork; puts 'both'; nil")
    assert done["stdout"] == "both\nboth\n" or done["stdout"] == "both\n", done
    ruby.run("Process.wait rescue nil")
    done = ruby.run("Thread.new { Thread.main.raise 'late' }.join; sleep 0.1 while true")
    assert (done["error"]["value"], done["state"]) == ("late", "kept"), done
    assert ruby.run("1 + 1")["results"] == [{"text/plain": "2"}]


def is_there(session):
    try:
        return session.get().status == 200
    except (OSError, http.client.HTTPException):
        return False


def post_to_who_dies(session, code):
    with contextlib.suppress(OSError, http.client.HTTPException):
        session.post(code)


def outcome(server, name):
    done = server.get(f"/executions/{name}").json()
    return done if "exit_code" in done else None


# ---- both, and what is around them ----

@pytest.mark.parametrize("lang, code", [("bash", "x=(); while :; do x+=(\"$(head -c 1000000 /dev/zero | tr '\\0' x)\"); done"),
                                        pytest.param("ruby", "x = 'x' * (1 << 30)", marks=needs_ruby)])
def test_memory(server, lang, code):
    session = Session(server, lang=lang, resources={"ram": "128MB"})
    done = session.run(code, timeout=120)
    assert (done["killed_by"], done["exit_code"], done["state"]) == ("oom", 137, "lost"), done
    assert session.run("exit 3")["exit_code"] == 3
    session.delete()


@pytest.mark.parametrize("lang, code", [("bash", "yes"),
                                        pytest.param("ruby", "loop { puts 'y' * 100000 }", marks=needs_ruby)])
def test_too_much_output(server, lang, code):
    session = Session(server, lang=lang)
    done = session.run(code, timeout=300)
    assert (done["killed_by"], done["state"]) == ("output", "lost"), done
    assert session.run("exit 3")["exit_code"] == 3
    session.delete()


def test_streams_and_order(server):
    session = Session(server, lang="bash")
    answers = [in_background(lambda i=i: session.run(f"list+=({i}); sleep 0.0$((RANDOM % 5)); echo {i} ${{#list[@]}}"))
               for i in range(8)]
    done = [answer()["stdout"].split() for answer in answers]
    assert [one[0] for one in done] == [str(i) for i in range(8)]
    assert sorted(int(one[1]) for one in done) == list(range(1, 9))
    session.delete()


@pytest.mark.parametrize("lang, code, after", [
    ("bash", "x=1; echo one; while [ ! -e go ]; do sleep 0.05; done; echo two", "echo $x"),
    pytest.param("ruby", "x = 1; puts 'one'; sleep 0.05 until File.exist?('go'); puts 'two'", "puts x", marks=needs_ruby),
    pytest.param("javascript", "let x = 1; console.log('one'); while (!require('fs').existsSync('go')) "
                 "await new Promise(go => setTimeout(go, 50)); console.log('two')", "console.log(x)", marks=needs("node")),
    pytest.param("r", "x <- 1; cat('one\\n'); while (!file.exists('go')) Sys.sleep(0.05); cat('two\\n')",
                 "writeLines(format(x))", marks=needs("Rscript"))])
def test_a_new_server_takes_it_over(make_server, lang, code, after):
    server = make_server()
    session = Session(server, lang=lang)
    in_background(lambda: post_to_who_dies(session, code))
    name = session.running()
    os.kill(server.child("berth-server"), signal.SIGKILL)
    wait_until(lambda: is_there(session), "a new server has it")
    assert session.server.request("PUT", session.path + "/files?path=go", b"").status < 300
    done = wait_until(lambda: outcome(server, name), "it ends")
    assert (done["stdout"], done["exit_code"]) == ("one\ntwo\n", 0), done
    assert session.run(after)["stdout"] == "1\n"
    session.delete()
