"""gRPC as Offshelf uses it: servers that drain, channels with deadlines, one table of statuses.

Nothing is imported here, so that a client pays for `offshelf.rpc.channel` alone.
"""
