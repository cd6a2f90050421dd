"""Remove from installed packages what no service uses: ``python shrink.py PREFIX``.

Every line below was tried: without it all services start, extract, train, compare and predict, with the same bytes as a
result. A line that fits nothing any more is taken out; a test says so.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

UNUSED = {
    # By name: there are packages that import their tests, mahotas for one.
    "h5py/tests": "its own tests",
    "networkx/**/tests": "its own tests",
    "numpy/**/tests": "its own tests",
    "pyarrow/tests": "its own tests",
    "scipy/**/tests": "its own tests",
    "sklearn/**/tests": "its own tests",
    "**/*.pyx": "sources of compiled modules",
    "**/*.pxd": "for compiling against a package",
    "**/*.pxi": "for compiling against a package",
    "**/*.a": "for linking against a package",
    "numpy/_core/include": "for compiling against NumPy",
    "pyarrow/include": "for compiling against Arrow",
    "pyarrow/src": "for compiling against Arrow",
    "pyarrow/libarrow*.so": "for linking against Arrow; the copies that are loaded end in a number",
    "pyarrow/libarrow*.so.*.*.*": "for linking against Arrow; the copies that are loaded end in one number",
    "pyarrow/*flight*": "Arrow's own RPC",
    "pyarrow/*arrow_s3*": "Arrow's own S3 client; the store has another",
    "pyarrow/_s3fs*": "Arrow's own S3 client; the store has another",
    "openvino/include": "for compiling against OpenVINO",
    "openvino/cmake": "for compiling against OpenVINO",
    "openvino/libs/libopenvino_intel_gpu_plugin.so": "inference on a GPU",
    "openvino/libs/cache.json": "settings of kernels for inference on a GPU",
    "openvino/libs/libopenvino_intel_npu*": "inference on an NPU",
    "openvino/libs/libopenvino_gguf_frontend*": "a format that no network comes in",
    "openvino/libs/libopenvino_jax_frontend*": "a format that no network comes in",
    "openvino/libs/libopenvino_paddle_frontend*": "a format that no network comes in",
    "openvino/libs/libopenvino_pytorch_frontend*": "a format that no network comes in",
    "openvino/libs/libopenvino_tensorflow_frontend*": "a format that no network comes in",
    "kubernetes/aio": "a second client, for asyncio",
    "skimage/data/*.png": "example pictures",
    "skimage/data/*.jpg": "example pictures",
}
"""What goes, as patterns below site-packages, and what it is for."""

UNUSED_OF_TENSORFLOW = {
    "tensorflow/*.so*": "TensorFlow's runtime; what is used are messages of its protocol alone",
    "tensorflow/include": "for compiling against TensorFlow",
    "tensorflow/lite": "TensorFlow Lite",
    "tensorflow/python": "TensorFlow's own Python",
    "tensorflow/_api": "TensorFlow's own Python",
    "tensorflow/compiler/[!x]*": "compilers",
    "tensorflow/compiler/xla/[!t]*": "compilers",
    "tensorflow/dtensor": "arrays on many machines",
    "tensorflow/tools": "tools",
    "tensorflow/tsl": "TensorFlow's runtime",
    "tensorflow/xla_aot_runtime_src": "sources of compilers",
    "clang": "for compiling against TensorFlow",
    "tensorboard": "a web page about trainings",
    "tensorboard_data_server": "a web page about trainings",
}
"""What goes besides where TensorFlow comes with the messages of TensorFlow Serving; `tests/serving` tries it."""


def shrink(packages: Path) -> int:
    """Remove what is unused below a folder of packages and return the bytes that this saved."""
    found = {path for pattern in (*UNUSED, *UNUSED_OF_TENSORFLOW) for path in packages.glob(pattern)}
    saved = 0
    for path in found:
        # Gone already if it lay in a folder that was on the list too.
        if path.is_dir():
            saved += sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            shutil.rmtree(path)
        elif path.exists():
            saved += path.stat().st_size
            path.unlink()
    return saved


if __name__ == "__main__":
    for folder in Path(sys.argv[1]).glob("lib/python3*/site-packages"):
        sys.stdout.write(f"removed {shrink(folder) / 1e6:.0f} MB that no service uses\n")
