//! What an environment may reach, as rules of its network namespace.

use std::collections::BTreeSet;
use std::net::IpAddr;

use shared::cidr::Cidr;
use shared::config::NetworkSettings;

/// The address that answers names.
pub(in super::super) const NAME_SERVER: &str = "10.0.2.3";

/// What is not the internet of IPv4: private, shared, link-local (metadata), reserved, documentation, multicast.
const NOT_PUBLIC: [&str; 16] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // A cloud's service for its own machines, at a public address.
    "168.63.129.16/32",
];

/// What is the internet of IPv6.
const PUBLIC_6: &str = "2000::/3";
/// And what of that is not: Teredo, benchmarks, ORCHID, documentation, and 6to4, which leads to addresses of IPv4.
const NOT_PUBLIC_6: [&str; 6] = [
    "2001::/32",
    "2001:2::/48",
    "2001:10::/27",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
];

/// The rules of a new network.
pub(super) fn text(settings: &NetworkSettings, machine: &BTreeSet<IpAddr>) -> String {
    let of = |list: &[Cidr], v4: bool| -> Vec<String> {
        list.iter()
            .filter(|cidr| cidr.address.is_ipv4() == v4)
            .map(Cidr::to_string)
            .collect()
    };
    let fixed =
        |list: &[&str]| -> Vec<String> { list.iter().map(|&cidr| cidr.to_owned()).collect() };
    let mut sets = String::new();
    for (name, kind, elements) in [
        ("machine4", "ipv4_addr", addresses(machine, true)),
        ("machine6", "ipv6_addr", addresses(machine, false)),
        ("allowed4", "ipv4_addr", of(&settings.allowed, true)),
        ("allowed6", "ipv6_addr", of(&settings.allowed, false)),
        (
            "denied4",
            "ipv4_addr",
            [fixed(&NOT_PUBLIC), of(&settings.denied, true)].concat(),
        ),
        (
            "denied6",
            "ipv6_addr",
            [fixed(&NOT_PUBLIC_6), of(&settings.denied, false)].concat(),
        ),
    ] {
        sets.push_str(&set(name, kind, &elements));
    }
    format!(
        "table inet environment {{\n\
         {sets}\
         chain output {{\n\
         type filter hook output priority 0; policy drop;\n\
         oifname \"lo\" accept;\n\
         ip daddr {NAME_SERVER} udp dport 53 accept;\n\
         ip daddr {NAME_SERVER} tcp dport 53 accept;\n\
         icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }} accept;\n\
         ip daddr @machine4 reject with icmpx type admin-prohibited;\n\
         ip6 daddr @machine6 reject with icmpx type admin-prohibited;\n\
         ip daddr @allowed4 accept;\n\
         ip6 daddr @allowed6 accept;\n\
         ip daddr @denied4 reject with icmpx type admin-prohibited;\n\
         ip6 daddr @denied6 reject with icmpx type admin-prohibited;\n\
         meta nfproto ipv4 accept;\n\
         ip6 daddr {PUBLIC_6} accept;\n\
         reject with icmpx type admin-prohibited;\n\
         }}\n\
         }}\n"
    )
}

/// What makes rules that are loaded know other addresses of the machine.
pub(super) fn machine_changed(machine: &BTreeSet<IpAddr>) -> String {
    let mut text = String::new();
    for (name, v4) in [("machine4", true), ("machine6", false)] {
        text.push_str(&format!("flush set inet environment {name}\n"));
        let elements = addresses(machine, v4);
        if !elements.is_empty() {
            let elements = elements.join(", ");
            text.push_str(&format!(
                "add element inet environment {name} {{ {elements} }}\n"
            ));
        }
    }
    text
}

fn addresses(machine: &BTreeSet<IpAddr>, v4: bool) -> Vec<String> {
    machine
        .iter()
        .filter(|address| address.is_ipv4() == v4)
        .map(IpAddr::to_string)
        .collect()
}

fn set(name: &str, kind: &str, elements: &[String]) -> String {
    let elements = match elements {
        [] => String::new(),
        elements => format!("elements = {{ {} }};", elements.join(", ")),
    };
    format!("set {name} {{ type {kind}; flags interval; auto-merge; {elements}\n}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_in_the_rules() {
        let settings = NetworkSettings {
            allowed: vec!["10.9.0.0/16".parse().expect("a network")],
            denied: vec!["2a00::/16".parse().expect("a network")],
        };
        let machine = ["198.18.0.1", "fe80::1"].map(|text| text.parse().expect("an address"));
        let text = text(&settings, &machine.into());
        for part in [
            "set machine4 { type ipv4_addr; flags interval; auto-merge; elements = { 198.18.0.1 };",
            "set machine6 { type ipv6_addr; flags interval; auto-merge; elements = { fe80::1 };",
            "elements = { 10.9.0.0/16 };",
            "2a00::/16",
            "169.254.0.0/16",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let allowed = text.find("@allowed4 accept").expect("a rule");
        assert!(text.find("@machine4 reject").expect("a rule") < allowed);
        assert!(allowed < text.find("@denied4 reject").expect("a rule"));
    }
}
