//! The pages, over HTTP: /liveness, /readiness, /metrics.

use std::io;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{error, info};

use crate::bounded_listener::BoundedListener;
use crate::{Exposition, Health, State};

/// How soon an address that could not be listened on is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// /liveness and /readiness: 200 or 503, with a table of the parts; JSON for who accepts `application/json`.
pub fn health_pages(health: Health) -> Router {
    let live = |Extract(health): Extract<Health>, headers: HeaderMap| async move {
        let state = health.state(Instant::now());
        health_page(&state, state.is_live(), &headers)
    };
    let ready = |Extract(health): Extract<Health>, headers: HeaderMap| async move {
        let state = health.state(Instant::now());
        health_page(&state, state.is_ready(), &headers)
    };
    Router::new().route("/liveness", get(live)).route("/readiness", get(ready)).with_state(health)
}

fn health_page(state: &State, is_so: bool, headers: &HeaderMap) -> Response {
    let status = if is_so { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok());
    let (kind, text) = match accepts.is_some_and(|accepts| accepts.contains("application/json")) {
        true => ("application/json", format!("{:#}\n", state.to_json())),
        false => ("text/plain; charset=utf-8", state.to_string()),
    };
    (status, [(header::CONTENT_TYPE, kind)], text).into_response()
}

/// /metrics, made anew for each scrape.
pub fn metrics_page<F, P>(page: F) -> Router
where
    F: Fn() -> P + Clone + Send + Sync + 'static,
    P: Future<Output = Exposition> + Send,
{
    let page = move || {
        let page = page();
        async move { ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], page.await.to_string()) }
    };
    Router::new().route("/metrics", get(page))
}

/// Serves pages at the address that is wanted now, at another as soon as that is wanted, and nowhere while none is. An address
/// that cannot be had is tried again. Ends when nobody can want any more.
pub async fn keep_serving(what: &str, mut address: watch::Receiver<Option<String>>, pages: Router) {
    let mut failure = String::new();
    loop {
        let wanted = address.borrow_and_update().clone();
        let serving = async {
            let Some(wanted) = &wanted else { return std::future::pending().await };
            match listen(wanted).await {
                Ok(listener) => {
                    failure.clear();
                    info!("serving {what} on {wanted}");
                    // Ends with an error only, and then it is tried again.
                    let _ = axum::serve(BoundedListener::of(listener), pages.clone()).await;
                }
                Err(error) => {
                    // Said when it changes, not at every attempt.
                    let text = format!("cannot serve {what} on {wanted}: {error}");
                    if text != failure {
                        error!("{text}; trying again until it works");
                        failure = text;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        };
        tokio::select! {
            changed = address.changed() => if changed.is_err() { return },
            () = serving => {}
        }
    }
}

/// ":9091" is every address of this machine, of both families where there are both.
async fn listen(address: &str) -> io::Result<TcpListener> {
    match address.strip_prefix(':') {
        None => TcpListener::bind(address).await,
        Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
            // Without IPv6 there is no such address.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(format!("0.0.0.0:{port}")).await
            }
            bound => bound,
        },
    }
}
