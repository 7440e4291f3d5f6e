//! One command: what it is told to be ([`wire`]), who watches over it ([`supervise`]), and the last steps of its own
//! process before it becomes the command ([`become_command`]).

mod become_command;
pub(crate) mod passwd;
pub(crate) mod supervise;
pub(crate) mod wire;
