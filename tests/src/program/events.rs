//! Output as server-sent events.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::Value;

use super::Client;

/// What a reader has of a job's output, over as many connections as it took.
#[derive(Debug, Default)]
pub struct Followed {
    /// Standard output, from where the reader began.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// The id of the last event.
    pub last: Option<String>,
    /// The job, once its end was said.
    pub end: Option<Value>,
    /// Where in standard output the reader began.
    begin: u64,
}

impl Followed {
    /// A reader of standard output from an offset on.
    pub fn from(offset: u64) -> Self {
        Self {
            last: Some(format!("{offset}-0")),
            begin: offset,
            ..Self::default()
        }
    }

    /// Takes one event in; each begins where the one before it ended.
    fn take(&mut self, block: &str) {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let Some(name) = field("event: ") else {
            return;
        };
        let data: Value = serde_json::from_str(field("data: ").expect("data")).expect("JSON");
        self.last = field("id: ").map(str::to_owned);
        let (stream, begin) = match name {
            "stdout" => (&mut self.stdout, self.begin),
            "stderr" => (&mut self.stderr, 0),
            "end" => {
                self.end = Some(data);
                return;
            }
            other => panic!("an event {other}"),
        };
        let next = begin + stream.len() as u64;
        assert_eq!(data["offset"], next, "no byte twice, none missing");
        let text = data["data"].as_str().expect("text");
        if data["encoding"] == "base64" {
            stream.extend(STANDARD.decode(text).expect("base64"));
        } else {
            stream.extend_from_slice(text.as_bytes());
        }
    }
}

impl Client {
    /// Follows a job's output from where the reader is, until its end is said, the connection breaks, or `enough`.
    pub async fn follow(
        &self,
        job: &str,
        followed: &mut Followed,
        enough: impl Fn(&Followed) -> bool,
    ) -> Result<(), reqwest::Error> {
        let path = format!("/v1/jobs/{job}/output/stream");
        let mut request = self.request(Method::GET, &path);
        if let Some(last) = &followed.last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await?.error_for_status()?;
        let (mut bytes, mut text) = (response.bytes_stream(), Vec::new());
        while let Some(piece) = bytes.next().await {
            text.extend_from_slice(&piece?);
            while let Some(length) = text.windows(2).position(|pair| pair == b"\n\n") {
                followed.take(std::str::from_utf8(&text[..length]).expect("text"));
                text.drain(..length + 2);
                if followed.end.is_some() || enough(followed) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
