"""The keys between vchd and the builder, for one life of the builder's container.

Each of the two has one certificate, for the door and for the port of buildkitd.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from appliance.buildkit.dial import ClientTls
from appliance.buildkit.door_names import DOOR_HOST

# The names of what `guest_files` gives, in the folder of the builder that buildkitd.toml names.
AUTHORITY, CERTIFICATE, KEY = "door-ca.pem", "door-cert.pem", "door-key.pem"
# The name of buildkitd in its certificate. No resolver knows it.
BUILDKIT_HOST = "buildkit.vch.internal"


@dataclass(frozen=True, slots=True)
class BuilderKeys:
    """The files of vchd's end in a folder: with them a restarted vchd serves the builder that it finds, and calls it."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def at(cls, folder: Path) -> "BuilderKeys":
        """Where the files are in the folder, whether they exist or not."""
        return cls(folder / "ca.pem", folder / "door.pem", folder / "door-key.pem")

    @property
    def exist(self) -> bool:
        """Whether an earlier vchd has left a complete set."""
        return all(path.exists() for path in (self.authority, self.certificate, self.key))

    @classmethod
    def make(cls, folder: Path) -> "tuple[BuilderKeys, dict[str, bytes]]":
        """Write new keys to the folder. Returns them, and the files of the builder's end by their names, which are stored nowhere.

        Blocks for some milliseconds. OSError when the folder cannot be written.
        """
        # With the library below it, it takes some 10 MiB, which a vchd without builds does not need.
        from appliance.http.authority import Authority

        folder.mkdir(mode=0o700, exist_ok=True)
        keys, authority = cls.at(folder), Authority()
        certificate, key = authority.identity("vch door", [DOOR_HOST])
        for path, content in ((keys.key, key), (keys.certificate, certificate), (keys.authority, authority.pem)):
            _write(path, content)
        # The CA's key ends with this function: nobody else gets a certificate that the door or buildkitd accepts.
        own_certificate, own_key = authority.identity("vch builder", [BUILDKIT_HOST])
        return keys, {AUTHORITY: authority.pem, CERTIFICATE: own_certificate, KEY: own_key}

    def for_calls(self) -> ClientTls:
        """What calls of buildkitd need. Blocks. OSError when a file cannot be read."""
        return ClientTls(
            self.authority.read_bytes(), self.certificate.read_bytes(), self.key.read_bytes(), BUILDKIT_HOST
        )

    def remove(self) -> None:
        """Forget the keys, if they can be removed: the builder that had them is gone, and the next one gets others."""
        for path in (self.authority, self.certificate, self.key):
            with contextlib.suppress(OSError):
                path.unlink()


def _write(path: Path, content: bytes) -> None:
    """Write a file that no other user can read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
