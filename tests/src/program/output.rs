//! A job's output, read window by window to its end.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::Value;

use super::Client;

/// Bytes that the limit dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first of them, as an offset.
    pub start: u64,
    /// The first byte after them.
    pub end: u64,
}

/// One stream as it was read.
#[derive(Debug, Default)]
pub struct Drain {
    /// The bytes that were there.
    pub bytes: Vec<u8>,
    /// What was dropped between them.
    pub gaps: Vec<Gap>,
    /// Offset after the last byte.
    pub end: u64,
}

/// Both streams.
#[derive(Debug, Default)]
pub struct Output {
    /// Standard output.
    pub stdout: Drain,
    /// Standard error.
    pub stderr: Drain,
    /// Whether the service says that the limit dropped bytes.
    pub truncated: bool,
    /// Whether the service says that the rest cannot be known.
    pub incomplete: bool,
}

impl Drain {
    fn take(&mut self, window: &Value, name: &str) {
        let base64 = window["encoding"] == "base64";
        let text = window[name].as_str().expect("text");
        let bytes = if base64 {
            STANDARD.decode(text).expect("base64")
        } else {
            text.as_bytes().to_vec()
        };
        let start = window[format!("{name}_offset")]
            .as_u64()
            .expect("an offset");
        let next = window[format!("next_{name}_offset")]
            .as_u64()
            .expect("an offset");
        assert_eq!(
            start + bytes.len() as u64,
            next,
            "the window is as long as it says"
        );
        assert!(
            start >= self.end,
            "the window begins where it was asked to or later"
        );
        if bytes.is_empty() {
            return;
        }
        if start > self.end {
            self.gaps.push(Gap {
                start: self.end,
                end: start,
            });
        }
        self.bytes.extend_from_slice(&bytes);
        self.end = next;
    }
}

impl Client {
    /// Reads a job's output to its end, while it still grows too, in windows of at most `limit` bytes of each stream.
    pub async fn output_in(&self, job: &str, limit: u64) -> Output {
        let mut output = Output::default();
        let path = format!("/v1/jobs/{job}/output");
        loop {
            let request = self
                .request(Method::GET, &path)
                .header("Prefer", "wait=20")
                .query(&[
                    ("stdout_offset", output.stdout.end),
                    ("stderr_offset", output.stderr.end),
                    ("limit", limit),
                ]);
            let window = self.send(request).await.expect(200).json();
            output.stdout.take(&window, "stdout");
            output.stderr.take(&window, "stderr");
            if window["done"] == true {
                output.truncated = window["truncated"] == true;
                output.incomplete = window["incomplete"] == true;
                return output;
            }
        }
    }

    /// Reads a job's output to its end in large windows.
    pub async fn output(&self, job: &str) -> Output {
        self.output_in(job, 4 << 20).await
    }
}
