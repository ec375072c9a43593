"""The door: an OCI distribution server over the image store, which only the buildkitd of vchd reaches, while it builds.

It serves all local images, and takes the one image that a build makes. `server` has the connections and the routes, `blobs` what
buildkitd pulls, `uploads` what it pushes.
"""

from appliance.engine.builds.door.server import Door

__all__ = ["Door"]
