"""The terminal of a session over a WebSocket, on the real engine: a shell, its window, its end from
either side, and who is not let in."""
import time

import pytest

from harness import LOOPBACK, wait_until
from sessions import Session
from websocket import BINARY, CLOSE, PING, PONG, TEXT, Refused, WebSocket


@pytest.fixture
def session(server):
    one = Session(server)
    yield one
    if one.get().status == 200:
        one.delete()


def open_terminal(session, **how):
    return WebSocket(session.server.port, session.path + "/terminal", **how)


@pytest.fixture
def terminal(session):
    one = open_terminal(session)
    # What is asked for is not in what is typed, so an echo is not taken for an answer.
    one.type("PS1=; echo rea''dy\n")
    one.until(b"ready\r\n")
    yield one
    one.leave()


def refusal(session, status, **how):
    with pytest.raises(Refused) as caught:
        open_terminal(session, **how)
    assert caught.value.status == status, caught.value
    return caught.value


# ---- a shell ----

def test_a_shell_on_a_terminal(session, terminal):
    session.run("open('from_code', 'w').write('hello')")
    terminal.type("cat from_code; echo \" $((6 * 7)) $(tty) $PWD $TERM $(shopt -q login_shell; echo $?)\"\n")
    assert b"hello 42 /dev/pts/0 /workspace xterm-256color 0\r\n" in terminal.until(b" 0\r\n")
    terminal.type("test -t 0 -a -t 1 -a -t 2 && echo all''three; id -u > id\n")
    terminal.until(b"allthree\r\n")
    wait_until(lambda: session.run("print(open('id').read())")["stdout"].strip() == "1000", "id")


def test_bytes_of_every_kind(session, terminal):
    terminal.type("stty raw -echo; head -c 256 | tee got | od -An -tu1 -v -w256; stty sane; echo do''ne\n")
    wait_until(lambda: session.run("import os; print(os.path.exists('got'))")["stdout"] == "True\n",
               "head waits")
    terminal.send(bytes(range(256)))
    seen = terminal.until(b"done\r\n")
    assert " ".join(map(str, range(256))).encode() in b" ".join(seen.split()), seen


def test_the_window(terminal):
    terminal.type("stty size\n")
    terminal.until(b"24 80\r\n")
    terminal.type("trap 'stty size' WINCH; echo set''up\n")
    terminal.until(b"setup\r\n")
    terminal.resize(132, 50)
    terminal.type("\n")  # a shell that was about to read a line runs the trap after that line
    terminal.until(b"50 132\r\n")


@pytest.mark.parametrize("text", [b"{", b"[80,24]", b'{"resize":80}', b'{"resize":[0,24]}',
                                  b'{"resize":[80,100000]}', b'{"resize":["80","24"]}',
                                  b'{"resize":[80]}', b"\xff\xfe"])
def test_text_that_is_no_resize(terminal, text):
    terminal.send(text, TEXT)
    terminal.to_the_end()
    assert terminal.close and terminal.close[0] == 1007, terminal.close


def test_text_with_nothing_known_is_passed_over(terminal):
    terminal.send(b'{"resize":[90,30],"later":true}', TEXT)
    terminal.type("stty size\n")
    terminal.until(b"30 90\r\n")


def test_an_interrupt_is_typed(terminal):
    terminal.type("sh -c 'echo running; exec sleep 1000'\n")
    terminal.until(b"running\r\n")
    terminal.send(b"\x03")
    terminal.until(b"^C")
    terminal.type("echo af''ter\n")
    terminal.until(b"after\r\n")


def test_a_flood_of_output_and_a_slow_reader(terminal):
    terminal.type("head -c 2000000 /dev/zero | tr '\\0' x; echo; echo do''ne\n")
    time.sleep(0.2)  # not read meanwhile
    assert terminal.until(b"done\r\n").count(b"x") >= 2000000


def test_a_client_that_writes_all_before_it_reads(terminal):
    terminal.type("stty -echo raw; head -c 150000 | wc -c; stty sane\n")
    terminal.send(b"y" * 60000)
    terminal.send(b"y" * 60000)
    terminal.send(b"y" * 60000)
    assert b"150000" in terminal.until(b"150000")


# ---- the protocol ----

def test_pings_are_answered(terminal):
    terminal.send(b"are you there", PING)
    while (got := terminal.receive())[0] != PONG:
        assert got[0] == BINARY
    assert got[1] == b"are you there"


