"""A service that does what each request asks for, served for real: in this process, or in one of its own.

Run as a program, this file is such a process; what it does while warming up is set by OFFSHELF_EXTRACTOR.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from offshelf.errors import NotFound, Unavailable, UnknownName
from offshelf.logs import request_id
from offshelf.rpc.channel import open_channel, open_sync_channel
from offshelf.rpc.offload import Offload
from offshelf.rpc.server import RunningServer, run, start
from offshelf.settings import Settings
from offshelf.v1 import extractor_pb2 as pb
from offshelf.v1 import extractor_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

TOKEN = "a-token-for-tests"


class EchoService(pb_grpc.ExtractorServiceServicer):
    """Answers, fails or hangs as the request says."""

    name = "offshelf.v1.ExtractorService"

    def __init__(self, warm_up: str = "") -> None:
        self._warm_up = warm_up
        self.offload = Offload(threads=2, queue=1)
        self.attempts = 0
        self.live = True
        self.closed = False
        self.draining = asyncio.Event()
        self.left_early = asyncio.Event()
        self.stopped_in_thread = threading.Event()
        self.time_given: list[float] = []
        """Deadlines of the calls that asked for it, in seconds."""
        self.started: asyncio.Future[None] | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Add this servicer."""
        pb_grpc.add_ExtractorServiceServicer_to_server(self, server)

    async def warm_up(self) -> None:
        """Do what the constructor was told."""
        logging.getLogger("echo").info("warming up")
        print("a library that prints")  # noqa: T201
        if self._warm_up == "fails":
            raise NotFound("There are no weights. Set OFFSHELF_WEIGHTS.")
        if self._warm_up == "defect":
            raise RuntimeError("a defect")
        if self._warm_up == "for ever":
            await asyncio.to_thread(threading.Event().wait)
        if self._warm_up == "until asked":
            await self.draining.wait()

    def is_live(self) -> bool:
        """Tell what the test has set."""
        return self.live

    async def drain(self) -> None:
        """End streams that wait for this."""
        self.draining.set()

    async def close(self) -> None:
        """Stop the threads."""
        await self.offload.close()
        self.closed = True

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: ARG002, N802
        """Answer with the id of the request."""
        return pb.DescribeResponse(extractor="echo", fingerprint=request_id.get())

    async def ExtractImages(  # noqa: N802
        self, request: pb.ExtractImagesRequest, context: Any
    ) -> pb.ExtractImagesResponse:
        """Do what the first "image" says."""
        self.attempts += 1
        match request.images[0]:
            case b"unknown name":
                raise UnknownName.among("extractor", "vg16", ["vgg16", "hog"])
            case b"defect":
                raise RuntimeError("text that is nobody's business")
            case b"abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "aborted by the servicer")
            case b"unavailable twice" if self.attempts <= 2:
                raise Unavailable("not yet")
            case b"hang":
                await self.offload.run(self._hang)
            case b"ask":
                await self.offload.run(self._ask, request.images[1].decode())
            case b"be asked":
                self.time_given.append(context.time_remaining())
            case b"start":
                self.started = asyncio.ensure_future(self._outlive(request.images[1].decode()))
        return pb.ExtractImagesResponse()

    async def ExtractSegment(  # noqa: N802
        self,
        request: pb.ExtractSegmentRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.ExtractSegmentResponse]:
        """Stream as the name of the extractor says."""
        self.attempts += 1
        if request.extractor == "unavailable":
            raise Unavailable("not yet")
        try:
            yield pb.ExtractSegmentResponse(progress=pb.ExtractionProgress(images_done=1))
            match request.extractor:
                case "unknown name":
                    raise UnknownName.among("extractor", "vg16", ["vgg16", "hog"])
                case "defect":
                    raise RuntimeError("text that is nobody's business")
                case "until drained":
                    await self.draining.wait()
                case "for ever":
                    await asyncio.Event().wait()
        finally:
            self.left_early.set()
        yield pb.ExtractSegmentResponse(written=pb.SegmentWritten(key="the end"))

    def _ask(self, address: str, *, stop: threading.Event) -> None:  # noqa: ARG002
        """Ask another server, as part of a call."""
        with open_sync_channel(address, token=TOKEN) as channel:
            pb_grpc.ExtractorServiceStub(channel).ExtractImages(pb.ExtractImagesRequest(images=[b"be asked"]))

    async def _outlive(self, address: str) -> None:
        """Ask another server, in a task that the call only starts."""
        async with open_channel(address, token=TOKEN) as channel:
            await pb_grpc.ExtractorServiceStub(channel).ExtractImages(pb.ExtractImagesRequest(images=[b"be asked"]))

    def _hang(self, *, stop: threading.Event) -> None:
        stop.wait()
        self.stopped_in_thread.set()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Make a token file that only its owner can read."""
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture
def serving(tmp_path: Path, token_file: Path) -> Callable[[EchoService], AbstractAsyncContextManager[RunningServer]]:
    """Serve a service on free ports of this process."""

    @asynccontextmanager
    async def serving(service: EchoService) -> AsyncIterator[RunningServer]:
        settings = Settings(store=str(tmp_path / "store"), token_file=token_file, drain_seconds=1.0)
        server = await start(service, settings)
        try:
            yield server
        finally:
            hurry = asyncio.Event()
            hurry.set()
            await server.drain(hurry)

    return serving


@pytest.fixture
async def echo() -> EchoService:
    """Make the service."""
    return EchoService()


if __name__ == "__main__":

    async def compose(settings: Settings) -> EchoService:
        """Make the service of this process."""
        return EchoService(settings.extractor)

    run(compose, "echo")
