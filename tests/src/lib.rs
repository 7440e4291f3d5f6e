//! What the tests of the whole workspace share: the conformance suites of the ports, the real program under test, a
//! worker alone in this process, and the real servers and images beside them.

pub mod broker;
pub mod cluster;
pub mod conformance;
pub mod images;
pub mod outside;
pub mod program;
pub mod proxy;
mod rounds;
pub mod site;

pub use rounds::rounds;
