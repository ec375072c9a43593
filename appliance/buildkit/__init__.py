"""BuildKit's wire: a client of buildkitd, a gRPC server for build clients, and what happens to bytes between them.

It knows protobuf and grpcio, and no images and no containers. All of it runs on asyncio, on an event loop in a thread of its own
("build"), so that a build's context does not delay the RPCs of guests. The engine calls it from trio.
"""
