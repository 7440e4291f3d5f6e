//! A service that finds its cluster as one outside of GKE does: by an endpoint, its authority and Google's credentials, which
//! give out tokens that end soon. The token server and the way to the control plane are the test's own; what the tokens let
//! in is decided by a real API server.

use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::Kubeconfig;
use kube::{Client, Config};
use serde_json::json;
use tests::cluster::{Account, Cluster, SMALL_IMAGE};
use tests::conformance::runtime::given::until;
use tests::program::{DataFolder, Program};
use tests::proxy::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Seconds for which the first token is good, as its client is told. The API server lets it in for much longer.
const SHORT: u64 = 15;

/// What a token server gives out.
#[derive(Default)]
struct Given {
    /// The token and the seconds for which it is good; none: it refuses.
    token: Option<(String, u64)>,
    /// How often it was asked.
    asked: usize,
}

/// A token server in place of Google's.
struct TokenServer {
    address: String,
    given: Arc<Mutex<Given>>,
}

impl TokenServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let given = Arc::<Mutex<Given>>::default();
        let state = Arc::clone(&given);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&state)));
            }
        });
        Self {
            address: format!("http://{address}/token"),
            given,
        }
    }

    fn gives(&self, token: Option<(&str, u64)>) {
        let token = token.map(|(token, seconds)| (token.to_owned(), seconds));
        self.given.lock().expect("not poisoned").token = token;
    }

    fn asked(&self) -> usize {
        self.given.lock().expect("not poisoned").asked
    }
}

/// Answers one request, and ends the connection.
async fn answer(mut stream: TcpStream, given: Arc<Mutex<Given>>) {
    let mut request = Vec::new();
    // The secret that it proves itself with is the last that it sends.
    while !String::from_utf8_lossy(&request).contains("of-a-user") {
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => request.extend_from_slice(&piece[..count]),
            _ => return,
        }
    }
    let token = {
        let mut given = given.lock().expect("not poisoned");
        given.asked += 1;
        given.token.clone()
    };
    let (status, body) = match token {
        Some((token, seconds)) => {
            let body =
                json!({ "access_token": token, "expires_in": seconds, "token_type": "Bearer" });
            ("200 OK", body.to_string())
        }
        None => ("503 Service Unavailable", String::new()),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_anew_and_one_whose_time_is_over_is_not_sent() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace().await;
    let own = Account::new(&namespace).await;
    let [first, second] = [own.token("first").await, own.token("second").await];
    let server = TokenServer::start().await;
    server.gives(Some((&first, SHORT)));
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("credentials.json");
    let user = json!({
        "type": "authorized_user",
        "client_id": "a-client",
        "client_secret": "its-secret",
        "refresh_token": "of-a-user",
        "token_uri": server.address,
    });
    std::fs::write(&credentials, user.to_string()).expect("written");
    let route = cluster.route().await;
    let file = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let authority = file.clusters[0].cluster.as_ref().expect("a cluster");
    let authority = authority.certificate_authority_data.as_deref();
    let endpoint = route.proxy.address().to_string();
    let program = Program::start_on(
        DataFolder::new(),
        &[
            ("KUBECONFIG", ""),
            ("GKE_CLUSTER_ENDPOINT", &endpoint),
            ("GKE_SSL_CA_CERT", authority.expect("an authority")),
            (
                "GOOGLE_APPLICATION_CREDENTIALS",
                credentials.to_str().expect("UTF-8"),
            ),
            ("EM_RUNTIME__KIND", "kubernetes"),
            ("EM_RUNTIME__NAMESPACE", namespace.name()),
            ("EM_RUNTIME__DEFAULT_IMAGE", SMALL_IMAGE),
        ],
    )
    .await;
    let client = program.client();
    client.create("before").await;
    assert_eq!(client.printed("before", "echo well").await, "well\n");

    // Nobody says what comes after the first one, which would still be let in.
    server.gives(None);
    let (asked, still) = (server.asked(), client_with(&cluster, &first).await);
    until(async || {
        // Nothing that was let in before goes on.
        route.proxy.strike(Fault::Kill);
        program.log().contains("no access token")
    })
    .await;
    assert!(!client.is_ready().await);
    assert!(server.asked() > asked, "it was asked for another one");
    let pods: Api<Pod> = Api::namespaced(still, namespace.name());
    pods.list(&ListParams::default()).await.expect("let in");

    server.gives(Some((&second, 3600)));
    until(async || client.is_ready().await).await;
    own.revoke("first").await;
    until(async || pods.list(&ListParams::default()).await.is_err()).await;
    client.create("after").await;
    assert_eq!(client.printed("after", "echo well").await, "well\n");
    assert_eq!(client.printed("before", "echo still").await, "still\n");
    let log = program.log();
    assert!(!log.contains(&first) && !log.contains(&second));
}

/// A client with a token of its own.
async fn client_with(cluster: &Cluster, token: &str) -> Client {
    let file = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &Default::default()).await;
    let mut config = config.expect("a usable kubeconfig");
    config.auth_info.token = Some(token.to_owned().into());
    Client::try_from(config).expect("a client")
}
