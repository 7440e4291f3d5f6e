//! A stream to a runner that ends once the watch says that the runner's container is gone.
//!
//! ```text
//!   read ──▶ bytes                                                    as they come
//!        └─▶ nothing comes ──▶ the pod went, ended, or its container was started again ──▶ broken
//! ```
//!
//! A node that dies, or a proxy that forgets, may leave a stream on which nothing is ever said again. What the watch says
//! proves nothing to whoever reads it: like every stream that broke, it makes them ask the API server.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Fuse};
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::{self, State};
use super::watch::{Known, Watched};

/// What is on its way when the container ends may still arrive for so long.
const LAST_BYTES_TIME: Duration = Duration::from_secs(2);

/// A stream, and what ends it.
pub(super) struct Cut<S> {
    stream: S,
    /// Says why there is nobody at the other end any more.
    over: Fuse<BoxFuture<'static, String>>,
}

impl<S> Cut<S> {
    /// Of a stream into the pod of that name, as it is now.
    pub(super) fn new(stream: S, watched: &Watched, pod: &str) -> Self {
        let mut container = Container::new(pod);
        let over = watched.eventually(move |known| container.over(known));
        let over = async move {
            let why = over.await;
            tokio::time::sleep(LAST_BYTES_TIME).await;
            why
        };
        Self {
            stream,
            over: over.boxed().fuse(),
        }
    }
}

/// One start of the container of one pod.
struct Container {
    pod: String,
    /// The pod's own uid and how often its container had been started again, once the watch has told.
    seen: Option<(Option<String>, u32)>,
}

impl Container {
    fn new(pod: &str) -> Self {
        Self {
            pod: pod.to_owned(),
            seen: None,
        }
    }

    /// Why the container is gone, if it is.
    fn over(&mut self, known: &Known) -> Option<String> {
        let pod = known.pod(&self.pod);
        let Some((uid, restarts)) = &self.seen else {
            self.seen = pod.map(|pod| (pod.metadata.uid.clone(), state::restarts(pod)));
            return None;
        };
        let is_it = |pod: &&Pod| pod.metadata.uid == *uid;
        let Some(pod) = pod.map(AsRef::as_ref).filter(is_it) else {
            return Some(format!("the pod {} is gone", self.pod));
        };
        match known.state(pod) {
            State::Ended(reason) => Some(reason.message),
            _ if state::restarts(pod) > *restarts => Some(format!(
                "the container of pod {} was started again",
                self.pod
            )),
            _ => None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let read @ Poll::Ready(_) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            return read;
        }
        self.over
            .poll_unpin(context)
            .map(|why| Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pod(uid: &str, status: &Value) -> Pod {
        let metadata = json!({ "name": "em-a-1", "uid": uid });
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    fn running(restarts: u32) -> Value {
        let container =
            json!({ "name": "environment", "restartCount": restarts, "state": { "running": {} } });
        json!({ "phase": "Running", "containerStatuses": [container] })
    }

    #[test]
    fn a_container_is_over_when_its_pod_is_or_another_start_of_it_is_told_of() {
        let over_after = |end: &dyn Fn(&mut Known)| {
            let mut known = Known::new();
            let mut container = Container::new("em-a-1");
            assert_eq!(container.over(&known), None, "not told of yet");
            known.hear_of(pod("u", &running(1)));
            for _ in 0..2 {
                assert_eq!(container.over(&known), None);
            }
            end(&mut known);
            container.over(&known)
        };
        assert_eq!(
            over_after(&|known| known.hear_of(pod("u", &running(1)))),
            None
        );
        let ends: [&dyn Fn(&mut Known); 4] = [
            &|known| known.hear_of(pod("u", &running(2))),
            &|known| known.hear_of(pod("another", &running(1))),
            &|known| known.hear_no_more_of(pod("u", &running(1))),
            &|known| known.hear_of(pod("u", &json!({ "phase": "Failed", "reason": "Evicted" }))),
        ];
        for end in ends {
            assert!(over_after(end).is_some());
        }
    }

    #[tokio::test]
    async fn a_stream_on_which_nothing_comes_ends_and_one_that_still_speaks_is_heard() {
        let (mut far, stream) = tokio::io::duplex(64);
        let (say, said) = tokio::sync::oneshot::channel();
        let over = async move { said.await.expect("said") };
        let mut cut = Cut {
            stream,
            over: over.boxed().fuse(),
        };
        far.write_all(b"last").await.unwrap();
        say.send("the pod is gone".to_owned()).expect("heard");
        let mut bytes = [0; 4];
        cut.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"last");
        let error = cut.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(error.to_string().contains("the pod is gone"), "{error}");
    }
}
