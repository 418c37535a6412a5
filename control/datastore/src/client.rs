//! The way to the API server, whose credentials change while processes live.
//!
//! A pod's token is replaced on disk before it expires; kube-rs reads its file again about once a minute. Where that comes
//! too late, and where a whole kubeconfig or a certificate was replaced, the API server answers 401: the client is then made
//! anew from its files, and the request goes once more. A request that was answered 429 goes again, too: it was not begun.
//! Nothing else is repeated here: kube-rs' own retries of 503 and 504 are off, because a write that was made and is then
//! repeated looks like somebody else's.
//!
//! A connection may die without a word: a node loses its power, a firewall forgets. TCP itself would take a quarter of an hour
//! to notice, a watch that waits for nothing in particular for ever; so the kernel asks, and ends what does not answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::{Client as HttpClient, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::{Client, Config};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::util::{ServiceExt, option_layer};
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::error::causes;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection on which nothing has come for so long is asked whether it lives, again after each pause.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(5);
/// One whose other end has acknowledged nothing for so long, though something was sent or asked, is dead.
const DEAD_AFTER: Duration = Duration::from_secs(25);
/// Credentials that the API server refuses are not read more often.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);
/// While the API server cannot be reached: its certificate may have changed.
const RENEWAL_PAUSE_UNREACHED: Duration = Duration::from_secs(10);
/// How often a request goes again that the API server has put off.
const PUT_OFF_MAX: usize = 6;
const PUT_OFF_FIRST: Duration = Duration::from_millis(100);
const PUT_OFF_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be read.
    #[error("kubeconfig {path}: {error}")]
    Unreadable {
        /// Its path.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {why}")]
    Kubeconfig {
        /// Its path.
        path: String,
        /// What is wrong with it, in one line.
        why: String,
    },
    /// What is said of the API server's place is none.
    #[error("{server:?} is not the URL of an API server: {error}")]
    Server {
        /// What is said.
        server: String,
        /// What is wrong with it.
        error: Box<http::uri::InvalidUri>,
    },
    /// No kubeconfig, and this is no pod.
    #[error("no --kubeconfig is given, and this is not a pod with a service account: {0}")]
    InCluster(kube::config::InClusterError),
    /// The certificates or the address in the configuration cannot be used.
    #[error("cannot make a client from {from}: {error}")]
    Client {
        /// Where the configuration came from.
        from: String,
        /// What is wrong with it.
        error: Box<kube::Error>,
    },
}

/// A client for the cluster that the file names, or for the one that this process is a pod of. It goes on when its
/// credentials are replaced in their files. It needs a tokio runtime.
///
/// # Errors
/// [`ClientError`]; not when the server cannot be reached, which may change.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    client_at(kubeconfig, None).await
}

/// The same for an API server that is at `server`, whatever the file says.
///
/// # Errors
/// As [`client`], and when `server` is no URL.
pub async fn client_at(kubeconfig: Option<&Path>, server: Option<&str>) -> Result<Client, ClientError> {
    let server = match server {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|error| ClientError::Server { server: text.to_owned(), error: Box::new(error) })?,
        ),
    };
    let source = Source { kubeconfig: kubeconfig.map(Path::to_owned), server };
    let (first, at) = source.client().await?;
    let namespace = first.default_namespace().to_owned();
    let renewed = Instant::now();
    let renewing =
        Arc::new(Renewing { source, current: Mutex::new(Current { client: first, at, number: 0, renewed }) });
    let service = tower::service_fn(move |request| {
        let renewing = Arc::clone(&renewing);
        async move { renewing.send(request).await }
    });
    Ok(Client::new(service, namespace))
}

/// Where credentials come from.
struct Source {
    /// None: the pod's service account.
    kubeconfig: Option<PathBuf>,
    /// Where the API server is, if somebody knows better than they.
    server: Option<http::Uri>,
}

