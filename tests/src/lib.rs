//! What the tests of the whole workspace share: the conformance suites of the ports, the real program under test, and
//! the real servers and images beside it.

pub mod cluster;
pub mod conformance;
pub mod images;
pub mod outside;
pub mod program;
pub mod proxy;
