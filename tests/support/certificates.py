"""Real certificates, and how they change on disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes


@dataclass(frozen=True)
class Certificate:
    """A certificate chain and its key, in PEM."""

    chain: bytes
    key: bytes


class Authority:
    """A certificate authority for tests."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()

    def server(self, *names: str, **more: Any) -> Certificate:
        """Issue a certificate for `names`, by default for the gateway's address."""
        leaf = self._ca.issue_cert(*(names or ("127.0.0.1", "localhost")), **more)
        return Certificate(b"".join(each.bytes() for each in leaf.cert_chain_pems), leaf.private_key_pem.bytes())

    def client(self, subject: str, *uris: str, not_after: datetime | None = None) -> Certificate:
        """Issue a client's certificate with `uris` as further names; by default it expires in an hour."""
        issuer = x509.load_pem_x509_certificate(self.pem)
        key = ec.generate_private_key(ec.SECP256R1())
        end = not_after or datetime.now(UTC) + timedelta(hours=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(hours=2))
            .not_valid_after(end)
        )
        if uris:
            names = [x509.UniformResourceIdentifier(each) for each in uris]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = builder.sign(self._issuer_key(), hashes.SHA256())
        return Certificate(signed.public_bytes(serialization.Encoding.PEM), _pem(key))

    def _issuer_key(self) -> CertificateIssuerPrivateKeyTypes:
        key = serialization.load_pem_private_key(self._ca.private_key_pem.bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key


def _pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption(),
    )


def with_password(certificate: Certificate) -> Certificate:
    """Encrypt the key of a certificate with a password."""
    key = serialization.load_pem_private_key(certificate.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return Certificate(certificate.chain, _pem(key, b"a password"))


def with_other_key(certificate: Certificate) -> Certificate:
    """Return a certificate with a key that does not belong to it."""
    return Certificate(certificate.chain, Authority().server().key)


class MountedSecret:
    """A Secret as Kubernetes mounts it: the files link into a folder, and swapping one link replaces them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = 0
        self.cert, self.key, self.ca = (folder / name for name in ("tls.crt", "tls.key", "ca.crt"))
        for file in (self.cert, self.key, self.ca):
            file.symlink_to(f"..data/{file.name}")

    def put(self, certificate: Certificate, ca: bytes = b"") -> None:
        """Replace all files together."""
        self._versions += 1
        version = self._folder / f"..{self._versions}"
        version.mkdir()
        for file, data in ((self.cert, certificate.chain), (self.key, certificate.key), (self.ca, ca)):
            (version / file.name).write_bytes(data)
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")
