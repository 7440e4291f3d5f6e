//! Who may speak to PID 1.
//!
//! In a pod everything is of one user: PID 1, the commands, and the `connect` that a worker starts from outside. The
//! socket's mode lets all three in. What tells them apart is their descent: a process that was put into the namespace
//! from outside has no parent in it, and a command, whatever it does, has one.

use tokio::net::UnixStream;

use crate::jobs::tree;

/// Whether the other end of a connection was started from outside. Where this is not the first process of a namespace,
/// the socket's mode alone decides.
pub(crate) fn is_from_outside(connection: &UnixStream) -> bool {
    if std::process::id() != 1 {
        return true;
    }
    match connection.peer_cred().map(|peer| peer.pid()) {
        // Outside the namespace there are no numbers that are known in it.
        Ok(None | Some(0)) => true,
        Ok(Some(pid)) => tree::parent(pid) == Some(0),
        Err(_) => false,
    }
}
