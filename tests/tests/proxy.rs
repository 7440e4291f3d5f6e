//! The proxy that other tests break connections with does what it says.

use std::time::Duration;

use tests::program::wait_until;
use tests::proxy::{Fault, Plan, Proxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A server that sends back what it gets, and ends when its client has.
async fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.expect("accepted")
}

async fn round_trip(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.expect("sent");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.expect("answered");
    assert_eq!(&answer, b"ping");
}

#[tokio::test]
async fn it_carries_every_byte_of_both_directions_at_once() {
    let proxy = Proxy::start(echo().await).await;
    let sent: Vec<u8> = (0..8 << 20).map(|byte: u32| (byte % 251) as u8).collect();
    let (mut from, mut to) = connect(&proxy).await.into_split();
    let expected = sent.clone();
    let sender = tokio::spawn(async move {
        to.write_all(&sent).await.expect("sent");
        to.shutdown().await.expect("ended");
    });
    let mut got = Vec::new();
    from.read_to_end(&mut got).await.expect("read");
    sender.await.expect("no panic");
    assert!(got == expected, "{} bytes came", got.len());
    assert_eq!(proxy.carried(), 2 * expected.len() as u64);
    assert_eq!((proxy.accepted(), proxy.struck()), (1, 0));
}

#[tokio::test]
async fn a_kill_resets_open_connections_and_new_ones_live() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    round_trip(&mut stream).await;
    proxy.strike(Fault::Kill);
    let error = stream.read_u8().await.expect_err("reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    round_trip(&mut connect(&proxy).await).await;
    assert_eq!(proxy.struck(), 1);
}

#[tokio::test]
async fn a_stalled_connection_moves_nothing_and_stays_open() {
    let proxy = Proxy::start(echo().await).await;
    let mut stream = connect(&proxy).await;
    round_trip(&mut stream).await;
    proxy.strike(Fault::Stall);
    wait_until("it is stalled", async || proxy.struck() == 1).await;
    stream.write_all(b"ping").await.expect("taken");
    let silence = timeout(Duration::from_millis(200), stream.read_u8()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = Proxy::start(listener.local_addr().expect("bound")).await;
    for fault in [Fault::EndDown, Fault::EndUp] {
        let mut client = connect(&proxy).await;
        let (mut server, _) = listener.accept().await.expect("a connection");
        client.write_all(b"a").await.expect("sent");
        assert_eq!(server.read_u8().await.expect("came"), b'a');
        proxy.strike(fault);
        let (told, other) = match fault {
            Fault::EndDown => (&mut client, &mut server),
            _ => (&mut server, &mut client),
        };
        assert_eq!(told.read(&mut [0]).await.expect("an end"), 0);
        told.write_all(b"b").await.expect("sent");
        assert_eq!(other.read_u8().await.expect("came"), b'b', "{fault:?}");
    }
}

#[tokio::test]
async fn a_planned_fault_comes_after_its_bytes() {
    let proxy = Proxy::start(echo().await).await;
    let plan = Plan {
        after: 1 << 20,
        fault: Some(Fault::Kill),
    };
    proxy.plan(move || Some(plan));
    let mut stream = connect(&proxy).await;
    let mut rounds = 0;
    let block = [7; 8192];
    let mut answer = [0; 8192];
    while stream.write_all(&block).await.is_ok() && stream.read_exact(&mut answer).await.is_ok() {
        rounds += 1;
    }
    assert!((63..=64).contains(&rounds), "{rounds} rounds of 16 KiB");
    proxy.calm();
    round_trip(&mut connect(&proxy).await).await;
}

#[tokio::test]
async fn faults_that_the_plan_leaves_open_come_in_turn() {
    let proxy = Proxy::start(echo().await).await;
    proxy.plan(|| {
        Some(Plan {
            after: 1,
            fault: None,
        })
    });
    for round in 1..=2 {
        for at in 0..Fault::ALL.len() {
            let mut stream = connect(&proxy).await;
            stream.write_all(b"ping").await.expect("sent");
            wait_until("it came", async || proxy.came()[at] == round).await;
        }
    }
    assert_eq!(proxy.came(), [2; Fault::ALL.len()]);
}

#[tokio::test]
async fn a_closed_proxy_resets_whoever_comes() {
    let proxy = Proxy::start(echo().await).await;
    proxy.close(true);
    let mut stream = connect(&proxy).await;
    assert!(stream.read_u8().await.is_err());
    proxy.close(false);
    round_trip(&mut connect(&proxy).await).await;
}
