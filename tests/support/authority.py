"""A certificate authority of a test, and a certificate of it for 127.0.0.1 and names: for clients that tell them apart."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def loopback(directory: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """The file with the authority to trust, and what a server on 127.0.0.1, or of these names, answers with."""
    now = datetime.now(UTC)

    def signed(
        name: str, issuer: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, ca: bool
    ):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        addresses: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        addresses += map(x509.DNSName, names)
        return (
            x509.CertificateBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]), subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
            .sign(by, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    trusted, served, key_file = (directory / name for name in ("ca.pem", "server.pem", "server.key"))
    trusted.write_bytes(signed("authority", "authority", authority, authority, ca=True))
    served.write_bytes(signed("server", "authority", own, authority, ca=False))
    key_file.write_bytes(
        own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served, key_file)
    return trusted, context
