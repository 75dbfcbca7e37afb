"""The attacks of attacks.def, each from Python and from C, in each profile. An attack is stopped when
it says so with a reason and nothing of the host or of a neighbour shows otherwise (host.py)."""
import ctypes
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

import verdicts
from harness import BUILD, HANG_SECS, REPO, SLOW, Server, assert_error, end, wait_until
from host import Host, findings, uploads

pytestmark = [pytest.mark.skipif(os.uname().machine != "x86_64",
                                 reason="the numbers of attacks.def are those of x86-64"),
              pytest.mark.not_on("fake")]  # which isolates nothing
PROGRAM = BUILD / "tests" / "security" / "attack"
TOGETHER = verdicts.names("CALL", "READ", "WRITE", "CODE")
APART = verdicts.names("ALONE")
START = {
    "python": "import sys\nsys.argv = ['attack', *{names!r}]\nimport attack_main\nattack_main.main()\n",
    "c": "import os\nos.chmod('attack', 0o755)\nos.execv('attack', ['attack', *{names!r}])\n",
}
# What ends its own program by the attack itself: who lives on is seen from outside.
KILLS_ITSELF = {"kill_all", "stop_all"}


@pytest.fixture(scope="session")
def server(way, subjects):
    """Each way of running a sandbox has to stop them. A neighbour lives on it up to the end, so it is not the one
    that other suites want to find empty."""
    if way != "native":
        yield subjects(way).server
        return
    one = Server().start()
    yield one
    end(one)


@pytest.fixture(scope="session", params=verdicts.PROFILES)
def profile(request, server):
    return request.param


@pytest.fixture(scope="session")
def host(server):
    one = Host(server)
    yield one
    one.close()


def attack(server, host, profile, language, names, timeout=120 * SLOW):
    """Runs attacks in one sandbox; the execution and what the host's side found."""
    answer = server.post({"code": START[language].format(names=names), "files": uploads(language == "c"),
                          "env": host.parameters(), "profile": profile, "timeout": timeout},
                         timeout_secs=timeout + HANG_SECS)
    assert answer.status == 200, f"{answer}\n{server.log()}"
    done = answer.json()
    return done, host.check(done["stdout"] + done["stderr"])


@pytest.fixture(scope="session", params=verdicts.LANGUAGES)
def language(request):
    return request.param


# {(way, profile): {language: names that were not stopped}}, of this run.
SEEN = {}


@pytest.fixture(scope="session")
def together(way, server, host, profile, language):
    done, faults = attack(server, host, profile, language, ["all"])
    assert done["exit_code"] == 0, done
    found = findings(done["stdout"])
    SEEN.setdefault((way, profile), {})[language] = {
        name for name, one in found.items() if one["verdict"] in ("ESCAPED", "undecided", "harmless")}
    return found, faults


def settle(way, name, profile, language, finding, faults=None):
    """Records the verdict and fails on one that is not fine."""
    verdict = finding["verdict"]
    detail = verdicts.detail_of(finding)
    if verdict == "ESCAPED" and name in verdicts.GIVEN[profile]:
        verdict = "harmless"
    if verdict in ("ESCAPED", "undecided", "harmless") and verdicts.is_let_through(way, profile, name, detail):
        verdict = "let through"
    if verdict == "undecided" and verdicts.is_refused(way, name, detail):
        verdict = "stopped"
    if faults:
        verdict = "ESCAPED"
    verdicts.record("verdicts", name=name, engine=way, profile=profile, language=language,
                    verdict=verdict, detail=detail)
    assert not faults, faults
    if (name, profile) in verdicts.KNOWN:
        assert verdict == "ESCAPED", f"{verdict}: take it off the list of what is known"
        return
    allowed = name in verdicts.HARMLESS or name in verdicts.GIVEN[profile]
    assert verdict in {"stopped", "absent", "let through"} | ({"harmless"} if allowed else set()), \
        f"{verdict}: {detail}"


@pytest.mark.parametrize("name", verdicts.PROFILES)
def test_the_profiles_that_are_attacked_are_those_there_are(way, server, name):
    answer = server.post({"code": "pass", "profile": name})
    if name in verdicts.REFUSED.get(way, ()):
        assert_error(answer, 400, "profile", name)
    else:
        assert answer.status == 200, answer


