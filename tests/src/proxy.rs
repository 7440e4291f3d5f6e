//! A TCP proxy on the loopback that breaks connections in the ways in which networks do.
//!
//! ```text
//!   client ──▶ Proxy ──▶ target
//!                │
//!                ├── plan: each new connection gets a number of bytes, and what happens to it after them
//!                └── strike: it happens to all open connections now
//! ```
//!
//! It understands nothing of what it carries, so that it works on TLS too.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

mod carry;

/// What can happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Both sides get a reset.
    Kill,
    /// Nothing moves any more, and neither side is told.
    Stall,
    /// The client is told that the server has sent all; the other direction goes on.
    EndDown,
    /// The server is told that the client has sent all; the other direction goes on.
    EndUp,
}

impl Fault {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Stall, Self::EndDown, Self::EndUp];
}

/// What happens to one connection: the fault, after so many bytes of both directions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes that are carried first.
    pub after: u64,
    /// What happens then; none: of all faults the one that was planned for and came the fewest times.
    pub fault: Option<Fault>,
}

type Planner = Box<dyn FnMut() -> Option<Plan> + Send>;

/// What the proxy's tasks share.
struct State {
    target: SocketAddr,
    planner: Mutex<Planner>,
    strikes: watch::Sender<Option<Fault>>,
    closed: AtomicBool,
    carried: AtomicU64,
    accepted: AtomicU64,
    struck: AtomicU64,
    /// How often each fault of [`Fault::ALL`] came as it was planned.
    came: Mutex<[u64; Fault::ALL.len()]>,
}

impl State {
    /// Counts a fault that comes as it was planned, and tells which.
    fn comes(&self, planned: Option<Fault>) -> Fault {
        let mut came = self.came.lock().expect("not poisoned");
        let rarest = came.iter().min().expect("there are faults");
        let which = match planned {
            Some(fault) => Fault::ALL.iter().position(|other| *other == fault),
            None => came.iter().position(|count| count == rarest),
        };
        let which = which.expect("all of them are there");
        came[which] += 1;
        Fault::ALL[which]
    }
}

/// A running proxy. When it is dropped, so are its connections.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Starts one before the target, that breaks nothing yet.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            target,
            planner: Mutex::new(Box::new(|| None)),
            strikes: watch::Sender::new(None),
            closed: AtomicBool::new(false),
            carried: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            struck: AtomicU64::new(0),
            came: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&state)));
        Self {
            address,
            state,
            _tasks: tasks,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What will happen to each connection that is made from now on.
    pub fn plan(&self, planner: impl FnMut() -> Option<Plan> + Send + 'static) {
        *self.state.planner.lock().expect("not poisoned") = Box::new(planner);
    }

    /// Lets new connections live.
    pub fn calm(&self) {
        self.plan(|| None);
    }

    /// Does it to every connection that is open now.
    pub fn strike(&self, fault: Fault) {
        self.state.strikes.send_replace(Some(fault));
    }

    /// Whether new connections are reset at once, as by a server that is not there.
    pub fn close(&self, closed: bool) {
        self.state.closed.store(closed, Ordering::Relaxed);
    }

    /// Bytes carried so far, of both directions and all connections.
    pub fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::Relaxed)
    }

    /// Connections made so far.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Relaxed)
    }

    /// How often each fault of [`Fault::ALL`] came so far as it was planned.
    pub fn came(&self) -> [u64; Fault::ALL.len()] {
        *self.state.came.lock().expect("not poisoned")
    }

    /// Connections that something happened to so far.
    pub fn struck(&self) -> u64 {
        self.state.struck.load(Ordering::Relaxed)
    }
}

/// Takes connections until the proxy goes; they end with this task.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        state.accepted.fetch_add(1, Ordering::Relaxed);
        let plan = (state.planner.lock().expect("not poisoned"))();
        connections.spawn(connect(client, plan, Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(client: TcpStream, plan: Option<Plan>, state: Arc<State>) {
    let server = if state.closed.load(Ordering::Relaxed) {
        None
    } else {
        TcpStream::connect(state.target).await.ok()
    };
    match server {
        Some(server) => carry::carry(client, server, plan, &state).await,
        // No answer, as far as the client can tell.
        None => drop(client.set_zero_linger()),
    }
}
