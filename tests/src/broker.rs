//! A RabbitMQ broker of the test's own, on ports and in a folder of its own.
//!
//! ```text
//!   test ──stdin──▶ keeper (bash) ──▶ epmd, broker: each the leader of a process group
//! ```
//!
//! The keeper, whom no signal to the test's group ends, kills both groups, -9, once its stdin ends: by [`Broker::kill`], by
//! a drop, or because the test program is gone in whatever way. What the broker had confirmed is in its folder, and there
//! when it is started again.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lapin::{Channel, Connection, ConnectionProperties};
use tempfile::TempDir;

/// Prints where the broker and its Erlang are.
const FETCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/lib/broker");

/// A wait that only a broken broker outlasts.
const LONG: Duration = Duration::from_secs(120);

/// Makes the broker elect a leader of each queue that has none. After a restart a lone broker of this version may wait for
/// ever for an election that it alone could begin, as <https://github.com/rabbitmq/rabbitmq-server/issues/10070> tells.
const ELECT: &str = "[ra:trigger_election({Name, node()}) || {Name, follower} <- ets:tab2list(ra_state)], \
                     length([Name || {Name, State} <- ets:tab2list(ra_state), State =/= leader]).";

const KEEPER: &str = r#"
exec 2>>"$1"
trap '' INT TERM HUP
set -m
epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" </dev/null >>"$1" 2>&1 & epmd=$!
until epmd -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1; do
  kill -0 "$epmd" 2>/dev/null || exit 1
  sleep 0.05
done
rabbitmq-server </dev/null >>"$1" 2>&1 & broker=$!
while kill -0 "$broker" 2>/dev/null; do
  read -r -t 1 _ && break
  [ $? -gt 128 ] || break
done
kill -9 -- "-$broker" "-$epmd"
wait
"#;

/// A broker that runs or was killed.
pub struct Broker {
    /// Its programs come first in it.
    path: String,
    folder: TempDir,
    port: u16,
    epmd_port: u16,
    distribution_port: u16,
    keeper: Option<Child>,
}

impl Broker {
    /// Starts one without any queue, and waits until it can be used.
    pub async fn start() -> Self {
        let mut broker = Self {
            path: path(),
            folder: TempDir::new().expect("a folder"),
            port: free_port(),
            epmd_port: free_port(),
            distribution_port: free_port(),
            keeper: None,
        };
        broker.start_again().await;
        broker
    }

    /// Starts it on what it left.
    pub async fn start_again(&mut self) {
        assert!(self.keeper.is_none(), "it runs");
        let mut keeper = self.command("bash");
        keeper
            .args(["-c", KEEPER, "keeper"])
            .arg(self.log())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        self.keeper = Some(keeper.spawn().expect("bash runs"));
        self.until("the broker listens", |broker| {
            TcpStream::connect(broker.address()).is_ok()
        })
        .await;
        self.until("every queue has a leader", |broker| {
            let elected = broker.command("rabbitmqctl").args(["eval", ELECT]).output();
            elected.expect("it runs").stdout == b"0\n"
        })
        .await;
    }

    /// Kills it, -9.
    pub fn kill(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            keeper.wait().expect("the keeper is ours");
        }
    }

    /// Where it listens, when it does.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its URL.
    pub fn url(&self) -> String {
        url(self.address())
    }

    /// A channel of somebody else's. It ends with the connection, which is the first of the two.
    pub async fn somebody(&self) -> (Connection, Channel) {
        let url = self.url();
        let connection = Connection::connect(&url, ConnectionProperties::default());
        let connection = connection.await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        (connection, channel)
    }

    async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            let keeper = self.keeper.as_mut().expect("it was started");
            let ended = keeper.try_wait().expect("the keeper is ours");
            assert!(
                ended.is_none() && begun.elapsed() < LONG,
                "waited in vain until {what}:\n{}",
                fs::read_to_string(self.log()).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A program that finds this broker and no other.
    fn command(&self, program: &str) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(program);
        command
            .env("HOME", folder)
            .env("PATH", &self.path)
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("RABBITMQ_NODENAME", format!("em-{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            .env("RABBITMQ_CONF_ENV_FILE", folder.join("none.conf"))
            .env("RABBITMQ_CONFIG_FILE", folder.join("none"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            );
        command
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("broker.log")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The URL of a broker behind an address.
pub fn url(address: SocketAddr) -> String {
    format!("amqp://guest:guest@{address}/%2f")
}

/// The PATH, with the broker's programs and Erlang's before all others.
fn path() -> String {
    let fetched = Command::new(FETCH).stderr(Stdio::inherit()).output();
    let fetched = fetched.expect("the script runs");
    assert!(fetched.status.success(), "a broker cannot be had");
    let printed = String::from_utf8(fetched.stdout).expect("a path");
    let libraries = format!("{}/usr/lib", printed.trim());
    let path = std::env::var("PATH").expect("a PATH");
    format!("{libraries}/rabbitmq/bin:{libraries}/erlang/bin:{path}")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound").port()
}
