//! The machine's own addresses, which no environment may reach.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// Every address of every interface.
pub(super) fn of_this_machine() -> io::Result<BTreeSet<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    Ok(addresses.collect())
}

/// The addresses as a text that changes when they do.
pub(super) fn written(addresses: &BTreeSet<IpAddr>) -> String {
    addresses
        .iter()
        .map(|address| format!("{address}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_always_among_them() {
        let found = of_this_machine().expect("addresses");
        assert!(
            written(&found).lines().any(|line| line == "127.0.0.1"),
            "{found:?}"
        );
    }
}
