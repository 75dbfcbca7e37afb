"""The kernel of JavaScript by itself. BERTH_KERNEL_NODE names another Node (18 to 22 are seen to work)."""
import base64
import configparser
import os
import shutil

import pytest

from rig_lines import REPO, LinesKernel

LANGUAGE = configparser.ConfigParser(interpolation=None)
LANGUAGE.read(REPO / "languages" / "javascript.ini")
NODE = os.environ.get("BERTH_KERNEL_NODE") or shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node here")

COLLECT = "require('v8').setFlagsFromString('--expose-gc'); const collect = require('vm').runInNewContext('gc');"


@pytest.fixture
def make_node(tmp_path):
    made = []

    def make(**options):
        made.append(LinesKernel(tmp_path, [NODE] + LANGUAGE["language"]["kernel_run"].split()[1:], "node.js", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def node(make_node):
    """Whatever the test did to it, the next run has to work as if nothing had been."""
    one = make_node()
    yield one
    after = one.run("console.log('out'); console.error('err'); 6 * 7")
    assert (after.code, after.out, after.err, after.plain) == (0, "out\n", "err\n", "42"), after


def value(node, code, **options):
    outcome = node.run(code, **options)
    assert outcome.code == 0 and not outcome.err, outcome
    return outcome.plain


def failed(outcome, name, text):
    assert outcome.code == 1 and outcome.error, outcome
    assert (outcome.error["name"], outcome.error["value"]) == (name, text)
    assert outcome.err == outcome.error["traceback"] + "\n"
    return outcome.error["traceback"]


def interrupted(outcome):
    assert outcome.code == 130 and outcome.error["name"] == "Interrupted", outcome


# --- values and state ---------------------------------------------------------------------------

def test_names_persist(node):
    node.run("var a = 1; let b = 2; const c = 3; function f() { return a + b + c; } class K { m() { return f(); } }")
    assert value(node, "new K().m()") == "6"


def test_names_can_be_declared_again(node):
    node.run("let a = 1; const b = 2; class K {}")
    assert value(node, "let a = 'x'; const b = 'y'; class K {}; [a, b]") == "[ 'x', 'y' ]"


@pytest.mark.parametrize("code, shown", [
    ("'text'", "'text'"), ("null", "null"), ("({a: {b: [1, 2]}})", "{ a: { b: [ 1, 2 ] } }"),
    ("{a: 1}", "{ a: 1 }"), ("-0", "-0"), ("10n ** 20n", "100000000000000000000n"), ("NaN", "NaN"),
    ("Symbol('s')", "Symbol(s)"), ("if (true) { 5 }", "5"), ("'a\\u00e9\\ud83d\\ude00'", "'a\u00e9\U0001f600'"),
    ("new Map([[1, {a: 2}]])", "Map(1) { 1 => { a: 2 } }"), ("await Promise.resolve(7)", "7"), ("1; // remark", "1"),
])
def test_value_of_the_last_expression(node, code, shown):
    assert value(node, code) == shown


@pytest.mark.parametrize("code", ["undefined", "let x = 1", "console.log()", "function f() {}", "", "// nothing", "for (;;) break"])
def test_no_value(node, code):
    outcome = node.run(code)
    assert outcome.code == 0 and outcome.results == [], outcome


def test_the_last_promise_is_awaited(node):
    outcome = node.run("async function main() { await null; console.log('in main'); return 5; }\nmain();")
    assert (outcome.code, outcome.out, outcome.plain) == (0, "in main\n", "5")


def test_await_at_the_top(node):
    assert value(node, "const a = await new Promise((done) => setTimeout(() => done('late'), 20)); a") == "'late'"
    assert value(node, "a") == "'late'"


def test_large_code_and_value(node):
    text = "x\\\n\t\"é" * 60000
    assert value(node, "`" + text.replace("\\", "\\\\") + "`.length") == str(len(text))
    shown = value(node, "'y'.repeat(3 << 20)")
    assert len(shown) < (1 << 20) + 100 and "characters left out" in shown


def test_lone_surrogates_and_nul_in_a_value(node):
    assert value(node, "['\\ud800', '\\0']") is not None


def test_representations(node):
    outcome = node.run("""
        display({ toMimeBundle: () => ({ 'text/html': '<b>x</b>', 'image/png': Buffer.from('png') }) });
        display({ 'application/json': { a: [1] } }, { raw: true });
        ({ [Symbol.for('Jupyter.display')]() { return { 'text/markdown': '*x*' }; } })""")
    assert outcome.code == 0 and len(outcome.results) == 3, outcome
    first, second, third = outcome.results
    assert first["text/html"] == "<b>x</b>" and base64.b64decode(first["image/png"]) == b"png"
    assert second == {"application/json": {"a": [1]}}
    assert third["text/markdown"] == "*x*" and "text/plain" in third


def test_a_representation_that_throws_costs_itself_only(node):
    outcome = node.run("({ a: 1, toMimeBundle() { throw new Error('no') } })")
    assert outcome.code == 0 and "a: 1" in outcome.plain and "Error: no" in outcome.err


# --- streams ------------------------------------------------------------------------------------

def test_output_comes_before_the_end(node):
    outcome = node.run("for (let i = 0; i < 20000; i++) console.log('line ' + i); process.stdout.write('end')")
    assert outcome.code == 0 and outcome.out.count("\n") == 20000 and outcome.out.endswith("line 19999\nend")


def test_output_of_children(node):
    outcome = node.run("const { execSync, spawnSync } = require('child_process');\n"
                       "spawnSync('sh', ['-c', 'echo out; echo err >&2'], { stdio: 'inherit' }); String(execSync('echo got'))")
    assert (outcome.out, outcome.err, outcome.plain) == ("out\n", "err\n", "'got\\n'")


def test_a_child_that_makes_the_pipe_non_blocking(node):
    outcome = node.run("require('child_process').spawnSync(process.execPath, ['-e', 'process.stdout.write(\"x\")'], "
                       "{ stdio: 'inherit' });\nprocess.stdout.write('y'.repeat(1 << 20))")
    assert outcome.code == 0 and outcome.out == "x" + "y" * (1 << 20)


def test_children_have_no_channel(node):
    outcome = node.run("require('child_process').spawnSync('sh', ['-c', 'echo forged >&4; cat <&3'], { stdio: 'inherit' }).status")
    assert outcome.code == 0 and outcome.plain != "0" and outcome.results != [], outcome


@pytest.mark.parametrize("code", [
    "require('fs').readFileSync(0, 'utf8')", "require('fs').readFileSync('/dev/stdin', 'utf8')",
    "let s = ''; for await (const part of process.stdin) s += part; s",
    "require('child_process').execSync('cat', { stdio: ['inherit', 'pipe', 'inherit'] }).toString()",
])
def test_stdin(node, code):
    for text in ("one\ntwo é\n", "another\n"):
        assert value(node, code, stdin=text.encode()) == repr(text)


def test_stdout_that_was_broken(node):
    node.run("process.stdout.end(); process.stdout.destroy(); console._stdout = null; process.stderr.write = null;"
             "Object.defineProperty(process, 'stdout', { value: null, configurable: true })")


# --- errors -------------------------------------------------------------------------------------

def test_traceback_has_the_users_frames_only(node):
    text = failed(node.run("function f() {\n  null.x;\n}\nf()", file="cell-x"), "TypeError",
                  "Cannot read properties of null (reading 'x')")
    assert text.split("\n")[1:] == ["    at f (cell-x:2:8)", "    at cell-x:4:1"]


def test_traceback_names_the_cell_of_the_function(node):
    node.run("async function f() {\n  await null;\n  throw new Error('late');\n}", file="cell-a")
    text = failed(node.run("await f()", file="cell-b"), "Error", "late")
    assert text == "Error: late\n    at f (cell-a:3:9)"


def test_syntax_error(node):
    text = failed(node.run("let a = 1;\nlet b = ;", file="cell-x"), "SyntaxError", "Unexpected token ';'")
    assert text == "cell-x:2\nlet b = ;\n        ^\n\nSyntaxError: Unexpected token ';'"
    assert node.run("foo(\n").error["traceback"].startswith("cell-2:2\n\n^\n\nSyntaxError: ")
    assert node.run("JSON.parse('{')").error["name"] == "SyntaxError"


def test_what_is_thrown_and_no_error(node):
    assert "Uncaught { a: 1 }" in failed(node.run("throw { a: 1 }"), "Uncaught", "{ a: 1 }")


def test_properties_and_cause(node):
    text = node.run("throw Object.assign(new Error('outer', { cause: new Error('inner') }), { code: 'E1' })").error["traceback"]
    assert "inner" in text and "code: 'E1'" in text and "berth:kernel" not in text


@pytest.mark.parametrize("code", [
    "Promise.reject(new Error('lost')); 1", "Promise.reject(new Error('lost'))",
    "setTimeout(() => { throw new Error('lost'); }, 5); await new Promise(() => {})",
    "process.nextTick(() => { throw new Error('lost'); }); 1",
    "require('fs').readFile('/nonexistent', () => { throw new Error('lost'); }); await new Promise(() => {})",
])
def test_errors_beside_the_cell(node, code):
    assert "at " in failed(node.run(code), "Error", "lost")


def test_an_error_that_can_not_be_shown(node):
    outcome = node.run("throw Object.defineProperty(new Error('x'), 'stack', { get() { throw 1; } })")
    assert outcome.code == 1 and outcome.error


def test_infinite_recursion(node):
    failed(node.run("function f() { f(); } f()"), "RangeError", "Maximum call stack size exceeded")


# --- the end of a cell --------------------------------------------------------------------------

@pytest.mark.parametrize("code", [
    "process.exit(3)", "try { process.exit(3); } catch { } finally { console.log('no'); }",
    "setTimeout(() => process.exit(3), 5); await new Promise(() => {})", "await null; process.exit(3)",
    "process.exitCode = 3; 'shown'", "Promise.resolve().then(() => { try { process.exit(3); } catch {} }); await new Promise(() => {})",
])
def test_exit_codes_keep_the_state(node, code):
    node.run("let kept = 1")
    outcome = node.run(code)
    assert (outcome.code, outcome.out, outcome.lost) == (3, "", False), outcome
    assert value(node, "kept") == "1"


def test_timers_go_on_after_the_cell(node):
    node.run("let ticks = 0; const timer = setInterval(() => { ticks++; console.log('tick'); }, 5); 0")
    outcome = node.run("while (ticks < 3) await new Promise((done) => setTimeout(done, 5)); clearInterval(timer); ticks >= 3")
    assert outcome.plain == "true" and "tick\n" in outcome.out


def test_a_kernel_that_a_cell_broke_says_that_its_state_is_gone(make_node):
    one = make_node()
    # It does nothing to the process, but Node takes a signal to itself for the end, and cleans up.
    outcome = one.run("process.kill(process.pid, 'SIGCONT')")
    outcome = outcome if outcome.lost else one.run("1")
    assert (outcome.code, outcome.lost) == (1, True) and "broken" in outcome.error["value"], outcome


def test_end_of_file_ends_it(make_node):
    one = make_node()
    one.run("setInterval(() => {}, 1000)")
    assert one.close() == 0
    one.close = lambda: None


# --- interrupts ---------------------------------------------------------------------------------

@pytest.mark.parametrize("code", [
    "console.log('go'); for (;;);",
    "console.log('go'); for (;;) { try { for (;;); } catch { } finally { console.log('caught'); } }",
    "console.log('go'); await new Promise(() => {})",
    "console.log('go'); await null; for (;;);",
    "console.log('go'); process.nextTick(() => { for (;;); })",
    "console.log('go'); ({ [require('util').inspect.custom]() { for (;;); } })",
    "await new Promise((done) => setTimeout(done, 200)); console.log('go'); for (;;);",
    "setTimeout(() => { console.log('go'); for (;;); }, 200); await new Promise(() => {})",
    "console.log('go'); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
    "const c = require('child_process').spawn('sleep', ['1000'], { stdio: 'inherit' }); console.log('go'); "
    "await new Promise(() => {})",
])
def test_interrupts(node, code):
    node.run("let kept = 1")
    for _ in range(3):
        node.start(code).until("go\n").interrupt()
        outcome = node.wait()
        interrupted(outcome)
        assert "caught" not in outcome.out
    assert value(node, "kept") == "1"


def test_an_interrupt_strikes_no_other_run(node):
    for _ in range(20):
        node.start("console.log('go'); await new Promise(() => {})").until("go\n").interrupt()
        interrupted(node.wait())
        assert value(node, "'fine'") == "'fine'"


def test_a_late_signal_is_dropped(node):
    node.run("1")
    node.interrupt()
    assert value(node, "let sum = 0; for (let i = 0; i < 1e6; i++) sum += i; sum") == "499999500000"


def test_the_users_own_handler_is_called(node):
    node.run("process.on('SIGINT', () => console.log('mine'))")
    node.start("console.log('go'); await new Promise(() => {})").until("go\n").interrupt()
    outcome = node.wait()
    interrupted(outcome)
    assert outcome.out == "go\nmine\n"
    node.start("console.log('go'); for (;;);").until("go\n").interrupt()
    interrupted(node.wait())


def test_a_signal_to_itself(node):
    interrupted(node.run("process.kill(process.pid, 'SIGINT'); for (;;);"))


def test_promises_of_interrupted_cells_can_be_collected(node):
    node.start("console.log('go'); await new Promise(() => {})").until("go\n").interrupt()
    interrupted(node.wait())
    node.run("setTimeout(() => process.exit(1), 5); await new Promise(() => {})")
    assert value(node, COLLECT + " for (let i = 0; i < 5; i++) { collect(); await new Promise((f) => setTimeout(f, 1)); } 1") == "1"


# --- modules and what else there is -------------------------------------------------------------

def test_packages_by_node_path(make_node, tmp_path):
    for name in ("early", "later"):
        folder = tmp_path / f"{name}-libraries" / name
        folder.mkdir(parents=True)
        (folder / "index.js").write_text(f"module.exports = '{name}'")
    one = make_node(env={"NODE_PATH": str(tmp_path / "early-libraries")})
    assert value(one, "require('early')") == "'early'"
    one.set("NODE_PATH", str(tmp_path / "later-libraries"))
    assert value(one, "[require('later'), (await import('later')).default]") == "[ 'later', 'later' ]"


def test_variables(node):
    node.set("SOME", "a\\b\nc=d")
    assert value(node, "process.env.SOME") == "'a\\\\b\\nc=d'"


def test_imports(node, tmp_path):
    (tmp_path / "m.mjs").write_text("export const one = 1; export default 'D';")
    (tmp_path / "d.json").write_text("[5]")
    assert value(node, "import fs, { readFileSync as read } from 'fs'\nimport * as path from 'node:path';\n"
                       "import d, {\n  one,\n} from './m.mjs'\nimport data from './d.json' with { type: 'json' };\n"
                       "[typeof fs.readFileSync === typeof read, path.join('a', 'b'), d, one, data[0]]") \
        == "[ true, 'a/b', 'D', 1, 5 ]"
    assert value(node, "const { one: again } = await import('./m.mjs'); again") == "1"
    assert value(node, "import.meta.url.startsWith('file:///')") == "true"


@pytest.mark.parametrize("code, shown", [
    ("\"import x from 'y'\"", "\"import x from 'y'\""), ("/import ('x')/.source", "\"import ('x')\""),
    ("`a ${`import('${1 + 1}')`} b`", "\"a import('2') b\""), ("({ import: 3 }).import // import 'z'", "3"),
    ("/* import 'x' */ 8 / 2 / 2", "2"), ("const s = 'it\\'s import'; s.length", "11"),
    ("[1].map((x) => x / 2)[0] /2; 'import'", "'import'"),
])
def test_what_is_no_import_stays(node, code, shown):
    assert value(node, code) == shown


def test_what_a_program_finds(node):
    assert value(node, "[typeof fetch, typeof require, globalThis.process === process]") == \
        "[ 'function', 'function', true ]"
    assert value(node, "Object.keys(globalThis).filter((name) => name.includes('\\0') || name === 'display')") == "[]"


def test_warnings_go_to_stderr(node):
    outcome = node.run("process.emitWarning('careful'); await new Promise((done) => setTimeout(done, 20))")
    assert outcome.code == 0 and "careful" in outcome.err


# --- hostile code -------------------------------------------------------------------------------

@pytest.mark.parametrize("code", [
    "JSON.stringify = null; Object.prototype.toJSON = () => 0; Array.prototype.toJSON = () => 0",
    "Array.prototype.push = null; Array.prototype.join = null; Array.prototype[Symbol.iterator] = undefined",
    "String.prototype.split = null; String.prototype.slice = null; RegExp.prototype.test = null",
    "globalThis.setImmediate = globalThis.setTimeout = globalThis.setInterval = null",
    "Promise.prototype.catch = null; globalThis.Promise = null",
    "Function.prototype.call = null; Function.prototype.apply = null; Function.prototype.bind = null",
    "globalThis.Buffer = globalThis.Error = globalThis.Array = globalThis.String = null",
    "require('events').prototype.emit = null; require('stream').Readable.prototype.read = null",
    "require('fs').writeSync = null; require('fs').readSync = null; require('vm').Script.prototype.runInThisContext = null",
    "process.removeAllListeners()", "process.exit = process.kill = process._tickCallback = null",
    "require('inspector').Session.prototype.post = null; require('util').inspect = null",
    "Object.defineProperty = null; Object.keys = null; Reflect.apply = null; Atomics.wait = Atomics.store = null",
])
def test_hostile_code_stops_nothing(make_node, code):
    one = make_node()
    one.run(code)
    after = one.run("'x' + 1")
    assert after.code in (0, 1) and not after.lost, after
    one.start("process.stdout.write('go\\n'); for (;;);").until("go\n").interrupt()
    assert one.wait().code == 130


def test_a_kernel_whose_channel_was_closed_ends(make_node):
    one = make_node()
    with pytest.raises(EOFError):
        one.run("require('fs').closeSync(4)")
