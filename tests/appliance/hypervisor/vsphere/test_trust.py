"""Thumbprints, and the context that accepts one certificate."""

import hashlib
import ssl

import pytest

from appliance.hypervisor.vsphere.trust import OtherCertificate, PinnedContext, plain_thumbprint

_CERTIFICATE = b"der"
_SHA1, _SHA256 = hashlib.sha1(_CERTIFICATE).hexdigest(), hashlib.sha256(_CERTIFICATE).hexdigest()


@pytest.mark.parametrize("thumbprint", [_SHA1, _SHA256, ":".join(_SHA1[i : i + 2] for i in range(0, 40, 2)).upper()])
def test_a_certificate_is_accepted_by_its_thumbprint(thumbprint: str) -> None:
    context = PinnedContext.of(thumbprint)
    context.verify(_CERTIFICATE)
    for other in (b"other", None):
        with pytest.raises(OtherCertificate, match="as --thumbprint says"):
            context.verify(other)


def test_no_other_verification_is_made() -> None:
    context = PinnedContext.of(_SHA256)
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_NONE)


@pytest.mark.parametrize("text", ["", "ab:cd", "g" * 40, "a" * 41])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a SHA-1 nor a SHA-256"):
        plain_thumbprint(text)
