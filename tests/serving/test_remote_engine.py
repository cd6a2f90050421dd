"""The remote engine against servers that answer well, badly, late, or not at all."""

from __future__ import annotations

import contextvars
import logging
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from offshelf import certificates, deadline
from offshelf.errors import Cancelled, EngineMismatch, EngineUnavailable, InvalidInput
from offshelf.served_models import FEATURES, IDENTITY_SIGNATURE, SIGNATURE
from tests.serving.scripted import PIXELS, VECTOR, Refusal, Script, engine_at, serving

if TYPE_CHECKING:
    from pathlib import Path

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_image_gets_its_vector() -> None:
    """The pixels are sent as they are, to the model and version that were named, and what comes back is used."""
    script = Script(version=7)
    with serving(script) as address, engine_at(address, version=7) as engine:
        assert engine.infer(PIXELS).tobytes() == VECTOR.tobytes()
    request = next(each for each in script.asked if each.model_spec.signature_name == SIGNATURE)
    assert (request.model_spec.name, request.model_spec.version.value) == ("net", 7)
    assert list(request.output_filter) == [FEATURES]
    images = request.inputs["images"]
    assert [dimension.size for dimension in images.tensor_shape.dim] == [1, 2, 3, 3]
    assert images.tensor_content == PIXELS.tobytes()


def test_without_a_version_the_newest_answers() -> None:
    """Nobody has to change a setting when another version of a network is served."""
    script = Script()
    with serving(script) as address, engine_at(address) as engine:
        engine.infer(PIXELS)
    assert not script.asked[0].model_spec.HasField("version")


def test_vectors_in_one_piece_are_read_too() -> None:
    """Servers that write a tensor as bytes instead of numbers give the same vector."""
    script = Script()
    with serving(script) as address, engine_at(address) as engine:
        answer = engine._api.predict.PredictResponse()
        tensor = answer.outputs[FEATURES]
        tensor.dtype = engine._api.types.DT_FLOAT
        for size in (1, len(VECTOR)):
            tensor.tensor_shape.dim.add(size=size)
        tensor.tensor_content = VECTOR.tobytes()
        assert engine._api.features_in(answer, len(VECTOR)).tobytes() == VECTOR.tobytes()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(vector=np.zeros((1, 5), np.float32)), r"expected the shape \(1, 4\), found \(1, 5\)"),
        (Script(vector=np.zeros(4, np.float32)), r"expected the shape \(1, 4\), found \(4,\)"),
        (Script(vector=np.zeros((1, 4), np.float64)), "expected float32, found DT_DOUBLE"),
        (
            Script(vector=np.array([[1, np.nan, np.inf, 0]], np.float32)),
            "expected finite numbers, found 2 that are not",
        ),
        (Script(output="logits"), "expected an output 'features', found logits"),
        (
            Script(refusals=[Refusal(grpc.StatusCode.INVALID_ARGUMENT, "images has another shape")]),
            r"refused an image \(INVALID_ARGUMENT: images has another shape\)",
        ),
    ],
    ids=["length", "rank", "dtype", "nan", "output", "refused"],
)
def test_answers_that_cannot_be_features_are_refused(script: Script, said: str) -> None:
    """A server that has something else under that name is an error that says where, what was expected and found."""
    with serving(script) as address, engine_at(address) as engine:
        with pytest.raises(EngineMismatch, match=said) as refused:
            engine.infer(PIXELS)
        assert refused.value.message.startswith(f"The remote engine at {address} (model net)")
        assert "\n" not in refused.value.message


