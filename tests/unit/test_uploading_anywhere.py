from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# What Windows does not have. It is taken away before anything of ours is imported.
LESS = """
import os
for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH"):
    delattr(os, name)
os.supports_dir_fd.clear()
os.supports_fd.clear()
sys.modules["fcntl"] = sys.modules["pwd"] = None
"""
SCAN = """
import offshelf.client.session, offshelf.client.uploading
from offshelf.datasets import open_source, scan, source_uri
source = open_source(source_uri(sys.argv[1]), roots=None)
dataset, unread = scan(source)
print(dataset.digest, [image.path for image in unread])
"""


def scanned(path: Path, *, less: bool) -> str:
    """Scan a dataset in a fresh interpreter."""
    script = "import sys\n" + (LESS if less else "") + SCAN
    return subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True).stdout


def test_datasets_are_read_where_there_are_no_file_descriptors_of_folders(tmp_path: Path) -> None:
    """On a system without what POSIX adds to files, the SDK reads folders, zips and CSV files just so."""
    rows = ["path,label"]
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for label in ("cat", "dog"):
            for number in range(3):
                path = tmp_path / "pets" / label / "deep" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(f"{label}{number}".encode())
                archive.write(path, f"{label}/deep/{number}.jpg")
                rows.append(f"pets/{label}/deep/{number}.jpg,{label}")
    (tmp_path / "pets.csv").write_text("\n".join(rows))
    (tmp_path / "pets" / "cat" / "link.jpg").symlink_to("nowhere")
    for name in ("pets", "pets.zip", "pets.csv"):
        assert scanned(tmp_path / name, less=True) == scanned(tmp_path / name, less=False)
