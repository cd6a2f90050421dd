"""Networks of users' own, read from ONNX or TensorFlow Lite by OpenVINO, and brought into the form of all others.

What comes here may be hostile. It is read in a process of its own (`offshelf.extraction.conversion`), which has nothing
worth stealing, limited memory and limited time, and may crash.
"""

from __future__ import annotations

import re
import resource
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from offshelf.errors import InvalidInput, OffshelfError
from offshelf.extraction.networks.external_data import refuse_external_data
from offshelf.extraction.runtime import load_openvino

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.extraction.networks.blueprint import Blueprint

LONGEST_VECTOR: Final = 200_000
"""Features: a longer vector is none that a classifier could make use of, and a million of them fill a disk."""

_MEMORY_BYTES: Final = 6 << 30
_MEMORY_TIMES_FILE: Final = 8
"""What reading may take: so much (stacks of threads that are never touched count), and so many times the file."""

_TEMPORARY: Final = re.compile(r'"?/[^"\s]*/offshelf-network-[^"\s]*"?')
"""Where the file was put to be read, which tells its owner nothing."""

_COLOURS: Final = 3
_RANK: Final = 4
_MOST_NAMES: Final = 20
_WHOLE: Final = {"u8": (0, 255), "i8": (-128, 127)}
_REAL: Final = ("f32", "f16", "f64")


def build(blueprint: Blueprint, data: bytes) -> Any:
    """Make the network from its file; see `offshelf.extraction.networks.blueprint`.

    Quantized inputs get the nearest whole number, and quantized outputs the real number that they stand for.

    Raises
    ------
    InvalidInput
        If the file cannot be read, or does not fit its description; with the file, what is expected and what was found.
    """
    (file,) = blueprint.weights.files
    format_ = file.stored_as.rpartition(".")[2]
    pooling, _, output = blueprint.output.partition(":")
    limit = _MEMORY_BYTES + _MEMORY_TIMES_FILE * len(data)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    if format_ == "onnx":
        refuse_external_data(data, blueprint.file)
    try:
        graph = _read(format_, data)
    except Exception as error:  # OpenVINO's readers have errors of their own, and of every other kind
        raise _unreadable(blueprint.file, format_, error) from error
    network = _Graph(graph, blueprint.file, channels_last=format_ == "tflite")
    network.fit_input(blueprint.size)
    return network.taking(output, pooling)


@contextmanager
def blamed(file: str) -> Iterator[None]:
    """Put whatever goes wrong in a block down to the file: of a stranger's graph, anything may.

    Raises
    ------
    InvalidInput
        With the file and the reason.
    """
    try:
        yield
    except OffshelfError:
        raise
    except Exception as error:
        raise InvalidInput(f"{file} cannot be used: {_first_line(error)}") from error


def check(graph: Any, file: str) -> None:
    """Take an image through a network that is ready, where a crash harms nobody.

    Parameters
    ----------
    graph
        With its preprocessing: uint8 of shape (1, height, width, 3) in.
    file
        What messages call it.

    Raises
    ------
    InvalidInput
        If it does not run, or its features are no finite numbers.
    """
    import numpy as np

    shape = tuple(graph.input().shape)
    pixels = (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)
    try:
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        vector = load_openvino().Core().compile_model(graph, "CPU", hints)([pixels])[0]
    except Exception as error:
        raise InvalidInput(f"{file} is read, but does not run: {_first_line(error)}") from error
    if not np.isfinite(vector).all():
        raise InvalidInput(
            f"{file} gives features that are not finite numbers; expected are finite ones: check mean and scale."
        )


