"""Networks for the engine: made once from weights, kept in the store, and checked whenever they are read.

Most are made by Keras, those of users' own by OpenVINO from their files: in a process of its own that ends with the
conversion. Keras takes seconds and hundreds of megabytes that a service which finds its network in the store never
spends, and a file from a stranger may crash what reads it.

In the store lie ``network.bin``, ``network.xml`` (OpenVINO's intermediate representation, float32) and, written last,
``network.json`` with the SHA-256 of both. What is half written or altered does not fit it, and is made again.
"""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offshelf.digests import canonical_json, digest_of_bytes
from offshelf.errors import InvalidInput, NotFound
from offshelf.extraction.networks import own
from offshelf.extraction.networks.blueprint import Blueprint
from offshelf.extraction.own.stored import read_file
from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.spec import CONVERTER_VERSION, Network, fingerprint
from offshelf.extraction.weights.downloads import in_steps
from offshelf.extraction.weights.fetching import NEVER
from offshelf.extraction.weights.finding import read_weights
from offshelf.store import keys
from offshelf.workers import WITHOUT_SECRETS, WorkerCrashed, WorkerPool, WorkerTimeout

if TYPE_CHECKING:
    from offshelf.extraction.spec import ExtractorSpec, WeightsFile
    from offshelf.extraction.weights.downloads import Progress
    from offshelf.extraction.weights.fetching import FetchPolicy
    from offshelf.store.objects import ObjectStore
    from offshelf.workers import Handler

logger = logging.getLogger(__name__)

_OWN_SECONDS = 150.0
"""How long reading and trying a network of a user's own may take; a fleet waits somewhat longer for the extractor."""


@dataclass(frozen=True, slots=True, repr=False)
class ConvertedNetwork:
    """A network in OpenVINO's intermediate representation.

    It takes uint8 of shape (1, height, width, 3), RGB, and gives float32 of shape (1, dimension): the order of colours,
    the mean and the scale of `spec.Network` are inside.
    """

    xml: bytes
    """The graph."""
    bin: bytes
    """The constants."""


def network_of(
    spec: ExtractorSpec, *, store: ObjectStore, weights: str, fetch: FetchPolicy = NEVER
) -> ConvertedNetwork:
    """Read an extractor's network from the store; if it is not there as it should be, convert it and store it.

    Parameters
    ----------
    spec
        An extractor with a network.
    store
        Where converted networks are kept.
    weights, fetch
        Where its weights are looked for, should they be needed: `Settings.weights`; and who may be asked for them.

    Raises
    ------
    NotFound, InvalidInput, DataLoss
        If weights are needed and cannot be had, or are not what they should be.
    OffshelfError
        What the store raises.
    """
    found = _read(store, fingerprint(spec))
    if found is not None:
        return found
    file, data = read_file(spec, store) or read_weights(spec, weights, fetch, on_progress=in_steps(_log_download))
    logger.info("converting a network", extra={"extractor": spec.name})
    made = convert(spec, file, data)
    store_network(store, fingerprint(spec), made)
    return made


def _log_download(progress: Progress) -> None:
    logger.info("downloading weights", extra={"file": progress.name, "progress": str(progress)})


