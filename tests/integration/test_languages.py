"""Every language that is shipped, by one table: hello, an error, an error of the compiler, standard
input, a timeout, a memory bomb; sessions of those without a kernel; GET /languages; the compile cache."""
import configparser
import dataclasses
import os
import pathlib
import re
import signal

import pytest

from harness import REPO, SLOW, assert_error, at_once, wait_until
from sessions import Session, in_background


@dataclasses.dataclass
class Programs:
    """What is run in a language."""
    error: str             # ends with another exit code than 0
    error_words: str       # in stderr then
    stdin: str             # prints the two lines of its standard input, "one" and "two", as they are
    loop: str              # prints "begun" and never ends
    bomb: str              # takes memory until there is none
    error_code: int = 1
    broken: str = ""       # of a compiled language: what its compiler refuses
    broken_words: str = ""
    # How a bomb ends: killed for memory ("oom"), or by the language's own runtime, which stops at a bound
    # that it draws from the limit: the words that it says then.
    bomb_end: str = "oom"


LANGUAGES = {
    "bash": Programs(
        error="echo before; no_such_command",
        error_code=127,
        error_words="no_such_command: command not found",
        stdin="while read -r line; do echo \"$line\"; done",
        loop="echo begun; while :; do :; done",
        bomb="text=x; while :; do text=$text$text$text; done"),
    "c": Programs(
        error="#include <stdio.h>\n#include <stdlib.h>\n"
              "int main(void) { fprintf(stderr, \"went wrong\\n\"); return 3; }",
        error_code=3,
        error_words="went wrong",
        stdin="#include <stdio.h>\nint main(void) { int c; while ((c = getchar()) != EOF) putchar(c); }",
        loop="#include <stdio.h>\nint main(void) { puts(\"begun\"); fflush(stdout); for (volatile int i = 0;; i++); }",
        bomb="#include <stdlib.h>\n#include <string.h>\n"
             "int main(void) { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }",
        broken="int main(void) { return x; }",
        broken_words="main.c:1:25: error: 'x' undeclared"),
    "cpp": Programs(
        error="#include <stdexcept>\nint main() { throw std::runtime_error(\"went wrong\"); }",
        error_code=134,
        error_words="what():  went wrong",
        stdin="#include <iostream>\n#include <string>\nint main() { std::string line; "
              "while (std::getline(std::cin, line)) std::cout << line << '\\n'; }",
        loop="#include <iostream>\nint main() { std::cout << \"begun\" << std::endl; for (volatile int i = 0;; i = i + 1); }",
        bomb="#include <vector>\nint main() { std::vector<std::vector<char>> all; "
             "for (;;) all.emplace_back(1 << 20, 'x'); }",
        broken="int main() { return undefined_name; }",
        broken_words="main.cpp:1:21: error: 'undefined_name' was not declared"),
    "go": Programs(
        error="package main\nfunc main() { panic(\"went wrong\") }",
        error_code=2,
        error_words="panic: went wrong",
        stdin="package main\nimport (\"io\"; \"os\")\nfunc main() { io.Copy(os.Stdout, os.Stdin) }",
        loop="package main\nimport \"fmt\"\nfunc main() { fmt.Println(\"begun\"); for { } }",
        bomb="package main\nfunc main() { var all [][]byte; for { part := make([]byte, 1<<20); "
             "for i := range part { part[i] = 1 }; all = append(all, part) } }",
        broken="package main\nfunc main() { undefined() }",
        broken_words="main.go:2:15: undefined: undefined"),
    "java": Programs(
        error="public class Main { public static void main(String[] a) { throw new RuntimeException(\"went wrong\"); } }",
        error_words="java.lang.RuntimeException: went wrong",
        stdin="import java.io.*;\npublic class Main { public static void main(String[] a) throws IOException { "
              "System.in.transferTo(System.out); System.out.flush(); } }",
        loop="public class Main { public static void main(String[] a) { System.out.println(\"begun\"); for (;;) { } } }",
        bomb="import java.util.*;\npublic class Main { public static void main(String[] a) { "
             "List<byte[]> all = new ArrayList<>(); for (;;) all.add(new byte[1 << 20]); } }",
        bomb_end="java.lang.OutOfMemoryError",
        broken="public class Main { void f() { int x = \"text\"; } }",
        broken_words="Main.java:1: error: incompatible types"),
    "javascript": Programs(
        error="console.log('before'); undefinedName",
        error_words="ReferenceError: undefinedName is not defined",
        stdin="process.stdin.pipe(process.stdout)",
        loop="console.log('begun'); for (;;) { }",
        bomb="const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))"),
    "lua": Programs(
        error="error('went wrong')",
        error_words="main.lua:1: went wrong",
        stdin="for line in io.lines() do print(line) end",
        loop="print('begun') io.stdout:flush() while true do end",
        bomb="local all = {} while true do all[#all + 1] = string.rep(tostring(#all), 100000) end"),
    "perl": Programs(
        error="die 'went wrong'",
        error_code=255,
        error_words="went wrong at main.pl line 1",
        stdin="print while <STDIN>;",
        loop="$| = 1; print \"begun\\n\"; while (1) { }",
        bomb="my @all; push @all, 'x' x (1 << 20) . @all while 1;"),
    "php": Programs(
        error="<?php throw new Exception('went wrong');",
        error_code=255,
        error_words="Uncaught Exception: went wrong",
        stdin="<?php echo stream_get_contents(STDIN);",
        loop="<?php echo \"begun\\n\"; while (true) { }",
        bomb="<?php $all = []; while (true) { $all[] = str_repeat('x', 1 << 20) . count($all); }"),
    "python": Programs(
        error="print('before')\nundefined_name",
        error_words="NameError: name 'undefined_name' is not defined",
        stdin="import sys\nprint(sys.stdin.read(), end='')",
        loop="print('begun')\nwhile True: pass",
        bomb="all = []\nwhile True: all.append(bytearray(1 << 20))"),
    "r": Programs(
        error="stop('went wrong')",
        error_words="Error: went wrong",
        stdin="writeLines(readLines(file('stdin')))",
        loop="cat('begun\\n'); while (TRUE) { }",
        bomb="all <- list(); while (TRUE) all[[length(all) + 1]] <- runif(1e6)"),
    "ruby": Programs(
        error="raise 'went wrong'",
        error_words="went wrong (RuntimeError)",
        stdin="puts STDIN.readlines",
        loop="$stdout.sync = true; puts 'begun'; loop { }",
        bomb="all = []; loop { all << 'x' * (1 << 20) }"),
    "rust": Programs(
        error="fn main() { panic!(\"went wrong\"); }",
        error_code=101,
        error_words="panicked at 'went wrong'",
        stdin="use std::io;\nfn main() { io::copy(&mut io::stdin(), &mut io::stdout()).unwrap(); }",
        loop="fn main() { println!(\"begun\"); loop { std::hint::spin_loop(); } }",
        bomb="fn main() { let mut all = Vec::new(); loop { all.push(vec![1u8; 1 << 20]); } }",
        broken="fn main() { let x: u32 = \"text\"; }",
        broken_words="error[E0308]: mismatched types"),
    "sql": Programs(
        error="SELECT 1;\nSELECT * FROM missing;\nSELECT 2;",
        error_words="no such table: missing",
        stdin="CREATE TABLE lines (line TEXT);\n.import /dev/stdin lines\nSELECT line FROM lines;",
        loop="SELECT 'begun';\nWITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n;",
        bomb="WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 900)\n"
             "SELECT length(group_concat(hex(randomblob(500000)), '')) FROM n;"),
    "typescript": Programs(
        error="const broken: any = null;\nbroken.member;",
        error_words="TypeError: Cannot read properties of null",
        stdin="process.stdin.pipe(process.stdout);",
        loop="console.log('begun'); for (;;) { }",
        bomb="const all: Uint8Array[] = []; for (;;) all.push(new Uint8Array(1 << 20).fill(1));",
        broken="const x: number = 'text';",
        broken_words="main.ts(1,7): error TS2322"),
}
COMPILED = sorted(name for name, programs in LANGUAGES.items() if programs.broken)
SECS = 120 * SLOW  # compilers are slow beside other tests; what hangs has the timeout of its own test