class _Graph:
    """A network on its way from how its author wrote it to how all networks are here."""

    def __init__(self, model: Any, file: str, *, channels_last: bool) -> None:
        self._model = model
        self._file = file
        self._channels_last = channels_last

    def fit_input(self, size: tuple[int, int]) -> None:
        """Bring the input to one image of float32 and of this height and width."""
        inputs = self._model.inputs
        if len(inputs) != 1:
            raise self._wrong("one input, an image", f"{len(inputs)} ({_listed(inputs)})")
        shape, kind = inputs[0].partial_shape, inputs[0].element_type.get_type_name()
        expected = f"an image of {size[0]} x {size[1]} pixels and 3 channels, as its description says"
        if shape.rank.is_dynamic or len(shape) != _RANK:
            raise self._wrong(expected, f"an input of shape {shape}")
        if kind not in (*_WHOLE, *_REAL):
            raise self._wrong(f"numbers of type {', '.join((*_REAL, *_WHOLE))}", f"an input of type {kind}")
        self._channels_last = self._is_channels_last(shape)
        wanted = (1, *size, _COLOURS) if self._channels_last else (1, _COLOURS, *size)
        # A batch that is fixed is made one; everything else that is fixed has to fit.
        sides = zip(list(shape)[1:], wanted[1:], strict=True)
        if not all(found.is_dynamic or found.get_length() == side for found, side in sides):
            raise self._wrong(expected, f"an input of shape {shape}")
        try:
            self._model.reshape({self._model.input(0): list(wanted)})
        except RuntimeError as error:
            raise self._wrong(expected, f"a network that cannot be brought to it ({_first_line(error)})") from error
        self._take_floats(list(wanted), kind)

    def taking(self, output: str, pooling: str) -> Any:
        """Return the network that gives one of its outputs as one vector."""
        import openvino.opset13 as ov_ops

        taken = self._find(output)
        shape = taken.partial_shape
        if shape.is_dynamic:
            raise self._wrong("an output of fixed shape", f"{shape} of {_name(taken)!r}")
        node = _dequantized(taken)
        sides = tuple(shape.to_shape())
        if pooling != "flatten" and len(sides) in {_RANK - 1, _RANK}:
            # Of three, those of a transformer: one image's tokens.
            axes = [1] if len(sides) < _RANK else [1, 2] if self._channels_last else [2, 3]
            pool = ov_ops.reduce_mean if pooling == "avg" else ov_ops.reduce_max
            node = pool(node, axes, keep_dims=False).output(0)
        elif not 1 <= len(sides) <= _RANK:
            raise self._wrong("a vector or feature maps", f"an output of shape {shape}")
        length = node.partial_shape.get_max_shape()
        features = 1
        for side in length:
            features *= side
        # Without one for the batch, all of it is the one image's.
        if (len(sides) > 1 and sides[0] != 1) or not 1 <= features <= LONGEST_VECTOR:
            raise self._wrong(f"1 to {LONGEST_VECTOR} features of one image", f"an output of shape {shape}")
        vector = ov_ops.reshape(node, [1, features], special_zero=False)
        return load_openvino().Model([vector], self._model.get_parameters(), self._file)

    def _is_channels_last(self, shape: Any) -> bool:
        """Tell where the channels are: where a 3 is; if that does not say it, where the format has them."""
        first, last = (shape[axis].is_static and shape[axis].get_length() == _COLOURS for axis in (1, _RANK - 1))
        return last if first != last else self._channels_last

    def _take_floats(self, shape: list[int], kind: str) -> None:
        """Let an input of another type take float32."""
        import openvino.opset13 as ov_ops

        if kind == "f32":
            return
        ov = load_openvino()
        old = self._model.get_parameters()[0]
        new = ov_ops.parameter(shape, ov.Type.f32, old.get_friendly_name())
        value = new
        if kind in _WHOLE:
            value = ov_ops.clamp(ov_ops.round(new, "half_to_even"), *map(float, _WHOLE[kind]))
        value = ov_ops.convert(value, kind)
        for target in old.output(0).get_target_inputs():
            target.replace_source_output(value.output(0))
        self._model.add_parameters([new])
        self._model.remove_parameter(old)
        self._model.validate_nodes_and_infer_types()

    def _find(self, name: str) -> Any:
        """Find what an output takes its values from."""
        outputs = self._model.outputs
        if not name:
            if len(outputs) != 1:
                raise self._wrong("the name of one output in its description", f"{len(outputs)} ({_listed(outputs)})")
            return outputs[0].get_node().input_value(0)
        for output in outputs:
            if name in output.get_names():
                return output.get_node().input_value(0)
        for node in self._model.get_ordered_ops():
            for inner in node.outputs():
                if name in inner.get_names():
                    return inner
        raise self._wrong(f"an output {name!r}, as its description says", _listed(outputs))

    def _wrong(self, expected: str, found: str) -> InvalidInput:
        return InvalidInput(f"{self._file} does not fit: expected {expected}; found {found}.")


def _read(format_: str, data: bytes) -> Any:
    load_openvino()
    from openvino.frontend import FrontEndManager

    # By its one reader: OpenVINO would else offer the file to those of all formats, one after the other.
    reader = FrontEndManager().load_by_framework(format_)
    with tempfile.TemporaryDirectory(prefix="offshelf-network-") as folder:
        path = Path(folder, f"network.{format_}")
        path.write_bytes(data)
        if not reader.supported(str(path)):
            raise ValueError("another kind of file")
        return reader.convert(reader.load(str(path)))


def _dequantized(output: Any) -> Any:
    """Return an output as float32: where it is quantized, the real numbers that its whole ones stand for."""
    import openvino.opset13 as ov_ops

    value = ov_ops.convert(output, "f32").output(0)
    node = output.get_node()
    while node.get_type_name() in {"Transpose", "Reshape", "Squeeze"}:
        node = node.input_value(0).get_node()
    if output.element_type.get_type_name() not in _WHOLE or node.get_type_name() != "Convert":
        return value
    quantizer = node.input_value(0).get_node()
    if quantizer.get_type_name() != "FakeQuantize":
        return value
    bounds = [_constant(quantizer.input_value(index)) for index in range(1, 5)]
    if any(bound is None for bound in bounds):
        return value
    low, high, first, last = bounds
    step = (high - low) / (last - first)
    return ov_ops.add(ov_ops.multiply(ov_ops.subtract(value, first), step), low).output(0)


def _constant(output: Any) -> Any:
    """Return the one number that an output always is; None if it is another kind of output."""
    import numpy as np

    constants = output.get_node()
    if constants.get_type_name() != "Constant" or constants.data.size != 1:
        return None
    return np.float32(constants.data.ravel()[0])


def _unreadable(file: str, format_: str, error: Exception) -> InvalidInput:
    word = {"onnx": "ONNX", "tflite": "TensorFlow Lite"}[format_]
    return InvalidInput(f"{file} cannot be read: expected a network in {word}; found {_first_line(error)}")


def _first_line(error: Exception) -> str:
    """Say in a line what OpenVINO says: its own last line, since those before name its source files."""
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):
        return "it wants more memory than reading a network may take."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if not line.startswith("Exception from ")), type(error).__name__)
    return f"{_TEMPORARY.sub('it', said)[:200].rstrip('.')}."


def _name(output: Any) -> str:
    names = sorted(output.get_names())
    return names[0] if names else output.get_node().get_friendly_name()  # type: ignore[no-any-return]


def _listed(outputs: Any) -> str:
    names = [f"{_name(output)} of shape {output.partial_shape}" for output in outputs]
    return "; ".join([*names[:_MOST_NAMES], *(["..."] * (len(names) > _MOST_NAMES))])
