"""What `import offshelf` costs, and what it gives."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import offshelf
from offshelf import client, errors

HEAVY = (
    "cykooz_resizer", "keras", "minio", "numpy", "openvino", "pandas", "PIL", "pyarrow", "pycurl", "scipy", "skimage",
    "sklearn", "skops",
)  # fmt: skip


def modules_after(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the packages that it has imported."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


@pytest.mark.parametrize("code", ["import offshelf", "import offshelf; offshelf.Client", "import offshelf.cli"])
def test_the_sdk_and_the_command_line_import_nothing_heavy(code: str) -> None:
    """A script or a command that talks to a server does not pay for the libraries of the services."""
    assert not modules_after(code) & set(HEAVY)


def test_the_package_itself_does_not_import_grpc() -> None:
    """Worker processes, which import this package too, do not load gRPC."""
    assert "grpc" not in modules_after("import offshelf, offshelf.errors, offshelf.digests")


def test_all_lists_exactly_the_public_names() -> None:
    """`from offshelf import ...` offers each public name, and completion shows nothing else."""
    assert list(offshelf.__all__) == sorted(offshelf.__all__)
    assert dir(offshelf) == offshelf.__all__
    for name in offshelf.__all__:
        assert getattr(offshelf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        offshelf.__getattr__("Klient")


def test_all_errors_and_all_of_the_sdk_are_public() -> None:
    """Whatever the SDK raises or returns can be named from `offshelf`."""
    raised = {name for name, thing in vars(errors).items() if inspect.isclass(thing) and issubclass(thing, Exception)}
    assert raised <= set(offshelf.__all__)
    assert set(client.__all__) <= set(offshelf.__all__)
