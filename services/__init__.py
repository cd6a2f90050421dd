"""Offshelf's services: thin gRPC applications over plain domain modules. None imports another."""
