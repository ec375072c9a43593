"""gRPC over the channel: the guest's server end (sans-io HTTP/2, one event loop, no threads) and the appliance's client end
(grpcio's asyncio client in one thread, bridged to trio). `client` is never imported in the guest, `server` never needs grpcio.
"""