def declaration(name):
    found = configparser.ConfigParser(interpolation=None, delimiters=("=",), inline_comment_prefixes=None)
    found.read(REPO / "languages" / f"{name}.ini")
    return found["language"]


def every(names=LANGUAGES):
    return pytest.mark.parametrize("lang", sorted(names))


def test_the_table_has_every_language_that_is_declared():
    assert sorted(path.stem for path in (REPO / "languages").glob("*.ini")) == sorted(LANGUAGES)


@every()
def test_hello(server, lang):
    done = server.execute(declaration(lang)["hello"], lang=lang, timeout=SECS)
    assert (done["status"], done["stdout"], done["stderr"]) == ("success", "hello\n", ""), done
    assert (done["exit_code"], done["phase"], done["lang"]) == (0, "run", lang)


@every()
def test_error(server, lang):
    programs = LANGUAGES[lang]
    done = server.execute(programs.error, lang=lang, timeout=SECS)
    assert (done["status"], done["exit_code"]) == ("error", programs.error_code), done
    assert done["phase"] == "run" and set(done["limits_hit"]) <= {"cpu"}, done  # a runtime has threads of its own
    assert programs.error_words in done["stderr"]


@every(COMPILED)
def test_compile_error(server, lang):
    programs = LANGUAGES[lang]
    done = server.execute(programs.broken, lang=lang, timeout=SECS)
    assert (done["status"], done["phase"], done["killed_by"]) == ("error", "compile", None), done
    assert done["exit_code"] != 0 and done["stdout"] == ""
    assert programs.broken_words in done["stderr"].replace("‘", "'").replace("’", "'")