@pytest.mark.parametrize("name", TOGETHER)
def test_attack(way, together, profile, language, name):
    found, faults = together
    assert name in found, "it did not run"
    settle(way, name, profile, language, found[name],
           faults if found[name]["verdict"] == "ESCAPED" else None)


def test_nothing_was_reached_together(together):
    """The effects of all of them, as the host and the neighbour see them."""
    assert not together[1], together[1]


def test_what_is_listed_as_let_through_is(way, profile, together):
    """What no language gets through has to leave the list; known when the last of them has run."""
    seen = SEEN[way, profile]
    stale = verdicts.listed_as_let_through(way, profile) - set().union(*seen.values())
    assert set(seen) != set(verdicts.LANGUAGES) or not stale, f"{stale}: take it off the list"


@pytest.mark.parametrize("name", APART)
def test_attack_in_a_sandbox_of_its_own(way, server, host, profile, language, name):
    # The one that stops itself is waited for until then; all others end by themselves.
    limit = {"timeout": 5} if name == "stop_all" else {}
    done, faults = attack(server, host, profile, language, [name], **limit)
    found = findings(done["stdout"]).get(name, {"verdict": "undecided", "detail": str(done)})
    if name in KILLS_ITSELF:
        ended = {"kill_all": ("signal",), "stop_all": ("timeout",)}[name]
        if done["killed_by"] in ended:
            found = {"verdict": "stopped", "detail": f"it ended itself ({done['killed_by']})"}
    elif (done["exit_code"], done["killed_by"]) != (0, None):
        found = {"verdict": "ESCAPED", "detail": f"it ended as {done['status']}, exit code"
                 f" {done['exit_code']}, by {done['killed_by']}"}
    server.hello()
    settle(way, name, profile, language, found, faults)


def test_both_languages_have_all_attacks(server):
    wanted = verdicts.names("CALL", "READ", "WRITE", "CODE", "ALONE")
    assert len(set(wanted)) == len(wanted)
    listed = subprocess.run([PROGRAM, "list"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == wanted
    done = server.execute(START["python"].format(names=["list"]), files=uploads(False))
    assert done["stdout"].split() == wanted, done["stderr"]


def test_the_table_names_all_attacks():
    """SECURITY.md tells of every attack that there is, and of no other."""
    page = (REPO / "SECURITY.md").read_text().split("<!-- attacks")
    assert len(page) == 3, "the table has lost its marks"
    listed = re.findall(r"^\| (\w+) \| ", page[1], re.M)
    assert [name for name in listed if name != "attack"] == [
        row[1] for row in verdicts.rows() if row[0] != "SECTION"]


def test_the_host_notices(way, server):
    """Each kind of harm, done from the host itself, is seen by the look that judges the attacks."""
    target = Host(server)
    try:
        assert not target.check()
        inside = f"/proc/{target.neighbour_init}/root/tmp/{target.neighbour_name}"
        harms = {
            "files": lambda: target.file.write_text("other"),
            "listeners": lambda: socket.create_connection(("127.0.0.1", target.port)).close(),
            "System V memory": lambda: ctypes.memset(target.shm, 0, 8),
            "neighbour's limits": lambda: lower_limits(target),
            "process": lambda: os.setpriority(
                os.PRIO_PROCESS, target.keeper.pid,
                os.getpriority(os.PRIO_PROCESS, target.keeper.pid) + 1),
            "named pipe": lambda: os.read(target.fifo_fd, 8),
            # gVisor's files are its own: there it is seen by its end.
            "neighbour": lambda: os.kill(target.neighbour_init, signal.SIGKILL)
            if way.endswith("runsc") else overwrite(inside),
            "host process": target.keeper.kill,
        }
        for what, harm in harms.items():
            harm()
            wait_until(lambda: what in target.check(), f"{what} is noticed")  # noqa: B023
        assert "secrets" in target.check("before " + target.neighbour_secret)
    finally:
        target.close()


def overwrite(path):
    """Not by write_text(), which may also make a file: with fs.protected_regular (systemd sets it)
    not even root opens another user's file in a sticky folder in that way."""
    with open(path, "r+", encoding="ascii") as file:
        file.write("other")


def lower_limits(target):
    """Takes some of the neighbour's limits away, where its groups have the file."""
    for path in target._limits_of_neighbour():  # noqa: SLF001: the suite's own
        if path.endswith("pids.max") and os.path.exists(path):
            pathlib.Path(path).write_text("77")
