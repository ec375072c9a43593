"""Certificates for tests, by openssl."""

import subprocess
from pathlib import Path

# Keys of elliptic curves are made in no time; those of RSA take a while.
_EC = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def self_signed(folder: Path, address: str, *, rsa: bool = False) -> tuple[Path, Path]:
    """A server's own certificate for an IP address, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            *(("rsa:2048",) if rsa else _EC),
            "-nodes",
            "-days",
            "2",
            "-subj",
            f"/CN={address}",
            "-addext",
            f"subjectAltName=IP:{address}",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


class Authority:
    """A certificate authority, whose files and certificates are in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._count = 0
        self.certificate, self._key = folder / "ca.pem", folder / "ca-key.pem"
        self._openssl(
            "req",
            "-x509",
            "-newkey",
            *_EC,
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=ca of tests",
            "-keyout",
            str(self._key),
            "-out",
            str(self.certificate),
        )

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def sign(self, subject: str, address: str = "") -> tuple[Path, Path]:
        """A certificate for a subject ("/CN=name/OU=unit") and its key. With an address it is a server certificate."""
        self._count += 1
        certificate, key, request, more = (
            self._folder / f"{self._count}.{kind}" for kind in ("pem", "key", "csr", "ext")
        )
        usage = f"subjectAltName=IP:{address}\n" if address else "extendedKeyUsage=clientAuth\n"
        more.write_text(usage)
        self._openssl(
            "req",
            "-newkey",
            *_EC,
            "-nodes",
            "-subj",
            subject,
            "-keyout",
            str(key),
            "-out",
            str(request),
        )
        self._openssl(
            "x509",
            "-req",
            "-in",
            str(request),
            "-CA",
            str(self.certificate),
            "-CAkey",
            str(self._key),
            "-days",
            "2",
            "-extfile",
            str(more),
            "-out",
            str(certificate),
        )
        return certificate, key