@every()
def test_stdin(server, lang):
    done = server.execute(LANGUAGES[lang].stdin, lang=lang, stdin="one\ntwo\n", timeout=SECS)
    assert (done["status"], done["stdout"]) == ("success", "one\ntwo\n"), done


@every()
def test_timeout(server, lang):
    done = server.execute(LANGUAGES[lang].loop, lang=lang, timeout=2)
    assert (done["status"], done["killed_by"]) == ("timeout", "timeout"), done
    if done["phase"] == "run":  # on a slow host a compiler may have taken all of the time
        assert done["stdout"] == "begun\n"


@every()
def test_memory_bomb(server, lang):
    programs = LANGUAGES[lang]
    done = server.execute(programs.bomb, lang=lang, timeout=SECS,
                          resources={"ram": "256MB"})
    assert done["phase"] == "run", done
    if programs.bomb_end == "oom":
        assert (done["status"], done["killed_by"]) == ("killed", "oom"), done
        assert "memory" in done["limits_hit"]
    else:
        assert done["status"] == "error" and programs.bomb_end in done["stderr"], done


@every()
def test_aliases_and_task_types_choose_it(server, lang):
    words = declaration(lang)
    names = [lang.upper(), *re.split(r"[, ]+", words.get("aliases", ""))]
    asked = [{"lang": name} for name in names if name] + [{"task_type": f"execute_{lang}"}]
    for fields in asked:
        assert server.execute(words["hello"], timeout=SECS, **fields)["lang"] == lang, fields


# ---- what there is ----

def test_languages_are_listed_with_versions(server):
    answer = server.get("/languages", timeout_secs=SECS)
    assert answer.status == 200, answer
    listed = answer.json()
    assert listed["image"] == "host"
    assert [one["name"] for one in listed["languages"]] == sorted(LANGUAGES)
    for one in listed["languages"]:
        assert re.fullmatch(r"[0-9]+(\.[0-9]+)*", one["version"]), one
        assert one["version"] in one["version_line"]
        assert one["compiled"] == (one["name"] in COMPILED)
        words = declaration(one["name"])
        assert one["state"] == ("kernel" in words)
        assert one["aliases"] == [name for name in re.split(r"[, ]+", words.get("aliases", "")) if name]
        assert isinstance(one["libraries"], bool)
    running = server.execute("import platform; print(platform.python_version())")["stdout"].strip()
    assert [one["version"] for one in listed["languages"] if one["name"] == "python"] == [running]


def test_many_who_ask_get_one_answer(make_server):
    server = make_server()
    answers = at_once([lambda: server.get("/languages", timeout_secs=SECS)] * 4)
    assert {answer.status for answer in answers} == {200}, answers
    assert len({answer.body for answer in answers}) == 1
    assert server.metric("berth_sandboxes_created_total") == 1
    server.get("/languages")
    assert server.metric("berth_sandboxes_created_total") == 1
    server.wait_idle()


