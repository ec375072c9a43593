"""The door: an OCI distribution server over the image store, which only the buildkitd of vchd reaches, while it builds.

It serves all local images, and takes the one image that a build makes. `server` has the connections and the routes, `blobs` what
buildkitd pulls, `uploads` what it pushes.

What buildkitd v0.34 asks a registry (seen with docker-registry behind a client certificate; `ca` and `keypair` of buildkitd.toml
hold for pulls and pushes), with the exporter `image`, push=true, oci-mediatypes=false, compression=uncompressed:

- Push, all blobs at the same time: HEAD of a blob, and if that is 404, POST /v2/NAME/blobs/uploads/ and one PUT with the whole blob.
  If the same host got the blob under another name before: POST with ?mount=DIGEST&from=OTHER, to which 201 says that nothing has to
  be sent. Last HEAD of the manifest by tag (404), and PUT. No PATCH, no GET /v2/.
- A layer that BuildKit made arrives uncompressed: its digest is its diff ID. A layer of a base image keeps the bytes and the digest of
  its registry (gzip), also if BuildKit never unpacked it: then it streams from that registry through BuildKit to this one.
- Pull: HEAD of the manifest by tag at each build, GET by digest if BuildKit does not have it, then GET of the blobs that it needs.
- Inline cache (`--cache-to type=inline`) is in the config; a later build finds it by GET of manifest and config.
"""

from appliance.engine.builds.door.server import Door

__all__ = ["Door"]
