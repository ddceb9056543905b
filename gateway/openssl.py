"""Numbers of OpenSSL that the ssl module has no names for."""

from __future__ import annotations

# Errors of the verification of a certificate (X509_V_ERR_*), as in `ssl.SSLCertVerificationError.verify_code`.
NOT_YET_VALID, EXPIRED = 9, 10
UNKNOWN_AUTHORITY = frozenset({18, 19, 20, 21})
OTHER_HOST_NAME, OTHER_IP_ADDRESS = 62, 64

# A flag for `ssl.SSLContext.verify_flags`: accept expired certificates, and those that are not yet valid.
NO_CHECK_TIME = 0x20_0000
