//! Splices standard input and output to a Unix socket: the far end of a `pods/exec` stream.
//!
//! Two blocking threads with plain reads and writes: measured, an asynchronous version takes six times the processor,
//! and `splice(2)` hangs on some of the descriptors that container runtimes hand out.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

const BUFFER_BYTES: usize = 256 * 1024;

/// Runs until the socket's side is at its end, or until standard output takes no more.
pub(crate) fn run(path: &Path) -> io::Result<()> {
    let socket = crate::socket::connect(path)?;
    let upward = socket.try_clone()?;
    // Not joined: it may sit in a read of standard input for ever, and the end of the other direction ends the program.
    std::thread::spawn(move || send_up(&upward));
    match copy(&mut &socket, &mut io::stdout().lock()) {
        // Whoever read it has gone: the common end of such a stream.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

fn send_up(socket: &UnixStream) {
    // Whichever side failed, the other thread sees the end of the socket.
    let _ = copy(&mut io::stdin().lock(), &mut &*socket);
    let _ = socket.shutdown(Shutdown::Write);
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(buffer.get(..length).unwrap_or_default())?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
