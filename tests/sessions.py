"""A client of one session, and calls that wait in the background."""
import threading

from harness import SLOW, wait_until


class Session:
    """A client of one session."""

    def __init__(self, server, **fields):
        self.server = server
        answer = server.post(fields, path="/sessions")
        assert answer.status == 200, f"{answer}\n{server.log()}"
        assert answer.json()["status"] == "active"
        self.id = answer.json()["session_id"]
        self.path = f"/sessions/{self.id}"

    def post(self, code, **fields):
        return self.server.post({"code": code, **fields}, path=self.path + "/execute")

    def run(self, code, **fields):
        answer = self.post(code, **fields)
        assert answer.status == 200, f"{answer}\n{self.server.log()}"
        return answer.json()

    def get(self):
        return self.server.get(self.path)

    def running(self):
        """The id of what runs; waits for it."""
        return wait_until(lambda: self.get().json()["running"], "it runs")

    def delete(self):
        answer = self.server.request("DELETE", self.path)
        assert answer.json() == {"session_id": self.id, "status": "closed"}, answer


def in_background(call):
    """Starts a call; returns a function that waits for what it returned."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()

    def result():
        thread.join(60 * SLOW)
        assert results, "no answer"
        return results[0]
    return result
