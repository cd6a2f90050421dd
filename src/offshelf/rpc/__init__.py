"""gRPC as Offshelf uses it: servers that drain, channels with deadlines, one table of statuses.

Nothing is imported here, so that a client pays for `offshelf.rpc.channel` alone.
"""

import os

# gRPC writes to standard error, in a form of its own, what calls fail with anyway: a handshake that failed, a
# connection that was closed. Users would read it before our line, and our logs are JSON. It looks here when imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
