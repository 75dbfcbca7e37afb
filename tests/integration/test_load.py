"""Many executions, in a row and at once: none fails, and nothing grows. Speed is no matter here."""
import http.client
import json
import os
import threading

from harness import HANG_SECS, JSON_TYPE, LOOPBACK, SLOW, assert_error, at_once, wait_until

RSS_SLACK_KB = 24 << 10  # allocators keep what threads at the peak were given
COUNTED = (".fds", ".threads", ".processes", ".mounts", "cgroups", "zombies", "mounts.self")


def assert_not_grown(server, before, rss_slack_kb=RSS_SLACK_KB):
    def grown():
        after = server.snapshot()
        slack = {name: rss_slack_kb for name in after if name.endswith("rss_kb")}
        return {name: (before.get(name, 0), value) for name, value in after.items()
                if (name.endswith(COUNTED) or name in slack)
                and value > before.get(name, 0) + slack.get(name, 0)}

    server.wait_clean()
    wait_until(lambda: not grown(), lambda: f"grew: {grown()}", secs=20)


def run_in_a_row(server, count, failures):
    """Executions one after the other on one connection."""
    connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=HANG_SECS)
    for number in range(count):
        body = json.dumps({"code": f"print({number})"})
        connection.request("POST", "/execute", body, JSON_TYPE)
        response = connection.getresponse()
        text = response.read()
        done = json.loads(text)
        if response.status != 200 or done["stdout"] != f"{number}\n" or done["exit_code"] != 0:
            failures.append(text)
    connection.close()


def test_two_thousand_in_a_row(make_server):
    server = make_server()
    failures = []
    run_in_a_row(server, 60, failures)
    server.wait_clean()
    before = server.snapshot()
    run_in_a_row(server, 2000, failures)
    assert not failures, failures[:3]
    assert server.metric('berth_executions_total{status="success"}') == 2060
    assert_not_grown(server, before)


def test_two_hundred_at_once(make_server):
    server = make_server({"BERTH_QUEUE_WAIT": str(30 * SLOW)})
    calls = [lambda number=number: (number, server.post(
        {"code": f"print({number})", "timeout": 30 * SLOW})) for number in range(200)]
    at_once(calls)  # the peak that the second round is held against
    server.wait_clean()
    before = server.snapshot()
    for number, answer in at_once(calls):
        assert answer.status == 200, answer
        done = answer.json()
        assert (done["stdout"], done["killed_by"]) == (f"{number}\n", None), done
    assert_not_grown(server, before)


def test_two_hundred_alive_at_once(make_server):
    """None ends before all run, so that two hundred sandboxes live side by side; fewer
    where the machine has no memory for as many interpreters."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = min(200, memory // (24 << 20))
    server = make_server({"BERTH_QUEUE_WAIT": str(60 * SLOW), "BERTH_RESERVE_MIN": "1MiB",
                          "BERTH_MEMORY_OVERCOMMIT": "512"})
    code = "print('on', flush=True)\nimport time; time.sleep(600)"
    answers = []
    threads = [threading.Thread(daemon=True, target=lambda: answers.append(
        server.post({"code": code, "timeout": 600}, timeout_secs=4 * HANG_SECS)))
        for _ in range(count)]
    for thread in threads:
        thread.start()

    def running():
        listed = server.get(f"/executions?status=running&limit={count}").json()["executions"]
        return [one["execution_id"] for one in listed]

    wait_until(lambda: len(running()) == count, lambda: f"{len(running())} run", secs=2 * HANG_SECS)
    assert len(server.inits()) >= count
    for name in running():
        server.request("DELETE", f"/executions/{name}")
    for thread in threads:
        thread.join(2 * HANG_SECS)
    assert [one.status for one in answers] == [200] * count
    assert {one.json()["killed_by"] for one in answers} == {"user"}
    server.wait_clean()


def test_over_the_queue(make_server):
    server = make_server({"BERTH_MAX_SANDBOXES": "2", "BERTH_QUEUE": "3"})
    names = []
    streams = []
    for _ in range(2):
        stream = server.stream("print('on', flush=True)\nimport time; time.sleep(600)")
        names.append(next(stream)[1]["execution_id"])
        streams.append(stream)
    waiting = []
    threads = [threading.Thread(daemon=True, target=lambda: waiting.append(
        server.post({"code": "print('later')"}))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.metric("berth_queue_waiting") == 3, "three wait")
    for answer in at_once([lambda: server.post({"code": "print(1)"}) for _ in range(10)]):
        assert_error(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1
    stream = server.stream("print(1)")
    assert stream.status == 503 and stream.response.headers["Retry-After"]
    stream.close()
    for name in names:
        server.request("DELETE", f"/executions/{name}")
    for thread in threads:
        thread.join(HANG_SECS)
    assert [(one.status, one.json()["stdout"]) for one in waiting] == [(200, "later\n")] * 3
    for stream in streams:
        stream.close()
    server.hello()
    server.wait_clean()


def test_waiting_has_an_end(make_server):
    server = make_server({"BERTH_MAX_SANDBOXES": "1", "BERTH_QUEUE_WAIT": "1"})
    stream = server.stream("print('on', flush=True)\nimport time; time.sleep(600)")
    name = next(stream)[1]["execution_id"]
    answer = server.post({"code": "print(1)"})
    assert_error(answer, 503)
    assert answer.headers["Retry-After"]
    server.request("DELETE", f"/executions/{name}")
    stream.close()
    server.hello()


def test_who_waits_can_leave_and_be_cancelled(make_server):
    server = make_server({"BERTH_MAX_SANDBOXES": "1"})
    holder = server.stream("print('on', flush=True)\nimport time; time.sleep(600)")
    name = next(holder)[1]["execution_id"]
    body = json.dumps({"code": "print('never')"}).encode()
    sock = server.connect()
    sock.sendall(b"POST /execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(body) + body)
    wait_until(lambda: server.metric("berth_queue_waiting") == 1, "one waits")
    sock.close()
    wait_until(lambda: server.metric("berth_queue_waiting") == 0, "it left")
    answers = []
    thread = threading.Thread(daemon=True, target=lambda: answers.append(
        server.post({"code": "print('never')"})))
    thread.start()
    wait_until(lambda: server.metric("berth_queue_waiting") == 1, "one waits")
    listed = wait_until(lambda: server.get("/executions?status=queued").json()["executions"],
                        "it is listed")
    server.request("DELETE", f"/executions/{listed[0]['execution_id']}")
    thread.join(HANG_SECS)
    assert answers[0].json()["killed_by"] == "user" and answers[0].json()["stdout"] == ""
    server.request("DELETE", f"/executions/{name}")
    holder.close()
    server.hello()


def test_a_crowd_that_leaves(make_server):
    """Fifty clients that go away in the middle leave nothing."""
    server = make_server()
    server.hello()
    server.wait_clean()
    streams = at_once([lambda: server.stream("print('on', flush=True)\nimport time\n"
                                             "time.sleep(600)") for _ in range(50)])
    for stream in streams:
        stream.close()
    server.wait_idle()
    server.hello()