def test_an_image_that_is_not_there_is_named(server):
    assert_error(server.get("/languages?image=missing"), 400, "image", "missing", "host")


def test_an_image_without_a_language(make_server):
    server = make_server(start=False)
    (pathlib.Path(server.state) / "images" / "bare" / "usr").mkdir(parents=True)
    server.start()
    first = server.execute("print(1)", image="bare")  # nothing is known of the image
    assert (first["status"], first["exit_code"], first["phase"]) == ("error", 127, "run"), first
    answer = server.get("/languages?image=bare", timeout_secs=SECS)
    assert answer.json() == {"engine": "native", "image": "bare", "languages": []}, answer
    assert_error(server.post({"code": "print(1)", "image": "bare"}), 400, "lang", "bare", "python")
    assert_error(server.post({"lang": "python", "image": "bare"}, path="/sessions"), 400, "lang", "python")
    server.hello()


# ---- sessions of languages without a kernel ----

def kill_server(server):
    """kill -9 of the server alone, and waits for the next one."""
    pid = server.child("berth-server")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.children().get("berth-server") not in (None, pid), "another server")
    wait_until(lambda: answers(server), "it answers")


def answers(server):
    try:
        return server.get("/health").status == 200
    except OSError:
        return False


def said(server, execution):
    """The events of an execution so far, as text."""
    answer = server.get(f"/executions/{execution}/events?follow=0",
                        headers={"Accept": "application/x-ndjson"})
    assert answer.status == 200, answer
    return answer.body.decode()


@every(name for name in LANGUAGES if "kernel" not in declaration(name))
def test_a_session_runs_each_cell_as_a_program(server, lang):
    session = Session(server, lang=lang, env={"WORD": "of the session"})
    hello = declaration(lang)["hello"]
    for _ in range(2):
        done = session.run(hello, timeout=SECS)
        assert (done["status"], done["stdout"]) == ("success", "hello\n"), done
        assert (done["phase"], done["state"], done["session_id"]) == ("run", "kept", session.id)
    done = session.run(LANGUAGES[lang].stdin, stdin="one\ntwo\n", timeout=SECS)
    assert done["stdout"] == "one\ntwo\n", done
    done = session.run(LANGUAGES[lang].error, timeout=SECS)
    assert (done["status"], done["exit_code"]) == ("error", LANGUAGES[lang].error_code), done
    if LANGUAGES[lang].broken:
        done = session.run(LANGUAGES[lang].broken, timeout=SECS)
        assert (done["status"], done["phase"]) == ("error", "compile"), done
    assert session.run(hello, timeout=SECS)["stdout"] == "hello\n"
    session.delete()


C_ENV = """#include <stdio.h>
#include <stdlib.h>
int main(void) { FILE *file = fopen("count", "a+"); fputc('x', file); fseek(file, 0, SEEK_END);
printf("%s %ld\\n", getenv("WORD"), ftell(file)); fclose(file); }
"""


def test_files_and_variables_of_such_a_session_outlive_the_server(make_server):
    server = make_server()
    session = Session(server, lang="c", env={"WORD": "a b\nc"})
    assert session.run(C_ENV, timeout=SECS)["stdout"] == "a b\nc 1\n"
    assert session.run(C_ENV, timeout=SECS)["stdout"] == "a b\nc 2\n"
    kill_server(server)
    assert session.run(C_ENV, timeout=SECS)["stdout"] == "a b\nc 3\n"
    found = server.get(session.path + "/files?path=main.c")
    assert found.body.decode() == C_ENV
    session.delete()


def test_a_database_is_the_state_of_a_session_in_sql(server):
    session = Session(server, lang="sql")
    assert session.run("CREATE TABLE t (x INTEGER); INSERT INTO t VALUES (1), (2);")["status"] == "success"
    assert session.run("SELECT sum(x) FROM t;")["stdout"] == "3\n"
    assert session.run("SELECT * FROM missing;")["status"] == "error"
    assert session.run("SELECT count(*) FROM t;")["stdout"] == "2\n"
    session.delete()


JAVA_FILES = """import java.io.File;
public class Main { public static void main(String[] a) { System.out.println(new File("/tmp/classes/mine").exists());
new File("/tmp/classes/mine").mkdirs(); } }
"""