def test_a_message_in_fragments(terminal):
    terminal.send(b"echo fr", BINARY, fin=False)
    terminal.send(b"", PING)
    terminal.send(b"ag''ments\n", 0)
    seen = b""
    while b"fragments\r\n" not in seen:
        got = terminal.receive()
        seen += got[1] if got[0] == BINARY else b""


def test_bytes_behind_the_head(session):
    early = WebSocket.frame(None, BINARY, b"echo ear''ly\n")
    terminal = open_terminal(session, early=early)
    terminal.until(b"early\r\n")
    terminal.leave()


@pytest.mark.parametrize("how, status", [
    (dict(payload=b"x", mask=False), 1002), (dict(payload=b"x", opcode=3), 1002),
    (dict(payload=b"x", opcode=0), 1002), (dict(payload=b"x" * 100000), 1009),
    (dict(payload=b"x" * 126, opcode=PING), 1005)])  # the library names no status for this one
def test_frames_against_the_rules(terminal, how, status):
    terminal.send(**how)
    terminal.to_the_end()
    assert terminal.close and terminal.close[0] == status, terminal.close


# ---- ends ----

def test_the_end_of_the_shell(terminal):
    terminal.type("exit 7\n")
    terminal.to_the_end()
    assert terminal.close == (1000, "exit 7")


def processes(session):
    code = ("import os\nnames = [open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') "
            "if p.isdigit()]\nprint(sum('sleep\\0' in n for n in names))")
    return int(session.run(code)["stdout"])


@pytest.mark.parametrize("politely", [True, False])
def test_a_client_that_leaves_hangs_up(session, terminal, politely):
    terminal.type("trap 'echo hup > hup; exit' HUP; sleep 1000 & echo st''arted; wait\n")
    terminal.until(b"started\r\n")
    wait_until(lambda: processes(session) == 1, "what was forked has become sleep")
    if politely:
        terminal.send(b"\x03\xe8", CLOSE)
        terminal.to_the_end()
        assert terminal.close[0] == 1000
    terminal.leave()
    wait_until(lambda: session.run("import os; print(os.path.exists('hup'))")["stdout"] == "True\n",
               "the shell hears of it")
    wait_until(lambda: processes(session) == 0, "what it started ends too")
    assert session.run("1 + 1")["status"] == "success"


def test_a_session_that_is_deleted(session, terminal):
    session.delete()
    terminal.to_the_end()
    assert terminal.close and terminal.close[0] in (1000, 1001), terminal.close


def test_the_kernel_goes_on_beside_it(session, terminal):
    session.run("x = 5")
    terminal.type("sleep 1000\n")
    assert session.run("x")["results"] == [{"text/plain": "5"}]
    other = open_terminal(session)
    other.type("tty; exit\n")
    assert b"/dev/pts/1" in other.to_the_end()


# ---- who is not let in ----

def test_a_head_that_is_no_upgrade(session):
    for name in ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version"):
        assert name.encode() in refusal(session, 400, omit=(name,)).body or name == "Connection"
    refused = refusal(session, 400, fields={"Sec-WebSocket-Version": "8"})
    assert b"Sec-WebSocket-Version: 13" in refused.head
    refusal(session, 400, fields={"Sec-WebSocket-Key": "short"})
    refusal(session, 405, method="POST")


def test_pages_of_other_hosts(session):
    port = session.server.port
    for origin in ("http://evil.example", "null", f"http://{LOOPBACK}:{port + 1}", f"http://{LOOPBACK}",
                   f"http://{LOOPBACK}:{port}.evil.example", f"ftp://{LOOPBACK}:{port}",
                   f"http://evil.example/://{LOOPBACK}:{port}"):
        refused = refusal(session, 403, fields={"Origin": origin})
        assert b"Origin" in refused.body, origin
    refusal(session, 403, fields={"Host": "evil.example", "Origin": "http://evil.example"})
    terminal = open_terminal(session, fields={"Origin": f"http://{LOOPBACK}:{port}"})
    terminal.leave()


def test_no_such_session(server):
    with pytest.raises(Refused) as caught:
        WebSocket(server.port, "/sessions/00000000-0000-4000-8000-000000000000/terminal")
    assert caught.value.status == 404


def test_places_come_back(session):
    for _ in range(2):
        terminals = [open_terminal(session) for _ in range(5)]
        assert b"Retry-After" in refusal(session, 503).head
        for terminal in terminals:
            terminal.leave()

        def again():
            try:
                open_terminal(session).leave()
            except Refused:
                return False
            return True
        wait_until(again, "they are free")
        wait_until(lambda: session.get().status == 200, "it lives")
