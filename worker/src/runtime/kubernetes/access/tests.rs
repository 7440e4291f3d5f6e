//! Against a TLS server of the test's own, with an authority of its own, in place of a control plane.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use shared::secret::Secret;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::super::channel::{self, Target};
use super::*;

/// A control plane that is always too busy, and remembers who asked for what.
struct Busy {
    endpoint: String,
    authority: String,
    /// First line and authorization of each request.
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Busy {
    async fn start() -> Self {
        let (authority, acceptor) = identity();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let asked = Arc::default();
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    // A client that does not trust the authority goes.
                    if let Ok(stream) = acceptor.accept(socket).await {
                        refuse_all(stream, &seen).await;
                    }
                });
            }
        });
        Self {
            endpoint,
            authority,
            asked,
        }
    }

    fn asked(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

async fn refuse_all(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    seen: &Mutex<Vec<(String, String)>>,
) {
    const ANSWER: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let authorization = head
            .iter()
            .find_map(|line| line.strip_prefix("authorization: "))
            .unwrap_or("nobody");
        seen.lock()
            .unwrap()
            .push((head[0].clone(), authorization.to_owned()));
        stream.write_all(ANSWER.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
}

/// A new authority's PEM, and a server's identity that it vouches for.
fn identity() -> (String, TlsAcceptor) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &authority)
        .unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    (authority.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// Gives another token each time.
#[derive(Default)]
struct Changing(AtomicUsize);

#[async_trait]
impl Tokens for Changing {
    async fn token(&self) -> Result<Secret, TokenError> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            99.. => Err(TokenError("revoked".to_owned())),
            count => Ok(Secret::new(format!("token-{count}"))),
        }
    }
}

fn target() -> Target<'static> {
    Target {
        namespace: "space",
        pod: "pod",
        container: "main",
        command: &["connect", "a b"],
    }
}

#[tokio::test]
async fn every_request_carries_the_token_of_its_moment_and_an_exec_is_sent_once() {
    let server = Busy::start().await;
    let tokens = Arc::new(Changing::default());
    let source: Arc<dyn Tokens> = Arc::clone(&tokens) as _;
    let packed = STANDARD.encode(&server.authority);
    for authority in [&server.authority, &packed] {
        let access = connect_with_tokens(&server.endpoint, Some(authority), &source).unwrap();
        let first = tokens.0.load(Ordering::SeqCst);
        let error = channel::open(&access.exec, target()).await.err().unwrap();
        assert!(error.to_string().contains("pod"), "{error}");
        let asked = server.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        let path = "GET /api/v1/namespaces/space/pods/pod/exec?&stdin=true&stdout=true&stderr=true&container=main\
                    &command=connect&command=a+b HTTP/1.1";
        assert_eq!(asked[0], (path.to_owned(), format!("Bearer token-{first}")));
    }

    let access = connect_with_tokens(&server.endpoint, Some(&packed), &source).unwrap();
    let first = tokens.0.load(Ordering::SeqCst);
    let pods: Api<Pod> = Api::namespaced(access.plain, "space");
    pods.get("pod").await.unwrap_err();
    let asked = server.asked();
    assert!(asked.len() > 1, "{asked:?}");
    for (count, (_, authorization)) in asked.iter().enumerate() {
        assert_eq!(*authorization, format!("Bearer token-{}", first + count));
    }
}

#[tokio::test]
async fn without_a_token_or_with_a_strange_server_nothing_is_asked() {
    let server = Busy::start().await;
    let revoked: Arc<dyn Tokens> = Arc::new(Changing(AtomicUsize::new(99)));
    let access = connect_with_tokens(&server.endpoint, Some(&server.authority), &revoked).unwrap();
    let error = channel::open(&access.exec, target()).await.err().unwrap();
    assert!(error.to_string().contains("revoked"), "{error}");

    let (strange, _) = identity();
    let tokens: Arc<dyn Tokens> = Arc::new(Changing::default());
    let access = connect_with_tokens(&server.endpoint, Some(&strange), &tokens).unwrap();
    channel::open(&access.exec, target()).await.err().unwrap();
    assert_eq!(server.asked(), []);
}
