"""What every test may rely on: its home folder is empty, and nothing but this machine is reached."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes.isolation import USER_FOLDERS, is_loopback

PRINT_HOME = "from pathlib import Path; print(Path.home())"


@pytest.mark.parametrize("variable", USER_FOLDERS)
def test_a_users_folder_is_one_of_the_tests(variable: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path(os.environ[variable])
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path_factory.getbasetemp()) or folder.is_relative_to(tmp_path_factory.getbasetemp().parent)


def test_children_have_the_same_home() -> None:
    done = subprocess.run([sys.executable, "-c", PRINT_HOME], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == Path.home() == Path(os.environ["HOME"])


def test_no_folder_of_data_is_named() -> None:
    assert "ATTAR_DATA" not in os.environ


@pytest.mark.parametrize("host", ["192.0.2.1", "example.org", "2001:db8::1"])
def test_a_connection_elsewhere_fails_the_test(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        for connect in (sock.connect, sock.connect_ex):
            with pytest.raises(pytest.fail.Exception, match="mark it `network`"):
                connect((host, 80))


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.8.8", 1), True),
        (("localhost", 1), True),
        (("::1", 1, 0, 0), True),
        ("/run/socket", True),
        (("10.0.0.1", 1), False),
        (("example.org", 1), False),
    ],
)
def test_what_counts_as_this_machine(address: object, loopback: bool) -> None:
    assert is_loopback(address) is loopback
