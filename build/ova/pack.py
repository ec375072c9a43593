"""The OVA: one tar with the descriptor, the manifest, the signature and the disks (DSP0243, 5.1)."""

import hashlib
import io
import sys
import tarfile
import zlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from appliance import __version__
from build.ova import disk, vmdk
from build.ova.descriptor import DATA_BYTES, Disk, descriptor


def pack(
    name: str,
    system: Path,
    work: Path,
    target: Path,
    signer: tuple[Path, Path] | None = None,
    version: str = __version__,
) -> None:
    """Write the OVA of a raw system disk and an empty data disk. `signer` is the RSA key and its certificate, PEM files.

    The order of the files in the tar is fixed: descriptor, manifest, signature, disks.
    """
    data = work / "data.raw"
    with data.open("wb") as file:
        file.truncate(DATA_BYTES)
    packed = [
        _packed("system", system, work / f"{name}-system.vmdk"),
        _packed("data", data, work / f"{name}-data.vmdk"),
    ]
    about = descriptor(name, packed, version)
    digests = f"SHA256({name}.ovf)= {hashlib.sha256(about).hexdigest()}\n"
    for entry in packed:
        with (work / entry.name).open("rb") as file:
            digests += f"SHA256({entry.name})= {hashlib.file_digest(file, 'sha256').hexdigest()}\n"
    small = [(f"{name}.ovf", about), (f"{name}.mf", digests.encode())]
    if signer is not None:
        small.append((f"{name}.cert", signature(f"{name}.mf", digests.encode(), *signer)))
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in small:
            archive.addfile(_member(member, len(content)), io.BytesIO(content))
        for entry in packed:
            with (work / entry.name).open("rb") as file:
                archive.addfile(_member(entry.name, entry.size), file)


def _packed(identity: str, raw: Path, target: Path) -> Disk:
    # The content id (CID) of a VMDK changes with the content; the data disk is empty.
    content = zlib.crc32(raw.read_bytes()) if identity == "system" else 0
    with target.open("wb") as out:
        size, populated = vmdk.write(raw, out, content)
    return Disk(identity, target.name, size, raw.stat().st_size, populated)


def signature(name: str, manifest: bytes, key: Path, certificate: Path) -> bytes:
    """The .cert file: the signature of the manifest, and the certificate chain (DSP0243, 5.1)."""
    private = load_pem_private_key(key.read_bytes(), None)
    chain = certificate.read_bytes()
    x509.load_pem_x509_certificates(chain)
    if not isinstance(private, rsa.RSAPrivateKey):
        sys.exit(f"{key}: an OVF signature needs an RSA key")
    made = private.sign(manifest, padding.PKCS1v15(), hashes.SHA256())
    return f"SHA256({name})= {made.hex()}\n".encode() + chain


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(disk.EPOCH), 0o644
    return info
