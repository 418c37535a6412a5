//! The listening side: TLS connections in, requests to the handlers, and an orderly end.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::credentials::{Credentials, CredentialsError};
use crate::store::{LogLimits, OpenError, Store};
use crate::table::Table;
use crate::tokens::{TokenFileError, Tokens};
use crate::{App, Options, custom, handlers, namespaces, neighbours, services};

mod stall;

use stall::StallLimit;

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be made.
    #[error("--data-dir {dir}: {error}")]
    DataDir {
        /// Which.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Keys, token or kubeconfig.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The file with the tokens of others.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// The address cannot be listened on.
    #[error("--listen {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The initial objects cannot be written.
    #[error("the initial namespaces and tiers cannot be made: {0}")]
    Initial(String),
}

/// A running server. Dropping it stops it too, without waiting.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    store: Option<Store>,
}

impl Server {
    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no new connections; watches end; requests under way are answered; the store is let go.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = (&mut self.accepting).await;
        if let Some(store) = self.store.take()
            && tokio::time::timeout(STOPPING_MOST, store.close()).await.is_err()
        {
            tracing::warn!("the store is still in use");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Opens the store, writes the kubeconfig and begins to serve.
///
/// The kubeconfig is written last: when it is there, the server answers.
pub async fn serve(options: Options) -> Result<Server, ServeError> {
    serve_with_tokens(options, None).await
}

/// As [`serve`]; whoever shows a token of the file is let in as well. The file is read again when it changes.
pub async fn serve_with_tokens(options: Options, file: Option<PathBuf>) -> Result<Server, ServeError> {
    let dir = &options.data_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| ServeError::DataDir { dir: dir.clone(), error })?;
    let store = Store::open(&dir.join("store.redb"), LogLimits::default())?;
    let credentials = Credentials::load(dir, options.listen.ip())?;
    let tokens = Tokens::load(credentials.token.clone(), file)?;
    let listening = |error| ServeError::Listen { address: options.listen, error };
    let listener = TcpListener::bind(options.listen).await.map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;

    let (stop, stopped) = watch::channel(false);
    let app = Arc::new(App {
        store: store.clone(),
        tokens,
        ranges: options.ranges.clone(),
        allocating: tokio::sync::Mutex::new(()),
        tables: watch::Sender::new(Arc::new(Table::with(Vec::new()))),
        settling: tokio::sync::Mutex::new(()),
        stop: stopped.clone(),
    });
    custom::start(&app).await.map_err(|error| ServeError::Initial(error.message))?;
    namespaces::start(&app).await.map_err(|error| ServeError::Initial(error.message))?;
    neighbours::start(&app).await.map_err(|error| ServeError::Initial(error.message))?;
    services::keep_slices(&app);
    let tls = TlsAcceptor::from(Arc::clone(&credentials.tls));
    let accepting = tokio::spawn(accept(listener, tls, app, stopped));
    credentials.write_kubeconfig(&options.write_kubeconfig, address)?;
    tracing::info!(%address, "serving");
    Ok(Server { address, stop, accepting, store: Some(store) })
}

/// How long requests under way may take once the server is told to stop.
const STOPPING_MOST: Duration = Duration::from_secs(5);
/// How long a client may take for its handshake, and for taking anything of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may be without a request. Longer than clients keep idle connections (90 s), so that it is
/// they who close them, and none sends a request into a connection that is being closed.
const IDLE_MOST: Duration = Duration::from_secs(300);

async fn accept(listener: TcpListener, tls: TlsAcceptor, app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let watcher = graceful.watcher();
                let (tls, app) = (tls.clone(), Arc::clone(&app));
                connections.spawn(async move {
                    if let Some(connection) = connect(stream, &tls, app).await
                        && let Err(error) = watcher.watch(connection).await
                    {
                        tracing::debug!(%error, "a connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors, say: connections that end will help.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(STOPPING_MOST, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were cut off");
    }
    connections.shutdown().await;
}

/// Shakes hands, and sets up what answers the connection's requests.
async fn connect(
    stream: TcpStream,
    tls: &TlsAcceptor,
    app: Arc<App>,
) -> Option<impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error>> {
    // Watch events are small and urgent.
    stream.set_nodelay(true).ok()?;
    let stream = tokio::time::timeout(PATIENCE, tls.accept(stream)).await.ok()?.ok()?;
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let app = Arc::clone(&app);
        async move { Ok::<_, std::convert::Infallible>(handlers::answer(app, request.map(Body::new)).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MOST)
        .serve_connection(TokioIo::new(StallLimit::new(stream, PATIENCE)), service);
    Some(connection)
}
