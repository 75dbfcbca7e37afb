"""Installers of more languages, each against the real registry where this machine reaches it: a set is
installed once, what it brought is compiled and run with, and a program without it is none the wiser."""
import contextlib
from typing import NamedTuple

import pytest

import harness
import netrig
from harness import assert_error
from sessions import Session


INSTALL_SECS = 300  # Maven brings its own plugins first


class Case(NamedTuple):
    lang: str
    names: tuple  # hosts of the registry
    libraries: tuple
    code: str
    stdout: str
    installed: str  # a part of what the installer says is there
    missing: tuple  # a set that there is not
    installer: str
    without: str  # what the compiler or the program says of the same code without libraries


CASES = {
    "rust": Case(
        "rust", ("index.crates.io", "static.crates.io"),
        # Of an age that the compiler of an older distribution takes.
        ("itoa@=1.0.1", "either[use_std]@=1.6.1", "paste@=1.0.7"),
        "type Of = either::Either<u8, u8>;\npaste::paste! { fn [<forty _two>]() -> Of { Of::Left(42) } }\n"
        "fn main() { println!(\"{}\", itoa::Buffer::new().format(forty_two().into_inner())); }\n",
        "42\n", "paste 1.0.7\n", ("no-such-crate-of-berth",), "cargo", "itoa"),
    "go": Case(
        "go", ("proxy.golang.org",), ("github.com/google/uuid@v1.3.0", "github.com/spf13/cobra@v1.7.0"),
        'package main\nimport ("fmt"; "github.com/google/uuid"; "github.com/spf13/cobra"; "github.com/spf13/cobra/doc")\n'
        'func main() { u, err := uuid.Parse("6BA7B810-9DAD-11D1-80B4-00C04FD430C8"); fmt.Println(u, err)\n'
        '_ = doc.GenMan; fmt.Println((&cobra.Command{Use: "one"}).Name()) }\n',
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8 <nil>\none\n", "github.com/google/uuid v1.3.0\n",
        ("example.com/no/such/module@v1.0.0",), "go", "github.com/google/uuid"),
    "java": Case(
        "java", ("repo.maven.apache.org",), ("org.apache.commons:commons-text:1.10.0",),
        "import org.apache.commons.text.WordUtils;\nimport org.apache.commons.lang3.StringUtils;\n"
        "public class Main { public static void main(String[] a) {\n"
        'System.out.println(WordUtils.capitalize("one two") + StringUtils.repeat("!", 2)); } }\n',
        "One Two!!\n", "commons-lang3-3.12.0.jar\n", ("org.example:no-such-artifact:1",), "mvn",
        "package org.apache.commons.text does not exist"),
    "typescript": Case(
        "typescript", ("registry.npmjs.org",),
        ("@types/node@18.11.9", "zod@3.20.2", "is-odd@3.0.1", "@types/is-odd@3.0.0", "left-pad@1.3.0"),
        "import { z } from 'zod';\nimport isOdd from 'is-odd';\nimport leftPad = require('left-pad');\n"
        "import * as fs from 'fs';\nconst shape = z.object({ x: z.number() });\n"
        "const value: z.infer<typeof shape> = shape.parse({ x: 3 });\n"
        "console.log(value.x, isOdd(value.x), leftPad('x', 3, '-'), fs.existsSync('/'));\n",
        "3 true --x true\n", "zod@3.20.2", ("no-such-package-of-berth",), "npm", "has no exported member 'infer'"),
}


@contextlib.contextmanager
def serving(case, env=None):
    settings = netrig.registry_settings(*case.names)
    if not settings:
        pytest.skip("no package registry is reached from here")
    server = harness.Server({**settings, **(env or {})}).start()
    try:
        if server.post({"code": "", "lang": case.lang}).status == 400:
            pytest.skip(f"{case.lang} is not installed")
        needs(server, case.lang, case.installer)
        yield server
    finally:
        harness.end(server)


@pytest.fixture(params=sorted(CASES))
def case(request):
    return CASES[request.param]


def needs(server, lang, program):
    """What the installer is, beside the language, on this host."""
    if server.execute(f"command -v {program}", lang="bash")["exit_code"] != 0:
        pytest.skip(f"{program}, which installs libraries for {lang}, is not installed")


def ask(server, case, **fields):
    answer = server.post({"code": case.code, "lang": case.lang, "timeout": 60, **fields}, timeout_secs=INSTALL_SECS)
    assert answer.status == 200, f"{answer}\n{server.log()}"
    return answer.json()


def test_from_the_registry(case):
    with serving(case) as server:
        for _ in range(2):
            done = ask(server, case, libraries=case.libraries)
            assert (done["status"], done["stdout"]) == ("success", case.stdout), (done, server.log())
        assert server.metric("berth_layers_built_total") == 1
        (layer,) = server.get("/api/v1/layers").json()["layers"]
        assert case.installed in layer["installed"], layer
        none = ask(server, case)
        assert none["status"] == "error" and case.without in none["stderr"], none
        session = Session(server, lang=case.lang)
        done = session.run(case.code, libraries=case.libraries)
        assert done["stdout"] == case.stdout, done
        session.delete()
        failed = ask(server, case, libraries=case.missing)
        assert (failed["status"], failed["phase"]) == ("error", "install") and failed["exit_code"] != 0, failed
        name = case.missing[0].split("@")[0].split(":")[-2:][0]
        assert name in failed["stdout"] + failed["stderr"], failed
        assert server.metric("berth_layers_built_total") == 1


def test_types_are_checked():
    case = CASES["typescript"]
    with serving(case) as server:
        code = "import { z } from 'zod';\nconst text: string = z.number().parse(1);\n"
        done = server.execute(code, lang="typescript", libraries=["zod@3.20.2"], timeout=60)
        assert (done["status"], done["phase"]) == ("error", "compile"), done
        assert "main.ts(2,7): error TS2322" in done["stdout"] + done["stderr"], done


@pytest.mark.parametrize("lang,texts", [
    ("rust", ["a/b", "x@git", "x@*", "x@1 --git", "x[a/b]", "../x", "x@1;", "x --path .", "x='1'", "x\"", "x@=", "x[]"]),
    ("go", ["uuid", "fmt", "a/b", "./x.y/z", "x.y/../z", "x.y/./z", "-x.y/z", "x.y/z@../w", "https://x.y/z", "x.y//z",
            "x.y/z/...", "x.y/z@v1 -insecure", "x.y/z@none", "x.y/-z", "x.y/z@-v1", "x.y/"]),
    ("java", ["a:b", "a:b:[1,2)", "a:b:1:jar", "../a:b:1", "a:b:1 -X", "<a>:b:1", "a:b:${env.HOME}", "-a:b:1"]),
    ("typescript", ["a/b", "x@npm:y", "x@file:y", "../x", "x.tgz"])])
def test_what_is_no_requirement(server, lang, texts):
    if server.post({"code": "", "lang": lang}).status == 400:
        pytest.skip(f"{lang} is not installed")
    for text in texts:
        assert_error(server.post({"code": "1", "lang": lang, "libraries": [text]}), 400, "libraries[0]")
