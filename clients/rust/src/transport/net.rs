//! Streams to a server, plain or over TLS, for the socket and for HTTP alike.
//!
//! Imports `address` and `error`. Imported by `http` and `socket`.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::address::Address;
use crate::error::Error;

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream to a server, plain or TLS.
pub(crate) type Stream = Box<dyn Duplex>;

/// Connects. The caller bounds the time.
pub(crate) async fn connect(address: &Address) -> Result<Stream, Error> {
    let stream = TcpStream::connect((&*address.host, address.port)).await;
    let stream = stream.map_err(Error::connect)?;
    // Frames are small, and a caller waits for each of them.
    stream.set_nodelay(true).map_err(Error::connect)?;
    if !address.is_secure {
        return Ok(Box::new(stream));
    }
    #[cfg(feature = "tls")]
    return secure(address, stream).await;
    #[cfg(not(feature = "tls"))]
    Err(Error::Tls(String::from("this program was built without the feature \"tls\"")))
}

#[cfg(feature = "tls")]
async fn secure(address: &Address, stream: TcpStream) -> Result<Stream, Error> {
    use std::sync::Arc;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    let wrong = |what: String| Error::Tls(what);
    // Read for each connection: they are few, and certificates change under a running program.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let found = found.map_err(|fault| wrong(fault.to_string()))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|fault| wrong(fault.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(address.host.clone());
    let name = name.map_err(|fault| wrong(fault.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        // Rustls wraps its own faults; any other is the network's.
        Err(fault) if fault.kind() == std::io::ErrorKind::InvalidData => {
            Err(wrong(fault.to_string()))
        }
        Err(fault) => Err(Error::connect(fault)),
    }
}
