//! What the tests of the whole workspace share: the conformance suites of the ports, and the real program under test.

pub mod conformance;
pub mod program;
pub mod proxy;
