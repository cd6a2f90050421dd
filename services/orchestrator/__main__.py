"""Starts the orchestrator: ``python -m offshelf.services.orchestrator``."""

from offshelf.rpc.server import run
from offshelf.services.orchestrator.application import make_service

if __name__ == "__main__":
    run(make_service, "orchestrator")
