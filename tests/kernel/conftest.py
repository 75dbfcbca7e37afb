"""A kernel of its own for each test, and the check that it was still alive at the end."""
import pytest
import rig


@pytest.fixture
def make_kernel(tmp_path):
    made = []

    def make(**options):
        made.append(rig.Kernel(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def kernel(make_kernel):
    """Whatever the test did to it, the next run has to work as if nothing had been."""
    one = make_kernel()
    yield one
    after = one.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7")
    assert (after.code, after.out, after.err, after.plain) == (0, "out\n", "err\n", "42"), after


@pytest.fixture
def script_kernel(make_kernel):
    """For a script, after which the process is no more."""
    return make_kernel()
