"""The keys between the door and the builder: who is accepted, and what is on disk."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from appliance.engine.builds.credentials import AUTHORITY, BUILDKIT_HOST, CERTIFICATE, KEY, BuilderKeys


def _shake_hands(keys: BuilderKeys, folder: Path, files: dict[str, bytes] | None, name: str) -> str:
    """The subject that the door sees of a client with these files, which expects the door to be `name`."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(keys.certificate, keys.key)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(keys.authority)
    client = ssl.create_default_context(cafile=str(keys.authority))
    if files is not None:
        for file, content in files.items():
            (folder / file).write_bytes(content)
        client.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    ours, theirs = socket.socketpair()
    problems: list[Exception] = []

    def connect() -> None:
        try:
            with client.wrap_socket(theirs, server_hostname=name) as stream:
                stream.recv(1)
        except OSError as error:
            problems.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        with server.wrap_socket(ours, server_side=True) as stream:
            certificate = stream.getpeercert(binary_form=True)
            stream.send(b"x")
    finally:
        ours.close()
        thread.join()
    if problems:
        raise problems[0]
    assert certificate is not None
    subject = x509.load_der_x509_certificate(certificate).subject
    return str(subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_only_the_builder_of_this_life_is_accepted(tmp_path: Path) -> None:
    keys, files = BuilderKeys.make(tmp_path / "builder")
    assert set(files) == {AUTHORITY, CERTIFICATE, KEY}
    assert _shake_hands(keys, tmp_path, files, "vch.internal") == "vch builder"
    with pytest.raises(ssl.SSLError):
        _shake_hands(keys, tmp_path, None, "vch.internal")
    with pytest.raises(ssl.SSLError):
        _shake_hands(keys, tmp_path, files, "elsewhere")
    renewed, _ = BuilderKeys.make(tmp_path / "builder")
    with pytest.raises(ssl.SSLError):
        _shake_hands(renewed, tmp_path, files, "vch.internal")


def test_what_is_on_disk(tmp_path: Path) -> None:
    folder = tmp_path / "builder"
    assert not BuilderKeys.at(folder).exist
    keys, files = BuilderKeys.make(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    # The builder's key lies in the builder alone, and the CA's key nowhere.
    stored = b"".join(path.read_bytes() for path in folder.iterdir())
    assert files[KEY] not in stored
    assert stored.count(b"PRIVATE KEY") == 2
    assert BuilderKeys.at(folder) == keys
    assert keys.exist
    tls = keys.for_calls()
    assert (tls.authority, tls.name) == (files[AUTHORITY], BUILDKIT_HOST)
    assert tls.key in stored
    keys.remove()
    assert list(folder.iterdir()) == []
