//! TLS from files.

use std::fs::read;
use std::io;
use std::path::Path;

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Returns a TLS configuration from files in PEM.
///
/// `authorities` are the trusted ones; `None` means those of the system. Mutual TLS needs an `identity`: the file with the
/// certificate of the client, and the file with its key.
pub fn tls_from_files(
    authorities: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> io::Result<ClientTlsConfig> {
    let mut tls = ClientTlsConfig::new();
    tls = match authorities {
        Some(path) => tls.ca_certificate(Certificate::from_pem(contents(path)?)),
        None => tls.with_native_roots(),
    };
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(contents(certificate)?, contents(key)?));
    }
    Ok(tls)
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    read(path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests;
