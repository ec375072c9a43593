"""gRPC over the channel: the guest's server end (sans-io HTTP/2, one event loop, no threads) and the appliance's client end
(grpcio's asyncio client in one thread, bridged to trio). `client` is never imported in the guest, `server` never needs grpcio.
"""

import os

# grpcio reads this when it is loaded. Our forks are followed by exec at once: its handlers would only get in their way.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
