//! What holds environments.