def test_a_compiler_leaves_the_files_of_a_session_alone(server):
    session = Session(server, lang="java")
    assert [session.run(JAVA_FILES, timeout=SECS)["stdout"] for _ in range(2)] == ["false\n", "true\n"]
    session.delete()


def test_what_runs_in_such_a_session_can_be_ended_and_keeps_its_files(server):
    session = Session(server, lang="lua")
    loop = "io.open('mark', 'w'):close()\nprint('begun') io.stdout:flush()\nwhile true do end"
    done = session.run(loop, timeout=1)
    assert (done["status"], done["killed_by"], done["state"]) == ("timeout", "timeout", "kept"), done
    answer = in_background(lambda: session.run(loop, timeout=SECS))
    running = session.running()
    wait_until(lambda: "begun" in said(server, running), "it runs")
    server.post({}, path=session.path + "/interrupt")
    done = answer()
    assert (done["status"], done["killed_by"], done["state"]) == ("error", None, "kept"), done
    assert "interrupted!" in done["stderr"]  # what Lua makes of a SIGINT
    assert session.run("print(io.open('mark') ~= nil)")["stdout"] == "true\n"
    session.delete()


def test_a_run_in_such_a_session_outlives_the_server(make_server):
    server = make_server()
    session = Session(server, lang="perl")
    code = "$| = 1; print \"begun\\n\"; select(undef, undef, undef, 0.05) until -e 'go'; print \"done\\n\"; exit 3"

    def try_it():
        try:
            return session.post(code)
        except OSError:
            return None
    in_background(try_it)
    execution = session.running()
    wait_until(lambda: "begun" in said(server, execution), "it runs")
    kill_server(server)
    assert server.request("PUT", session.path + "/files?path=go", b"").status == 200
    wait_until(lambda: '"end"' in said(server, execution), "it ends")
    done = server.get(f"/executions/{execution}").json()
    assert (done["status"], done["exit_code"], done["stdout"]) == ("error", 3, "begun\ndone\n"), done
    assert (done["phase"], done["state"]) == ("run", "kept")
    session.delete()


# ---- the compile cache ----

def compiled(server):
    return [server.metric(f"berth_compile_cache_{name}_total") for name in ("hits", "misses")]


def test_the_same_program_is_compiled_once(make_server):
    server = make_server()
    code = "#include <stdio.h>\nint main(int argc, char **argv) { printf(\"%d %c\\n\", argc, getchar()); }"
    first = server.execute(code, lang="c", stdin="x", timeout=SECS)
    assert (first["stdout"], compiled(server)) == ("1 x\n", [0, 1]), first
    second = server.execute(code, lang="c", stdin="y", timeout=SECS)
    assert (second["stdout"], compiled(server)) == ("1 y\n", [1, 1]), second
    assert second["usage"]["cpu_ms"] < first["usage"]["cpu_ms"]  # there was no compiler in it
    server.execute(code, lang="c", stdin="z", env={"CPATH": "/tmp"}, timeout=SECS)
    assert compiled(server) == [1, 2]  # a variable may mean another program
    header = {"path": "x.h", "content": ""}
    assert server.execute(code, lang="c", stdin="z", files=[header], timeout=SECS)["stdout"] == "1 z\n"
    assert compiled(server) == [1, 2]  # and so may a file: it is not asked
    folder = pathlib.Path(server.state) / "db" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700 and len(list(folder.iterdir())) == 2
    kill_server(server)
    assert server.execute(code, lang="c", stdin="w", timeout=SECS)["stdout"] == "1 w\n"
    assert compiled(server) == [1, 0]


def test_without_a_compile_cache(make_server):
    server = make_server({"BERTH_COMPILE_CACHE": "0"})
    hello = declaration("c")["hello"]
    assert [server.execute(hello, lang="c", timeout=SECS)["stdout"] for _ in range(2)] == ["hello\n"] * 2
    assert compiled(server) == [0, 0]


def test_the_pool_serves_every_language_without_a_kernel(make_server):
    server = make_server({"BERTH_POOL_MIN": "0", "BERTH_POOL_MAX": "4"})
    server.execute("print 1", lang="perl")
    wait_until(lambda: server.metric("berth_pool_ready") > 0, "one stands on the shelf")
    hits = server.metric("berth_pool_hits_total")
    assert server.execute("print(1)", lang="lua")["stdout"] == "1\n"
    assert server.metric("berth_pool_hits_total") == hits + 1
