//! Against a WebSocket server of the test's own, with every end that a stream can come to.

use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

type Server = WebSocketStream<DuplexStream>;

async fn pair(half_close: bool) -> (ExecStream<DuplexStream>, Server) {
    let (near, far) = duplex(64 * 1024);
    let server = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    (ExecStream::new(near, half_close).await, server)
}

async fn say(server: &mut Server, bytes: &'static [u8]) {
    let message = Message::Binary(Bytes::from_static(bytes));
    server.send(message).await.unwrap();
}

async fn heard(server: &mut Server) -> Bytes {
    match server.next().await.unwrap().unwrap() {
        Message::Binary(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn output_is_whole_and_success_is_its_end() {
    let (mut stream, mut server) = pair(true).await;
    for message in [
        &b"\x00"[..],
        b"\x01",
        b"\x01one ",
        b"\x02noise",
        b"\x01two",
        b"\xff\x01",
        b"\x03{\"status\":\"Success\"}",
    ] {
        say(&mut server, message).await;
    }
    stream.heard().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "one two");
    assert!(stream.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn an_end_without_success_is_an_error_after_the_output() {
    let failure = b"\x03{\"status\":\"Failure\",\"message\":\"exit code 1\"}";
    for (last, told) in [
        (
            Some(Message::Binary(Bytes::from_static(failure))),
            "exit code 1 (no such file)",
        ),
        (Some(Message::Close(None)), "no status came (no such file)"),
        (Some(Message::Text("hello".into())), "a text message"),
        (Some(Message::Binary(Bytes::new())), "without a channel"),
        (
            Some(Message::Binary(Bytes::from_static(b"\x09"))),
            "channel 9",
        ),
        (
            Some(Message::Binary(vec![1; RECEIVE_BYTES + 2].into())),
            "broke",
        ),
        (None, "broke"),
    ] {
        let (mut stream, mut server) = pair(true).await;
        let serving = tokio::spawn(async move {
            say(&mut server, b"\x01output").await;
            say(&mut server, b"\x02no such file\n").await;
            if let Some(last) = last {
                let _ = server.send(last).await;
                while server.next().await.is_some_and(|next| next.is_ok()) {}
            }
        });
        stream.heard().await.unwrap();
        let mut bytes = Vec::new();
        let error = stream.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!(bytes, b"output");
        assert!(error.to_string().contains(told), "{told}: {error}");
        drop(stream);
        serving.await.unwrap();
    }
}

#[tokio::test]
async fn an_end_before_the_first_byte_is_told() {
    let (mut stream, mut server) = pair(true).await;
    say(
        &mut server,
        b"\x03{\"status\":\"Failure\",\"message\":\"container not found\"}",
    )
    .await;
    let end = stream.heard().await.unwrap_err();
    assert_eq!(end, End::Failure("container not found".to_owned()));
    let (mut stream, mut server) = pair(true).await;
    say(&mut server, b"\x03{\"status\":\"Success\"}").await;
    assert_eq!(stream.heard().await, Err(End::Success));
}

#[tokio::test]
async fn input_gathers_into_large_messages_and_a_flush_sends_the_rest() {
    let (mut stream, mut server) = pair(true).await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        for part in sent.chunks(10_000) {
            stream.write_all(part).await.unwrap();
        }
        stream.flush().await.unwrap();
        stream.shutdown().await.unwrap();
        stream
    });
    let (mut received, mut messages) = (Vec::new(), 0);
    while received.len() < expected.len() {
        let message = heard(&mut server).await;
        assert_eq!(message.first(), Some(&frames::STDIN));
        received.extend_from_slice(&message[1..]);
        messages += 1;
    }
    assert!(received == expected);
    assert!(messages <= 5, "{messages}");
    assert_eq!(heard(&mut server).await[..], frames::CLOSE_STDIN);
    // The other direction is still open.
    let mut stream = writing.await.unwrap();
    assert!(stream.write_all(b"more").await.is_err());
    say(&mut server, b"\x01more").await;
    let mut more = [0; 4];
    stream.read_exact(&mut more).await.unwrap();
    assert_eq!(&more, b"more");
}

#[tokio::test]
async fn without_a_close_of_input_alone_the_whole_stream_is_closed() {
    let (mut stream, mut server) = pair(false).await;
    stream.write_all(b"x").await.unwrap();
    let closing = tokio::spawn(async move { stream.shutdown().await });
    assert_eq!(heard(&mut server).await[..], *b"\0x");
    assert!(matches!(
        server.next().await.unwrap().unwrap(),
        Message::Close(None)
    ));
    while server.next().await.is_some() {}
    closing.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reader_that_stalls_holds_up_the_writer() {
    let (mut stream, server) = pair(true).await;
    let part = vec![0; SEND_BYTES];
    let filled = async {
        loop {
            stream.write_all(&part).await.unwrap();
        }
    };
    tokio::pin!(filled);
    // Every poll that can go on does; then what is kept does not grow.
    for _ in 0..100 {
        assert!(futures::poll!(filled.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(server);
}
