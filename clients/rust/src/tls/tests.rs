use std::path::PathBuf;
use std::process::{Command, id};
use std::sync::Arc;
use std::{env, fs};

use tokio::sync::mpsc::unbounded_channel;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tonic::{Code, Status};

use super::*;
use crate::fake::Gateway;
use crate::pb::GetJobRequest;
use crate::{Client, Hooks};

/// A folder with a certificate that trusts itself, for the gateway and the client.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("jobgateway-{name}-{}", id()));
        fs::create_dir_all(&folder).unwrap();
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ])
            .args([
                "-nodes",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
                "-subj",
                "/CN=localhost",
            ])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .current_dir(&folder)
            .output();
        assert!(made.unwrap().status.success());
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Starts a gateway that accepts only clients with the certificate.
    async fn gateway(&self) -> Gateway {
        let certificate = CertificateDer::from_pem_file(self.path("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path("key.pem")).unwrap();
        let mut trusted = RootCertStore::empty();
        trusted.add(certificate.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(trusted.into())
            .build()
            .unwrap();
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".into()];
        Gateway::start_tls(TlsAcceptor::from(Arc::new(config))).await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn both_sides_prove_their_identity() {
    let folder = Folder::new("mutual");
    let (certificate, key) = (folder.path("cert.pem"), folder.path("key.pem"));
    let mut gateway = folder.gateway().await;
    let tls = tls_from_files(Some(&certificate), Some((&certificate, &key))).unwrap();
    let client = Client::builder(&gateway.uri).tls(tls).build().unwrap();
    let call = client.get(GetJobRequest::default(), Hooks::default());
    let respond = async { gateway.call().await.fail(Status::not_found("no such job")) };
    let (error, ()) = tokio::join!(call, respond);
    assert_eq!(error.unwrap_err().to_string(), "no such job [NotFound]");
}

#[tokio::test]
async fn a_rejected_certificate_is_named() {
    let folder = Folder::new("rejected");
    let other = Folder::new("other");
    let gateway = folder.gateway().await;
    let tls = tls_from_files(Some(&other.path("cert.pem")), None).unwrap();
    let client = Client::builder(&gateway.uri).tls(tls).build().unwrap();
    // The hook receives the first failure. The call itself would retry for a while.
    let (sender, mut failures) = unbounded_channel();
    let hooks = Hooks::default().on_retry(move |retry| {
        let _ = sender.send(retry.failure.clone());
    });
    let call = client.get(GetJobRequest::default(), hooks);
    let failure = tokio::select! {
        failure = failures.recv() => failure.unwrap(),
        _ = call => panic!("the call ended"),
    };
    assert_eq!(failure.code, Code::Unavailable);
    assert!(failure.message.contains("certificate"), "{failure}");
}
