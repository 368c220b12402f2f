//! TLS to receivers: verified always, by the system's roots (Mozilla's where the system has none)
//! and those of one further file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_rustls::TlsConnector;

/// Sessions that are kept for resumption.
const SESSIONS: usize = 1024;

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read certificates from {path}: {error}")]
    File { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("no certificate in {path}")]
    Empty { path: PathBuf },
    #[error("a certificate in {path} is no root: {error}")]
    Root { path: PathBuf, error: rustls::Error },
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// A connector that offers HTTP/2 and HTTP/1.1. `ca`: a PEM file of further roots.
pub fn connector(ca: Option<&Path>) -> Result<TlsConnector, TlsError> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(TlsConnector::from(Arc::new(config)))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "some of the system's root certificates cannot be read");
    }
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        tracing::info!("the system has no root certificates, Mozilla's are used");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let Some(path) = ca else { return Ok(roots) };
    let before = roots.len();
    let read = |error| TlsError::File { path: path.into(), error };
    for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
        let certificate = certificate.map_err(read)?;
        roots.add(certificate).map_err(|error| TlsError::Root { path: path.into(), error })?;
    }
    if roots.len() == before { Err(TlsError::Empty { path: path.into() }) } else { Ok(roots) }
}
