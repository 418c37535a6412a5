//! Requests and their answers, one by one.

use axum::http::{Method, Request, Response};
use futures::{AsyncBufReadExt, StreamExt};
use kube::client::Body;
use serde_json::Value;

use super::Here;

/// Requests as they stand, without a client's help.
pub struct Api {
    pub client: kube::Client,
}

pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
}

impl Api {
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        media: &str,
        accept: &str,
        body: Vec<u8>,
    ) -> Response<Body> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("Content-Type", media)
            .header("Accept", accept)
            .body(Body::from(body))
            .expect("a request");
        self.client.send(request).await.expect("an answer")
    }

    pub async fn answer(
        &self,
        method: Method,
        path: &str,
        media: &str,
        accept: &str,
        body: Vec<u8>,
    ) -> Answer {
        let response = self.send(method, path, media, accept, body).await;
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("Warning");
        let warnings = warnings.iter().map(|value| value.to_str().expect("text").to_owned()).collect();
        let bytes = response.into_body().collect_bytes().await.expect("a body");
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { code, body, warnings }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.answer(Method::GET, path, "", "application/json", vec![]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.answer(Method::POST, path, "application/json", "application/json", body.to_string().into()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.answer(Method::PUT, path, "application/json", "application/json", body.to_string().into()).await
    }

    pub async fn patch(&self, path: &str, media: &str, body: Value) -> Answer {
        let media = format!("application/{media}");
        self.answer(Method::PATCH, path, &media, "application/json", body.to_string().into()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        self.answer(Method::DELETE, path, "application/json", "application/json", options.to_string().into())
            .await
    }

    /// The events of a watch, as they come.
    pub async fn watch(&self, path: &str) -> impl futures::Stream<Item = Value> + Unpin + use<> {
        let request = Request::get(path).body(vec![]).expect("a request");
        let lines = self.client.request_stream(request).await.expect("a stream").lines();
        Box::pin(lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON")))
    }
}

/// A server, and how to ask it.
pub async fn api() -> (Here, Api) {
    let here = Here::start().await;
    let client = here.client().await;
    (here, Api { client })
}

/// What an object's `metadata.resourceVersion` says.
pub fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().expect("a revision").parse().expect("a number")
}
