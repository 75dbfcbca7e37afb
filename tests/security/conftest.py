"""Fixtures of the security suite: which profiles there are, and the host that is attacked."""
import pytest

import harness
import host as host_module
import verdicts


def pytest_collection_modifyitems(config, items):
    """No attacks in a profile that a way refuses; test_attacks.py looks at the refusal."""

    def is_refused(item):
        given = getattr(getattr(item, "callspec", None), "params", {})
        return given.get("profile") in verdicts.REFUSED.get(given.get("way"), ())

    refused = [item for item in items if is_refused(item)]
    config.hook.pytest_deselected(items=refused)
    items[:] = [item for item in items if item not in refused]


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