def test_a_server_that_was_away_for_a_moment_costs_nothing() -> None:
    """While a server starts again, or has too much to do, images wait, and are sent again."""
    script = Script(refusals=[Refusal(UNAVAILABLE, "starting"), Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")])
    with serving(script) as address, engine_at(address) as engine:
        assert engine.infer(PIXELS).tobytes() == VECTOR.tobytes()
    assert len(script.asked) == 4  # two that were refused, the image, and which network it is


NOT_FOUND = Refusal(grpc.StatusCode.NOT_FOUND, "Servable not found for request")


@pytest.mark.parametrize(
    ("version", "states"),
    [(None, {3: "LOADING"}), (3, {2: "AVAILABLE", 3: "START"}), (None, {2: "AVAILABLE"})],
    ids=["loading", "this one starting", "another one since"],
)
def test_a_network_that_is_being_loaded_is_waited_for(version: int | None, states: dict[int, str]) -> None:
    """A server that starts, or goes over to a new version, costs a pause and no error."""
    script = Script(states=states, refusals=[NOT_FOUND])
    with serving(script) as address, engine_at(address, version=version) as engine:
        assert engine.infer(PIXELS).tobytes() == VECTOR.tobytes()


@pytest.mark.parametrize(
    ("version", "states", "said"),
    [
        (None, {3: "END"}, r"expected a version that is available, found version 3 \(END\)"),
        (
            4,
            {2: "AVAILABLE", 3: "LOADING"},
            r"expected version 4, found version 2 \(AVAILABLE\), version 3 \(LOADING\)",
        ),
        (4, {}, "expected version 4, found none"),
        (None, None, "has no model of that name"),
    ],
    ids=["ended", "another one", "none", "no such model"],
)
def test_a_network_that_is_not_there_is_said_at_once(
    version: int | None, states: dict[int, str] | None, said: str
) -> None:
    """What does not come by waiting is an error that names what the server has."""
    script = Script(states=states, refusals=[NOT_FOUND])
    with (
        serving(script) as address,
        engine_at(address, version=version, patience=600.0) as engine,
        pytest.raises(EngineMismatch, match=said),
    ):
        engine.infer(PIXELS)


def test_a_dead_server_is_named() -> None:
    """Nothing at the address is an outage, with the address, and says nothing about the image."""
    port = free_port()
    with engine_at(f"127.0.0.1:{port}", patience=0.5) as engine:
        with pytest.raises(EngineUnavailable, match=rf"The remote engine at 127\.0\.0\.1:{port} .*does not answer"):
            engine.infer(PIXELS)
        script = Script()
        with serving(script, port=port):
            # The connection is tried again after a pause of its own.
            assert _patient(engine).tobytes() == VECTOR.tobytes()


def _patient(engine: Any) -> Any:
    engine._patience = 60.0
    return engine.infer(PIXELS)


def test_a_slow_server_is_given_up() -> None:
    """An answer that does not come in time is an outage, and the thread that waited is free again."""
    script = Script()
    script.holds.set()
    with serving(script) as address, engine_at(address, seconds=0.2, patience=0.1) as engine:
        with pytest.raises(EngineUnavailable, match=r"did not answer within 0\.2 s"):
            engine.infer(PIXELS)
        assert engine.seconds_in_inference == 0


def test_a_server_gets_no_more_time_than_the_user_gives() -> None:
    """For a user who waits a second, a server elsewhere is not asked to compute for twenty, and not asked again."""

    def serve_a_call(engine: Any) -> None:
        deadline.call_is_due_in(1.0)
        deadline.bind_to_call()
        with pytest.raises(EngineUnavailable, match=r"did not answer within (1|0\.9\d*) s"):
            engine.infer(PIXELS)

    script = Script()
    script.holds.set()
    with serving(script) as address, engine_at(address, seconds=20.0, patience=600.0) as engine:
        contextvars.copy_context().run(serve_a_call, engine)
        assert max(script.time_given) < 2


def test_whoever_cancels_does_not_wait_for_a_server() -> None:
    """A run that is cancelled, and a service that stops, end at once though the server is away."""
    for end in ("stop", "close"):
        stop = threading.Event()
        failures: list[BaseException] = []
        script = Script(refusals=[Refusal(UNAVAILABLE, "away")] * 10_000)
        with serving(script) as address, engine_at(address, patience=600.0) as engine:

            def work(engine: Any = engine, stop: Any = stop, failures: Any = failures) -> None:
                try:
                    engine.infer(PIXELS, stop=stop)
                except Cancelled as error:
                    failures.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            stop.set() if end == "stop" else engine.close()
            thread.join(60)
            assert not thread.is_alive()
        assert len(failures) == 1


def test_a_network_that_is_another_one_is_refused() -> None:
    """Vectors of another network, or of other weights, never get among those of this one."""
    said = "expected the fingerprint ffffffffffff of resnet50, found 000000000000"
    with (
        serving(Script(network="0" * 64)) as address,
        engine_at(address) as engine,
        pytest.raises(EngineMismatch, match=said),
    ):
        engine.infer(PIXELS)


def test_each_version_is_asked_once_which_network_it_is() -> None:
    """A server that goes over to a new version is checked anew, and otherwise not with every image."""
    script = Script()
    with serving(script) as address, engine_at(address) as engine:
        for version in (1, 1, 2, 2, 1):
            script.version = version
            engine.infer(PIXELS)
        script.version, script.network = 3, "0" * 64
        with pytest.raises(EngineMismatch, match=r"version 3"):
            engine.infer(PIXELS)
    asked = [each.model_spec for each in script.asked if each.model_spec.signature_name == IDENTITY_SIGNATURE]
    assert [each.version.value for each in asked] == [1, 2, 3]


def test_a_server_that_cannot_say_which_network_it_has_is_used(caplog: pytest.LogCaptureFixture) -> None:
    """A model that somebody else exported can be used; the log says that nobody checks it."""
    with serving(Script(network=None)) as address, engine_at(address) as engine, caplog.at_level(logging.WARNING):
        assert engine.infer(PIXELS).tobytes() == VECTOR.tobytes()
    assert "nobody checks" in caplog.text


def test_many_threads_share_an_engine() -> None:
    """Images that are sent at the same time each get their own answer."""
    with serving(Script()) as address, engine_at(address) as engine:
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda: found.append(engine.infer(PIXELS).tobytes())) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [VECTOR.tobytes()] * 16


def test_a_server_is_believed_by_its_certificate(tmp_path: Path) -> None:
    """Pixels go to a server with a certificate of the named authority, and to no other; the error says what to set."""
    certificates.issue(tmp_path / "certs")
    certificates.issue(tmp_path / "others")
    own = tmp_path / "certs" / "predictor"  # a door, whose certificate is for this machine too
    credentials = grpc.ssl_server_credentials([((own / "tls.key").read_bytes(), (own / "tls.crt").read_bytes())])
    script = Script()
    with serving(script, credentials) as address:
        with engine_at(address, ca=own / "ca.crt") as engine:
            assert engine.infer(PIXELS).tobytes() == VECTOR.tobytes()
        asked = len(script.asked)
        other = tmp_path / "others" / "predictor" / "ca.crt"
        with (
            engine_at(address, ca=other, patience=0.1) as engine,
            pytest.raises(EngineUnavailable, match="OFFSHELF_ENGINE_CA"),
        ):
            engine.infer(PIXELS)
        assert len(script.asked) == asked
    with (
        serving(script) as address,
        engine_at(address, ca=own / "ca.crt", patience=0.1) as engine,
        pytest.raises(EngineUnavailable, match="OFFSHELF_ENGINE_PLAINTEXT"),
    ):
        engine.infer(PIXELS)
    with pytest.raises(InvalidInput, match="ca"), engine_at("engine.example.org:8500", ca=tmp_path / "none.crt"):
        pass


def test_the_api_does_without_tensorflow() -> None:
    """A service that asks a remote engine loads a few messages and not 600 MB; TensorFlow itself can still be had."""
    code = """
import sys
from offshelf.rpc.serving_api import load_serving_api
api = load_serving_api()
assert api.predict.PredictRequest().model_spec.name == ""
loaded = sorted(name for name in sys.modules if name.partition(".")[0] == "tensorflow")
assert "tensorflow" not in sys.modules and "tensorflow.python" not in loaded, loaded
assert load_serving_api() == api
import tensorflow as tf
assert tf.make_ndarray(tf.make_tensor_proto([1.0])) == [1.0]
assert load_serving_api().tensor.TensorProto is type(tf.make_tensor_proto([1.0]))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
