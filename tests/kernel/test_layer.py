"""A library layer comes with a run's variables, to an interpreter that has started long before."""
import json

PLACE = "/opt/libraries"
ENV = ("PYTHONPATH=" + PLACE,)
LOOK = ("import json, os, sys\n"
        "print(json.dumps({'path': sys.path, 'env': os.environ.get('PYTHONPATH'), 'pid': os.getpid()}))\n")


def looked(done):
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def assert_in_place(path):
    """Behind the library, before what the image has installed, and once."""
    at = path.index(PLACE)
    assert path.count(PLACE) == 1
    assert not [entry for entry in path[:at] if entry.endswith("-packages")]
    assert any("lib-dynload" in entry for entry in path[:at])


def test_a_cell_finds_it_and_so_do_children(kernel):
    before = looked(kernel.run(LOOK))
    assert PLACE not in before["path"] and before["env"] is None
    for _ in range(2):
        after = looked(kernel.run(LOOK, env=ENV))
        assert_in_place(after["path"])
        assert after["env"] == PLACE and after["pid"] == before["pid"]
    child = "import subprocess, sys\nprint(subprocess.check_output([sys.executable, '-c', 'import sys; print(sys.path)']))"
    assert PLACE in kernel.run(child).out


def test_a_script_needs_no_new_interpreter(script_kernel):
    done = script_kernel.script(LOOK + "41 + 1\n", env=ENV)
    assert_in_place(json.loads(done.stdout)["path"])
    assert done.results == [{"text/plain": "42"}]  # one that was started anew could send none


def test_what_the_process_began_with_stays(make_kernel):
    kernel = make_kernel(env={"PYTHONPATH": "/nowhere"})
    after = looked(kernel.run(LOOK, env=ENV))
    assert after["env"] == "/nowhere:" + PLACE
    assert "/nowhere" in after["path"] and PLACE in after["path"]


def test_a_search_path_that_is_no_list(kernel):
    kernel.run("import sys\nkept = sys.path\nsys.path = None")
    assert kernel.run("print('on')", env=ENV).stdout == b"on\n"
    assert kernel.run("sys.path = kept\nprint(len(kept) > 0)", env=ENV).stdout == b"True\n"