def convert(spec: ExtractorSpec, file: WeightsFile, data: bytes) -> ConvertedNetwork:
    """Convert a network in a process of its own.

    Parameters
    ----------
    spec
        An extractor with a network.
    file, data
        The weights file and its bytes, whose digest has been checked.

    Raises
    ------
    DataLoss
        If the arrays in the file are not the registered ones, or do not fit the network.
    InvalidInput
        If a network of a user's own cannot be read, does not fit its description, or does not run.
    """
    if not isinstance(spec.method, Network):
        raise TypeError(f"{spec.name} has no network")
    network = spec.method
    setup = {
        "builder": network.builder,
        "blueprint": Blueprint.of(network, file).to_json(),
        "reverse": network.colour == "BGR",
        "mean": network.mean,
        "scale": network.scale,
        "own": bool(file.stored_as),
    }
    with tempfile.TemporaryDirectory(prefix="offshelf-keras-") as home:
        # Keras reads its settings, and makes a folder for them, in the user's home otherwise.
        environment = {**WITHOUT_SECRETS, "KERAS_BACKEND": "openvino", "KERAS_HOME": home}
        with WorkerPool(1, f"{__name__}:handler", setup=setup, environment=environment) as pool:
            try:
                answer, content = pool.call({}, data, timeout=_OWN_SECONDS if file.stored_as else None)
            except WorkerCrashed as error:
                if not file.stored_as:
                    raise
                raise InvalidInput(
                    f"{file.name} cannot be read: it ended the process that tried. Check the file, or export it anew."
                ) from error
            except WorkerTimeout as error:
                raise InvalidInput(
                    f"{file.name} cannot be used: reading and trying it took longer than {_OWN_SECONDS:g} seconds."
                ) from error
    split = int(answer["xml"])
    return ConvertedNetwork(bytes(content[:split]), bytes(memoryview(content)[split:]))


def handler(setup: dict[str, Any]) -> Handler:
    """Build the worker's side of `convert`: a weights file in, the graph and its constants out."""
    ov = load_openvino()
    module, _, function = setup["builder"].partition(":")
    build = getattr(importlib.import_module(module), function)

    blueprint = Blueprint.from_json(setup["blueprint"])

    def answer(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:  # noqa: ARG001 - Handler's form
        with own.blamed(blueprint.file) if setup["own"] else nullcontext():
            graph = _with_preprocessing(build(blueprint, data), setup)
            if setup["own"]:
                own.check(graph, blueprint.file)
            with tempfile.TemporaryDirectory(prefix="offshelf-network-") as folder:
                path = Path(folder, "network.xml")
                ov.serialize(graph, path)
                del graph  # whose constants may be half a gigabyte, which is about to be read again
                xml = path.read_bytes()
                return {"xml": len(xml)}, xml + path.with_suffix(".bin").read_bytes()

    return answer


def _with_preprocessing(graph: Any, setup: dict[str, Any]) -> Any:
    """Put the step from uint8 RGB images to the network's own input into the graph."""
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    channels_first = graph.input().partial_shape[1].get_length() == len("RGB")
    step = PrePostProcessor(graph)
    step.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    step.input().preprocess().convert_element_type(Type.f32)
    if setup["reverse"]:
        step.input().preprocess().reverse_channels()
    step.input().preprocess().mean(list(setup["mean"]))
    if any(value != 1 for value in setup["scale"]):
        step.input().preprocess().scale(list(setup["scale"]))
    step.input().model().set_layout(Layout("NCHW" if channels_first else "NHWC"))
    return step.build()


def _read(store: ObjectStore, identity: str) -> ConvertedNetwork | None:
    def key(name: str) -> str:
        return keys.network(identity, CONVERTER_VERSION, name)

    try:
        expected = json.loads(store.get(key("network.json")))
        network = ConvertedNetwork(xml=store.get(key("network.xml")), bin=store.get(key("network.bin")))
        whole = (expected["xml"], expected["bin"]) == (digest_of_bytes(network.xml), digest_of_bytes(network.bin))
    except NotFound:
        return None
    except (ValueError, KeyError, TypeError):
        whole = False
        network = ConvertedNetwork(b"", b"")
    if not whole:
        logger.warning("a converted network is not what was written, and is made again", extra={"network": identity})
        return None
    return network


def store_network(store: ObjectStore, identity: str, network: ConvertedNetwork) -> None:
    """Store a converted network under the fingerprint of its extractor."""
    record = canonical_json({"bin": digest_of_bytes(network.bin), "xml": digest_of_bytes(network.xml)})
    for name, data in (("network.bin", network.bin), ("network.xml", network.xml), ("network.json", record)):
        store.put(keys.network(identity, CONVERTER_VERSION, name), data)
