//! A caller: HTTP with a key, and the few things that every test does.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::LONG;

/// Seconds of one long poll.
const POLL: u64 = 20;

/// A caller of the service.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

/// What the service answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The body as text, for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer, whose status must be this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    /// A caller with a key.
    pub fn new(url: String, key: String) -> Self {
        let http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .expect("a client");
        Self { http, url, key }
    }

    /// The same service with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    /// Host and port of the service.
    pub fn address(&self) -> String {
        self.url.trim_start_matches("http://").to_owned()
    }

    /// The key that it sends.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A request to a path, with the key.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.key)
    }

    /// Sends a request and reads the answer to its end.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        self.try_send(request).await.expect("an answer")
    }

    /// The same where the service may go away meanwhile.
    pub async fn try_send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await?,
        })
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Whether it is ready.
    pub async fn is_ready(&self) -> bool {
        let answer = self.try_send(self.request(Method::GET, "/ready")).await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Creates an environment and waits until it runs.
    pub async fn create(&self, id: &str) {
        self.create_from(&json!({ "id": id })).await;
    }

    /// Creates an environment as the body says and waits until it runs.
    pub async fn create_from(&self, body: &Value) {
        let job = self.post("/v1/environments", body).await.expect(202).json();
        let job = self.ended(id_of(&job)).await;
        assert_eq!(job["state"], "succeeded", "{job}");
    }

    /// Submits a command and gives its job's id.
    pub async fn submit(&self, environment: &str, body: &Value) -> String {
        let path = format!("/v1/environments/{environment}/exec");
        let job = self.post(&path, body).await.expect(202).json();
        id_of(&job).to_owned()
    }

    /// Runs a shell script to its end and gives the job.
    pub async fn sh(&self, environment: &str, script: &str) -> Value {
        self.exec(environment, &json!({ "command": script })).await
    }

    /// Runs a command to its end and gives the job.
    pub async fn exec(&self, environment: &str, body: &Value) -> Value {
        let id = self.submit(environment, body).await;
        self.ended(&id).await
    }

    /// What a shell script prints; it must succeed.
    pub async fn printed(&self, environment: &str, script: &str) -> String {
        let job = self.sh(environment, script).await;
        assert_eq!(job["state"], "succeeded", "{job}");
        job["result"]["stdout"].as_str().expect("text").to_owned()
    }

    /// A job as it is.
    pub async fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).await.expect(200).json()
    }

    /// Waits for a job's end.
    pub async fn ended(&self, id: &str) -> Value {
        let began = Instant::now();
        loop {
            let request = self
                .request(Method::GET, &format!("/v1/jobs/{id}"))
                .header("Prefer", format!("wait={POLL}"));
            let answer = self.send(request).await;
            assert!(matches!(answer.status, 200 | 202), "{}", answer.text());
            let job = answer.json();
            if !matches!(job["state"].as_str(), Some("queued" | "running")) {
                return job;
            }
            assert!(began.elapsed() < 3 * LONG, "it does not end: {job}");
            // Right after a stop of the service begins it does not let callers wait.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a job is in a state.
    pub async fn until_state(&self, id: &str, state: &str) {
        super::wait_until(&format!("job {id} is {state}"), async || {
            self.job(id).await["state"] == state
        })
        .await;
    }

    /// Asks for a job's end.
    pub async fn cancel(&self, id: &str) -> Answer {
        self.post(&format!("/v1/jobs/{id}/cancel"), &json!({}))
            .await
    }

    /// Writes a file.
    pub async fn put_file(
        &self,
        environment: &str,
        path: &str,
        content: impl Into<reqwest::Body>,
    ) -> Answer {
        let at = format!("/v1/environments/{environment}/files/content");
        let request = self.request(Method::PUT, &at).query(&[("path", path)]);
        self.send(request.body(content)).await
    }

    /// Reads a file.
    pub async fn get_file(&self, environment: &str, path: &str) -> Answer {
        let at = format!("/v1/environments/{environment}/files/content");
        self.send(self.request(Method::GET, &at).query(&[("path", path)]))
            .await
    }

    /// Lists a folder.
    pub async fn list_files(&self, environment: &str, query: &[(&str, &str)]) -> Answer {
        let at = format!("/v1/environments/{environment}/files");
        self.send(self.request(Method::GET, &at).query(query)).await
    }

    /// Removes a file or folder.
    pub async fn remove_file(&self, environment: &str, query: &[(&str, &str)]) -> Answer {
        let at = format!("/v1/environments/{environment}/files");
        self.send(self.request(Method::DELETE, &at).query(query))
            .await
    }
}

/// A job's id.
pub fn id_of(job: &Value) -> &str {
    job["id"]
        .as_str()
        .unwrap_or_else(|| panic!("no job: {job}"))
}
