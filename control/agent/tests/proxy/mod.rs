//! What stands between an agent and a real API server, and goes wrong when a test says so.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::{FutureExt, StreamExt};
use kube::Client;
use serde_json::json;
use tokio::sync::watch;

/// What becomes of requests.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// They are answered with this.
    pub refuses: Option<u16>,
    /// Watches begin with this, in the stream.
    pub watches_begin_with: Option<u16>,
    /// Lists are answered with this.
    pub lists_get: Option<u16>,
    /// They wait so long first.
    pub delay: Duration,
    /// Paths with this in them are not known.
    pub hides: Vec<&'static str>,
    /// Paths with this in them are known, and nobody answers there.
    pub away: Vec<&'static str>,
    /// Only this token is known.
    pub token: Option<String>,
    /// At every change of this, all streams break.
    pub cut: usize,
}

/// The proxy; it serves as long as the test runs.
pub struct Proxy {
    weather: Arc<watch::Sender<Weather>>,
    requests: Arc<AtomicUsize>,
    address: std::net::SocketAddr,
}

impl Proxy {
    /// In front of the server that `client` speaks to.
    pub async fn start(client: Client, weather: Weather) -> Self {
        let weather = Arc::new(watch::channel(weather).0);
        let requests = Arc::new(AtomicUsize::new(0));
        let handler = {
            let (weather, requests) = (Arc::clone(&weather), Arc::clone(&requests));
            move |request: Request| {
                requests.fetch_add(1, Ordering::Relaxed);
                answer(client.clone(), weather.subscribe(), request)
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
        Self { weather, requests, address }
    }

    /// From now on it is like this; what was under way breaks off.
    pub fn becomes(&self, change: impl FnOnce(&mut Weather)) {
        self.weather.send_modify(|weather| {
            change(weather);
            weather.cut += 1;
        });
    }

    /// How many requests there have been.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// A kubeconfig that leads here, with this token.
    pub fn write_kubeconfig(&self, path: &Path, token: &str) {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        // Whole or not at all, as tools write it.
        let beside = path.with_extension("new");
        std::fs::write(&beside, kubeconfig.to_string()).unwrap();
        std::fs::rename(&beside, path).unwrap();
    }
}

fn status(code: u16, reason: &str) -> serde_json::Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "a test says so",
        "reason": reason, "code": code})
}

fn failure(code: u16) -> Response {
    let reason = match code {
        401 => "Unauthorized",
        404 => "NotFound",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    (StatusCode::from_u16(code).unwrap(), axum::Json(status(code, reason))).into_response()
}

async fn answer(client: Client, mut weather: watch::Receiver<Weather>, request: Request) -> Response {
    let now = weather.borrow_and_update().clone();
    tokio::time::sleep(now.delay).await;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = request.uri().path().to_owned();
    let token = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if now.token.is_some_and(|known| token != Some(&format!("Bearer {known}"))) {
        return failure(401);
    }
    if let Some(code) = now.refuses {
        return failure(code);
    }
    if now.hides.iter().any(|hidden| path.contains(hidden)) {
        return failure(404);
    }
    if now.away.iter().any(|away| path.contains(away)) {
        return failure(503);
    }
    let watches = query.contains("watch=true");
    if let Some(code) = now.watches_begin_with.filter(|_| watches) {
        return format!("{}\n", json!({"type": "ERROR", "object": status(code, "Expired")})).into_response();
    }
    if let Some(code) = now.lists_get.filter(|_| !watches && query.contains("limit=")) {
        return failure(code);
    }
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 16 << 20).await.unwrap();
    // The client has its own.
    for header in ["authorization", "host", "content-length"] {
        parts.headers.remove(header);
    }
    parts.uri = parts.uri.path_and_query().unwrap().as_str().parse().unwrap();
    let forwarded = axum::http::Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    match client.send(forwarded).await {
        Ok(answer) => {
            let (mut parts, body) = answer.into_parts();
            parts.headers.remove("content-length");
            parts.headers.remove("transfer-encoding");
            let cut = async move {
                let _ = weather.changed().await;
            };
            let stream = Body::new(body).into_data_stream();
            // A watch breaks off; an answer is given whole.
            let body = if watches {
                Body::from_stream(stream.take_until(cut.boxed()))
            } else {
                Body::from_stream(stream)
            };
            Response::from_parts(parts, body)
        }
        Err(_) => failure(503),
    }
}
