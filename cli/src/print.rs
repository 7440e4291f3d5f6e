//! Standard output: what a command answers. A reader that has seen enough, such as `head`, is no failure.

use std::io::{ErrorKind, Write, stderr, stdout};

use crate::failure::Failure;

/// Prints a text as it is.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut stdout = stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new("standard output cannot be written", error))
        }
        _ => Ok(()),
    }
}

/// Prints a line.
pub(crate) fn line(line: &str) -> Result<(), Failure> {
    text(&format!("{line}\n"))
}

/// Prints a line for whoever watches, beside the answer: on standard error. A closed one is nothing that could be
/// reported.
pub(crate) fn aside(line: &str) {
    let _ = writeln!(stderr().lock(), "{line}");
}
