//! TLS to Redis: the certificates that count, and the meaning of faults.
//!
//! The host's name is always verified. Without a CA file the authorities of the system count, with
//! one only those in it.

use std::error::{self, Error as _};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, RedisError, RedisResult,
    TlsCertificates,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::ClusterError;

/// The files of TLS to Redis. `TlsFiles::default()`: the authorities of the system, and no
/// certificate of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that count, as a PEM file. `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// This node's certificate chain and its private key, as PEM files.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// The content of the files, for a client.
#[derive(Clone, Default)]
pub(super) struct Tls(Option<TlsCertificates>);

/// Shows that there is something, and never what.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.is_some()).finish()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`ClusterError::File`] with the file that cannot be used, and why.
    pub(super) fn load(files: &TlsFiles) -> Result<Tls, ClusterError> {
        if *files == TlsFiles::default() {
            return Ok(Tls(None));
        }
        let root_cert = files.ca.as_ref().map(|path| Ok((path, read(path)?))).transpose()?;
        let mut roots = RootCertStore::empty();
        if let Some((path, pem)) = &root_cert {
            for certificate in certificates(path, pem)? {
                roots.add(certificate).map_err(|fault| unusable(path, &fault))?;
            }
        }
        let mut client_tls = None;
        if let Some((chain_path, key_path)) = &files.certificate {
            let (client_cert, client_key) = (read(chain_path)?, read(key_path)?);
            let chain = certificates(chain_path, &client_cert)?;
            let key = PrivateKeyDer::from_pem_slice(&client_key)
                .map_err(|fault| unusable(key_path, &fault))?;
            check_pair(roots, chain, key).map_err(|fault| unusable(key_path, &fault))?;
            client_tls = Some(ClientTlsConfig { client_cert, client_key });
        }
        let root_cert = root_cert.map(|(_, pem)| pem);
        Ok(Tls(Some(TlsCertificates { client_tls, root_cert })))
    }

    /// A client that uses them, where it speaks TLS.
    pub(super) fn client(&self, info: ConnectionInfo) -> RedisResult<Client> {
        match (&self.0, info.addr()) {
            (Some(certificates), ConnectionAddr::TcpTls { .. }) => {
                Client::build_with_tls(info, certificates.clone())
            }
            _ => Client::open(info),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ClusterError> {
    std::fs::read(path).map_err(|fault| unusable(path, &fault))
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClusterError> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match all.map_err(|fault| unusable(path, &fault))? {
        none if none.is_empty() => Err(unusable(path, &"it holds no certificate (PEM)")),
        some => Ok(some),
    }
}

fn unusable(path: &Path, fault: &dyn fmt::Display) -> ClusterError {
    ClusterError::File(path.to_owned(), fault.to_string())
}

/// Whether the key is the certificate's. A connection would find out much later.
fn check_pair(
    roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<(), rustls::Error> {
    ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map(|_| ())
}

/// A fault of TLS in words for an operator. None where it is no fault of TLS.
pub(super) fn describe(fault: &RedisError) -> Option<String> {
    use rustls::{AlertDescription, CertificateError, Error};

    // The library keeps its causes in an `Arc`.
    let cause = fault.source()?.downcast_ref::<Arc<dyn error::Error + Send + Sync>>()?;
    let fault = match cause.downcast_ref::<io::Error>() {
        Some(cause) => cause.get_ref()?.downcast_ref::<Error>()?,
        None => cause.downcast_ref::<Error>()?,
    };
    let meaning = match fault {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the certificate of Redis is of an authority that is not known here; see redis-ca"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the certificate of Redis is not for the host that redis-url names",
        Error::InvalidCertificate(_) => "the certificate of Redis does not count",
        Error::InvalidMessage(_) => "Redis does not speak TLS at this port; see redis-url",
        Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown,
        ) => "Redis refuses this node's certificate, or wants one; see redis-cert",
        _ => "TLS to Redis failed",
    };
    Some(format!("{meaning}: {fault}"))
}
