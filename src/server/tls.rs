//! TLS: the certificate, read again on request, and the handshake before the first byte of HTTP.
//!
//! rustls does the work (TLS 1.2 and 1.3). A connection keeps the certificate that it was opened
//! with; a reloaded one is for later connections.
//!
//! A client that speaks plain HTTP gets an error text at once, which helps a person who forgot the `s` of
//! `https`.
//!
//! Imports `http::connection` and `shard::tcp_socket`. Part of `server`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::http::connection;
use crate::shard::tcp_socket::Stream;

/// The files of certificate and key, and their content at the last read.
pub(super) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    ///
    /// The file at fault, and the fault.
    pub(super) fn load(certificate: PathBuf, key: PathBuf) -> Result<Tls, (PathBuf, String)> {
        let config = RwLock::new(read(&certificate, &key)?);
        Ok(Tls { certificate, key, config })
    }

    /// Reads them again. If that fails, the old ones stay.
    ///
    /// # Errors
    ///
    /// As [`Tls::load`].
    pub(super) fn reload(&self) -> Result<(), (PathBuf, String)> {
        let config = read(&self.certificate, &self.key)?;
        *self.config.write() = config;
        Ok(())
    }

    /// Does the handshake with a client. Takes no longer than `patience`, and a moment more to
    /// answer one that does not use TLS.
    ///
    /// # Errors
    ///
    /// The fault of the client or the network.
    pub(super) async fn accept(&self, stream: TcpStream, patience: Duration) -> io::Result<Stream> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config.read()));
        let greet = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            if first[0] != HANDSHAKE {
                return Ok(Err(("not TLS", stream, words_for(first[0]))));
            }
            match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => Ok(Ok(stream)),
                // rustls has sent an alert with the fault.
                Err((fault, stream)) => {
                    tracing::debug!(%fault, "what began like TLS is none");
                    Ok(Err(("a bad handshake", stream, Vec::new())))
                }
            }
        };
        match tokio::time::timeout(patience, greet).await?? {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err((what, mut stream, words)) => {
                // A few bytes into an empty socket: this does not block.
                stream.write_all(&words).await?;
                connection::linger(Stream::Plain(stream)).await;
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
        }
    }
}

/// The first byte of every TLS connection: the content type of a handshake (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;

/// A fatal alert, `unexpected_message` (RFC 8446, 6.2).
const ALERT: [u8; 7] = [21, 3, 1, 0, 2, 2, 10];

/// The answer to a client that began with another protocol: plain HTTP if that may be what it
/// speaks, else an alert.
fn words_for(first: u8) -> Vec<u8> {
    if !first.is_ascii_graphic() && !first.is_ascii_whitespace() {
        return ALERT.to_vec();
    }
    let body = "{\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\
        \"detail\":\"this port speaks TLS: use https:// or wss://\",\"code\":\"malformed\",\
        \"request_id\":\"-\"}";
    let text = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    text.into_bytes()
}

fn read(certificate: &PathBuf, key: &PathBuf) -> Result<Arc<ServerConfig>, (PathBuf, String)> {
    let in_certificate = |fault: String| (certificate.clone(), fault);
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|fault| in_certificate(fault.to_string()))?;
    if chain.is_empty() {
        return Err(in_certificate("there is no certificate in it".to_owned()));
    }
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|fault| (key.clone(), fault.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|fault| in_certificate(format!("with its key: {fault}")))?;
    // The only protocol here; otherwise a browser might try HTTP/2.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
