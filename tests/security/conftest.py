"""Fixtures of the security suite: which profiles there are, and the host that is attacked."""
import pytest

import harness
import host as host_module
import verdicts


@pytest.fixture(scope="session")
def server():
    """A server of the suite's own: a neighbour sandbox lives on it from the first attack on."""
    one = harness.Server().start()
    yield one
    harness.end(one)


def has_profile(server, profile):
    return server.post({"code": "pass", "profile": profile}).status == 200


@pytest.fixture(scope="session", params=verdicts.PROFILES)
def profile(request, server):
    if not has_profile(server, request.param):
        pytest.skip(f"this server has no profile \"{request.param}\" yet")
    return request.param


@pytest.fixture(scope="session")
def host(server):
    """Targets on the host and a neighbour sandbox, for all attacks of the session."""
    one = host_module.Host(server)
    yield one
    one.close()
