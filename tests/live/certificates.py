"""Certificates for tests, by openssl."""

import subprocess
from pathlib import Path


def self_signed(folder: Path, address: str) -> tuple[Path, Path]:
    """A server's own certificate for an IP address, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={address}", "-addext",
         f"subjectAltName=IP:{address}", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
