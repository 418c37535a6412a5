//! The server's certificate authority, its certificate, its token, and the kubeconfig that carries them to clients.
//!
//! The authority and the token live in the data directory, so a kubeconfig stays good over restarts; the server's
//! own certificate is made anew at each start, for the address it then listens on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Credentials cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read or written.
    #[error("{file}: {error}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A key or a certificate is not right.
    #[error(
        "the certificate authority in {dir} cannot be used: {reason}; remove ca.key and ca.crt to have it made anew"
    )]
    Authority {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What clients and the server use to trust each other.
pub struct Credentials {
    /// The authority's certificate.
    pub authority_pem: String,
    /// What clients show.
    pub token: String,
    /// What the server shows.
    pub tls: Arc<rustls::ServerConfig>,
}

impl Credentials {
    /// Reads what is in the data directory and makes the rest.
    pub fn load(data_dir: &Path, listen: IpAddr) -> Result<Credentials, CredentialsError> {
        let authority_error =
            |reason: String| CredentialsError::Authority { dir: data_dir.to_owned(), reason };
        let token = kept(&data_dir.join("token"), || {
            Ok::<_, String>(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()))
        })?;
        let key_pem = kept(&data_dir.join("ca.key"), || KeyPair::generate().map(|key| key.serialize_pem()))?;
        let authority_key =
            KeyPair::from_pem(&key_pem).map_err(|error| authority_error(error.to_string()))?;
        let authority_pem = kept(&data_dir.join("ca.crt"), || {
            authority_params().self_signed(&authority_key).map(|certificate| certificate.pem())
        })?;
        let tls = serving(authority_key, listen).map_err(authority_error)?;
        Ok(Credentials { authority_pem, token: token.trim().to_owned(), tls: Arc::new(tls) })
    }

    /// Writes the kubeconfig, whole or not at all.
    pub fn write_kubeconfig(&self, file: &Path, address: SocketAddr) -> Result<(), CredentialsError> {
        let reachable = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let server = SocketAddr::new(reachable, address.port());
        let authority = BASE64.encode(self.authority_pem.as_bytes());
        let token = &self.token;
        let text = format!(
            "apiVersion: v1\n\
             kind: Config\n\
             current-context: caracal\n\
             clusters:\n\
             - name: caracal\n\
             \x20 cluster:\n\
             \x20   server: https://{server}\n\
             \x20   certificate-authority-data: {authority}\n\
             contexts:\n\
             - name: caracal\n\
             \x20 context:\n\
             \x20   cluster: caracal\n\
             \x20   user: caracal\n\
             users:\n\
             - name: caracal\n\
             \x20 user:\n\
             \x20   token: {token}\n"
        );
        write_private(file, &text)
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "caracal apiserver");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// A server configuration with a fresh certificate for this machine's loopback and the address listened on.
fn serving(authority_key: KeyPair, listen: IpAddr) -> Result<rustls::ServerConfig, String> {
    let told = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).map_err(told)?;
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), listen] {
        params.subject_alt_names.push(SanType::IpAddress(ip));
    }
    params.distinguished_name.push(DnType::CommonName, "caracal apiserver, serving");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(told)?;
    let issuer = Issuer::new(authority_params(), authority_key);
    let certificate = params.signed_by(&key, &issuer).map_err(told)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(|error| error.to_string())
}

/// The content of a file that is made once.
fn kept<E: std::fmt::Display>(
    file: &Path,
    make: impl FnOnce() -> Result<String, E>,
) -> Result<String, CredentialsError> {
    let failed = |error| CredentialsError::File { file: file.to_owned(), error };
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = make().map_err(|error| failed(io::Error::other(error.to_string())))?;
            write_private(file, &text)?;
            Ok(text)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Replaces a file in one step; only its owner may read it.
fn write_private(file: &Path, text: &str) -> Result<(), CredentialsError> {
    let failed = |error| CredentialsError::File { file: file.to_owned(), error };
    caracal_files::replace(file, 0o600, text.as_bytes()).map_err(failed)
}
