"""Mutual TLS for SeaweedFS's inner ports: master, volume, filer and every gRPC port know no S3 rights.

One certificate serves all parts of the one process, as server and as client; each part refuses whoever shows no certificate
of the same authority. The authority's key is never stored, so nobody can be added later.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.engines.state import LOOPBACK, write_private

SECURITY = "security.toml"
AUTHORITY, CERTIFICATE, KEY = "storage-ca.pem", "storage.pem", "storage.key"
_YEARS = 30
_GRPC_PARTS = ("master", "volume", "filer", "s3", "client")
_HTTPS_PARTS = ("master", "volume", "filer")


def draw(folder: Path) -> None:
    """Write a fresh authority, certificate and key to `folder`, and last the security.toml that names them."""
    authority_key, key = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    authority = _certificate(authority_key, authority_key, "ReFaceX storage authority")
    certificate = _certificate(key, authority_key, "ReFaceX storage", authority)
    write_private(folder / AUTHORITY, authority.public_bytes(Encoding.PEM).decode())
    write_private(folder / CERTIFICATE, certificate.public_bytes(Encoding.PEM).decode())
    write_private(folder / KEY, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    write_private(folder / SECURITY, security_toml())


def security_toml() -> str:
    """SeaweedFS's security.toml; its working folder is the one with the certificates."""
    pair = f'cert = "{CERTIFICATE}"\nkey = "{KEY}"\n'
    authority = f'ca = "{AUTHORITY}"\n'
    sections = [f"[grpc]\n{authority}"]
    sections += [f"[grpc.{part}]\n{pair}" for part in _GRPC_PARTS]
    sections += [f"[https.{part}]\n{pair}{authority}" for part in _HTTPS_PARTS]
    sections += [f"[https.client]\nenabled = true\n{pair}{authority}"]
    return "\n".join(sections)


def _certificate(
    key: EllipticCurvePrivateKey,
    signer: EllipticCurvePrivateKey,
    name: str,
    issuer: x509.Certificate | None = None,
) -> x509.Certificate:
    """A certificate for `key`: an authority's own without `issuer`, else one for both ends of a connection."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK)), x509.DNSName("localhost")])
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(names, critical=False).add_extension(both, critical=False)
    return builder.sign(signer, hashes.SHA256())
