"""An init in a container that somebody else made (tests/carried.py): what it serves is what it serves
on the native engine, so the same tests are held against it, under runc and in gVisor."""
import shutil

import pytest

import carried
import test_init_sessions
from test_init_sessions import start_kernel

# Many sandboxes for what init does the same everywhere.
LEFT_OUT = ("test_an_acknowledged_renewal_is_never_lost",)
# What gVisor has not: limits of memory and processes, which are the engine's, around the whole of it;
# the end of input that is typed, in Debian's version.
NOT_IN_GVISOR = ("test_out_of_memory", "test_out_of_memory_beside_a_kernel_ends_both",
                 "test_an_execution_beside_a_kernel", "test_a_held_terminal")
globals().update({name: test for name, test in vars(test_init_sessions).items()
                  if name.startswith("test_") and name not in LEFT_OUT})


class Engine:
    def __init__(self, runtime):
        self.runtime = runtime
        self.containers = {}

    def create(self, storage=None, **options):
        container = carried.Container(self.runtime, **options)
        self.containers[container.id] = container
        return container.sandbox

    def init_pid(self, sandbox_id):
        """Whether it lives, as the native engine's tests ask for it."""
        container = self.containers[sandbox_id]
        return None if container.ended() else container.process.pid


def pytest_generate_tests(metafunc):
    if metafunc.function.__name__ in NOT_IN_GVISOR:
        metafunc.parametrize("engine", ["runc"], indirect=True, scope="module")
    elif "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ["runc", "runsc"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def engine(request):
    assert shutil.which(request.param), f"{request.param}: scripts/deps.sh"
    return Engine(request.param)


@pytest.fixture
def sandbox(engine):
    with engine.create() as one:
        yield one


@pytest.fixture
def kernel(sandbox):
    start_kernel(sandbox)
    yield sandbox