impl Source {
    /// A client with what the files say now, and of which server.
    async fn client(&self) -> Result<(Client, http::Uri), ClientError> {
        let (mut config, from) = match &self.kubeconfig {
            Some(file) => {
                let path = file.display().to_string();
                std::fs::File::open(file)
                    .map_err(|error| ClientError::Unreadable { path: path.clone(), error })?;
                let wrong = |error: kube::config::KubeconfigError| {
                    // A YAML error goes on with an excerpt of the file, which may hold secrets.
                    let why = causes(&error).lines().next().unwrap_or_default().to_owned();
                    ClientError::Kubeconfig { path: path.clone(), why }
                };
                let kubeconfig = kube::config::Kubeconfig::read_from(file).map_err(wrong)?;
                let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
                let names_proxy = clusters.into_iter().any(|cluster| cluster.proxy_url.is_some());
                let mut config =
                    Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.map_err(wrong)?;
                if !names_proxy {
                    // The environment's proxies are for the way out of the cluster.
                    config.proxy_url = None;
                }
                (config, format!("kubeconfig {path}"))
            }
            None => {
                (Config::incluster().map_err(ClientError::InCluster)?, "the pod's service account".to_owned())
            }
        };
        if let Some(server) = &self.server {
            config.cluster_url = server.clone();
        }
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.default_retry = false;
        let at = config.cluster_url.clone();
        match connect(config) {
            Ok(client) => Ok((client, at)),
            Err(error) => Err(ClientError::Client { from, error: Box::new(error) }),
        }
    }
}

/// A client as kube-rs makes one, but over connections that are asked whether they live.
fn connect(config: Config) -> Result<Client, kube::Error> {
    if config.proxy_url.is_some() {
        // Proxies are not built in; kube-rs says so.
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    // TLS is the next layer's.
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_PAUSE));
    tcp.set_tcp_user_timeout(Some(DEAD_AFTER));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);
    let client = ClientBuilder::new(http.map_err(tower::BoxError::from), config.default_namespace.clone())
        .with_layer(&config.extra_headers_layer()?)
        .with_layer(&option_layer(config.auth_layer()?))
        .with_layer(&config.base_uri_layer());
    Ok(client.build())
}

/// Which server it is that was not reached.
#[derive(Debug, thiserror::Error)]
#[error("the API server at {at}")]
struct Unreached {
    at: http::Uri,
    source: tower::BoxError,
}

/// A client that is made anew when its credentials are refused.
struct Renewing {
    source: Source,
    current: Mutex<Current>,
}

struct Current {
    client: Client,
    at: http::Uri,
    /// Which one it is: the first is 0.
    number: u64,
    /// When it was made, or was last tried to be.
    renewed: Instant,
}

impl Renewing {
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        let (parts, mut body) = request.into_parts();
        let mut was_refused = false;
        let mut backoff = Backoff::new(PUT_OFF_FIRST, PUT_OFF_LIMIT);
        let mut put_off = 0;
        loop {
            let (client, at, number) = {
                let current = self.current.lock().await;
                (current.client.clone(), current.at.clone(), current.number)
            };
            // A body that streams can go only once; nothing here has one.
            let again = body.try_clone();
            let answer = client.send(Request::from_parts(parts.clone(), body)).await;
            let Some(again) = again else { return answer };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    self.renew(number, RENEWAL_PAUSE_UNREACHED).await;
                    return Err(match error {
                        kube::Error::Service(source) => kube::Error::Service(Unreached { at, source }.into()),
                        error => error,
                    });
                }
            };
            match answer.status() {
                StatusCode::UNAUTHORIZED if !was_refused => {
                    was_refused = true;
                    if !self.renew(number, RENEWAL_PAUSE).await {
                        return Ok(answer);
                    }
                }
                StatusCode::TOO_MANY_REQUESTS if put_off < PUT_OFF_MAX => {
                    put_off += 1;
                    let told = answer.headers().get(header::RETRY_AFTER);
                    let told = told.and_then(|told| told.to_str().ok()?.parse().ok());
                    let told = told.map_or(Duration::ZERO, Duration::from_secs).min(PUT_OFF_LIMIT);
                    tokio::time::sleep(backoff.failed().max(told)).await;
                }
                _ => return Ok(answer),
            }
            body = again;
        }
    }

    /// Sees to it that there is another client than the one of this number; false: there is none yet.
    async fn renew(&self, number: u64, pause: Duration) -> bool {
        let mut current = self.current.lock().await;
        if current.number != number {
            return true;
        }
        if current.renewed.elapsed() < pause {
            return false;
        }
        current.renewed = Instant::now();
        match self.source.client().await {
            Ok((client, at)) => {
                (current.client, current.at) = (client, at);
                current.number += 1;
                info!("the credentials for the API server have been read again");
                true
            }
            Err(error) => {
                warn!(
                    "reading the credentials for the API server again: {error}; going on with those before"
                );
                false
            }
        }
    }
}
