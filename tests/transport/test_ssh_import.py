"""asyncssh is imported without what it does in vain, and can do the same."""

import ctypes.util
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clstr.transport.ssh_import import CACHE, may_be_there, nothing_in_vain

has_cache = pytest.mark.skipif(not os.path.exists(CACHE), reason="the dynamic linker here has no cache")


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A linker's cache that knows liboqs in one version only."""
    path = tmp_path / "ld.so.cache"
    path.write_bytes(b"glibc-ld.so.cache1.1\0liboqs.so.8\0/usr/local/lib/liboqs.so.8\0")
    return str(path)


@has_cache
def test_no_compiler_is_started_for_a_library_that_is_not_there(tmp_path: Path) -> None:
    for name in ("gcc", "cc", "ld"):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\n: >'{tmp_path}/called'\nexit 1\n")
        tool.chmod(0o755)
    code = "import ctypes.util; from clstr.transport.ssh_import import nothing_in_vain\n"
    code += "with nothing_in_vain(): print(ctypes.util.find_library('of-no-machine'))"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "None\n"
    assert not (tmp_path / "called").exists()


def test_the_command_line_imports_asyncssh_like_that() -> None:
    code = """if True:
        import argparse, ctypes.util, sys
        from clstr.cli.transports import Transports
        asked, there = [], ctypes.util.find_library
        class Finder:
            def find_spec(self, name, *rest):
                if name == "asyncssh":
                    asked.append(ctypes.util.find_library is there)
        sys.meta_path.insert(0, Finder())
        of_run = argparse.Namespace(
            ssh_config="none", user=None, identity=[], host_key=None, connect_timeout=None, no_leash=False
        )
        Transports(of_run, None)._by_ssh()
        print(asked, ctypes.util.find_library is there)
    """
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[False] True\n"


@pytest.mark.skipif(ctypes.util.find_library("c") is None, reason="ctypes finds no library here")
def test_a_library_that_is_there_is_found_as_ever() -> None:
    with nothing_in_vain():
        found = ctypes.util.find_library("c")
    assert found == ctypes.util.find_library("c")


def test_what_the_cache_knows_in_any_version_may_be_there(cache: str) -> None:
    assert may_be_there("oqs", cache, ())
    assert not may_be_there("oq", cache, ())
    assert not may_be_there("liboqs", cache, ())


def test_so_may_what_lies_in_a_directory_that_the_linker_searches(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libother.so").touch()
    assert not may_be_there("other", cache, ())
    assert may_be_there("other", cache, (str(tmp_path),))
    assert not may_be_there("other", cache)
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    assert may_be_there("other", cache)


def test_without_a_cache_everything_may_be_there(tmp_path: Path) -> None:
    assert may_be_there("of-no-machine", str(tmp_path / "no-such-file"), ())


def test_an_import_that_fails_leaves_ctypes_as_it_was() -> None:
    there = ctypes.util.find_library
    with pytest.raises(ModuleNotFoundError), nothing_in_vain():
        raise ModuleNotFoundError("asyncssh")
    assert ctypes.util.find_library is there


# --- X.509 -------------------------------------------------------------------------------------------------

ASK = """if True:
    import contextlib, sys
    from clstr.transport.ssh_import import nothing_in_vain
    with nothing_in_vain() if sys.argv[1:] else contextlib.nullcontext():
        import asyncssh
    from asyncssh.kex import get_kex_algs
    from asyncssh.public_key import get_certificate_algs, get_public_key_algs, get_x509_certificate_algs
    print(get_kex_algs(), get_certificate_algs(), get_public_key_algs(), get_x509_certificate_algs())
    print("cryptography.x509" in sys.modules)
"""


def ask(*arguments: str, path: str = "") -> list[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([path, *sys.path])}
    command = [sys.executable, "-c", ASK, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.skipif(importlib.util.find_spec("OpenSSL") is not None, reason="pyOpenSSL is installed")
def test_without_pyopenssl_x509_is_not_loaded_and_nothing_else_changes() -> None:
    (offered, loaded), (offered_as_ever, loaded_as_ever) = ask("in brief"), ask()
    assert offered == offered_as_ever
    assert (loaded, loaded_as_ever) == ("False", "True")


def test_with_pyopenssl_x509_is_there_as_ever(tmp_path: Path) -> None:
    (tmp_path / "OpenSSL").mkdir()
    (tmp_path / "OpenSSL" / "__init__.py").touch()
    (tmp_path / "OpenSSL" / "crypto.py").touch()
    offered, loaded = ask("in brief", path=str(tmp_path))
    assert [offered, loaded] == ask(path=str(tmp_path))
    assert "x509v3-" in offered
    assert loaded == "True"
