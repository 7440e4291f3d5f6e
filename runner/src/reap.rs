//! Reaps what ends: orphans that the kernel hands to PID 1, and supervisors. Nobody else in PID 1 waits for a child:
//! that a supervisor ended is seen at its control socket.

use rustix::process::WaitOptions;
use tokio::signal::unix::{SignalKind, signal};

/// Reaps for ever.
pub(crate) async fn reap_children() -> std::io::Result<()> {
    let mut child_ended = signal(SignalKind::child())?;
    loop {
        reap_ended();
        child_ended.recv().await;
    }
}

fn reap_ended() {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return,
        }
    }
}
