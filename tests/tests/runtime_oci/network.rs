//! What an environment with egress `internet` reaches, against an internet of the test's own.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::environment::Egress;
use shared::ports::Warm;
use tests::conformance::runtime::Given;
use tests::conformance::runtime::given::{Lodging, until};
use tests::outside::{
    BLOCKED, OWN, PORT, PUBLIC, add_address, ask_outside_for_names, on_a_machine_of_its_own,
    processes_in, reached_by_the_machine, reaching,
};

use crate::bench::Bench;

async fn lodging(given: &Given) -> Lodging {
    let mut lodging = given.life();
    lodging.placement.spec.egress = Egress::Internet;
    lodging.create().await;
    lodging
}

/// Which of the addresses an environment reaches.
async fn reached(lodging: &Lodging, addresses: &[&str]) -> Vec<String> {
    let outcome = lodging.run(&reaching(addresses)).await;
    outcome.text().lines().map(str::to_owned).collect()
}

/// Processes that carry the network of an environment.
fn helpers(bench: &Bench, lodging: &Lodging) -> Vec<u32> {
    let (instance, uid) = (&bench.instance, lodging.uid());
    processes_in(&format!("environment-manager-{instance}-{uid}-network"))
}

#[test]
fn the_internet_is_reached_and_nothing_near_is() {
    on_a_machine_of_its_own(async |_| {
        let bench = Bench::new();
        let given = bench.given();
        let lodging = lodging(&given).await;
        // An address of IPv6 is there a moment after the network is.
        until(async || reached(&lodging, &PUBLIC).await == PUBLIC).await;
        let own: Vec<&str> = OWN
            .iter()
            .chain(&["127.0.0.1", "::1", "10.0.2.2", "fe80::2%tap0"])
            .copied()
            .collect();
        assert_eq!(reached(&lodging, &own).await, [""; 0]);
        assert_eq!(reached(&lodging, &BLOCKED).await, [""; 0]);
        // The machine itself reaches those that are not special to the kernel.
        let there = [
            "169.254.169.254",
            "192.168.0.1",
            "10.77.0.1",
            "fd00:7777::1",
            "fd00:ec2::254",
            "203.0.113.1",
            "2001:db8::1",
        ];
        let there = [&OWN[..], &there].concat();
        assert_eq!(reached_by_the_machine(&there), there);
        given.clear().await;
        bench.assert_nothing_left();
    });
}

#[test]
fn names_are_answered_and_the_name_server_does_nothing_else() {
    on_a_machine_of_its_own(async |_| {
        // Only what is started from here on sees it.
        ask_outside_for_names();
        let bench = Bench::new();
        let given = bench.given();
        let lodging = lodging(&given).await;
        let script = format!(
            "python3 -c 'import socket; c = socket.create_connection((\"example.com\", {PORT})); print(c.recv(5))'"
        );
        assert_eq!(lodging.run(&script).await.text(), "b'hello'");
        assert_eq!(reached(&lodging, &["10.0.2.3"]).await, [""; 0]);
        given.clear().await;
    });
}

#[test]
fn nobody_inside_can_change_the_rules() {
    on_a_machine_of_its_own(async |_| {
        let bench = Bench::new();
        let given = bench.given();
        let lodging = lodging(&given).await;
        // Not even all of the rights of the environment's own root would do: the network is the machine's.
        let pid = bench.pid(lodging.uid());
        let status = Command::new("nsenter")
            .args(["--target", &pid.to_string(), "--user", "--net"])
            .args(["nft", "flush", "ruleset"])
            .output()
            .expect("it runs");
        assert!(
            !status.status.success(),
            "root of the environment changed its rules"
        );
        let script = "(ip link set tap0 down || nft flush ruleset || ip route add 10.0.0.0/8 dev lo) 2>/dev/null; \
                      python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)' 2>&1 | tail -n 1";
        let said = lodging.run(script).await;
        assert!(
            said.stdout.contains("not supported") || said.stdout.contains("not permitted"),
            "{said:?}"
        );
        assert_eq!(
            reached(&lodging, &["1.1.1.1", "10.77.0.1"]).await,
            ["1.1.1.1"]
        );
        given.clear().await;
    });
}

#[test]
fn the_helper_lives_and_dies_with_its_environment() {
    on_a_machine_of_its_own(async |_| {
        let bench = Bench::new();
        let given = bench.given();
        let (one, other) = (lodging(&given).await, lodging(&given).await);
        assert_eq!(helpers(&bench, &one).len(), 1);
        // PID 1 ends by itself: no service is asked.
        kill(Pid::from_raw(bench.pid(one.uid())), Signal::SIGKILL).expect("killed");
        until(async || helpers(&bench, &one).is_empty()).await;
        assert_eq!(helpers(&bench, &other).len(), 1);
        assert_eq!(reached(&other, &["1.1.1.1"]).await, ["1.1.1.1"]);
        other.stop().await;
        assert_eq!(helpers(&bench, &other), [0; 0]);
        other.start().await;
        assert_eq!(helpers(&bench, &other).len(), 1);
        assert_eq!(reached(&other, &["1.1.1.1"]).await, ["1.1.1.1"]);
        given.clear().await;
        bench.assert_nothing_left();
    });
}

#[test]
fn a_helper_that_ended_is_started_anew() {
    on_a_machine_of_its_own(async |_| {
        let bench = Bench::new();
        let given = bench.given();
        let (one, other) = (lodging(&given).await, lodging(&given).await);
        let tidy = async || given.bed.runtime.tidy().await.expect("tidied");
        let (before, of_other) = (helpers(&bench, &one), helpers(&bench, &other));
        for pid in &before {
            let pid = Pid::from_raw(i32::try_from(*pid).expect("a pid"));
            kill(pid, Signal::SIGKILL).expect("killed");
        }
        until(async || helpers(&bench, &one).is_empty()).await;
        assert_eq!(reached(&one, &["1.1.1.1"]).await, [""; 0]);
        tidy().await;
        let after = helpers(&bench, &one);
        assert!(after.len() == 1 && after != before, "{after:?}");
        until(async || reached(&one, &["1.1.1.1"]).await == ["1.1.1.1"]).await;
        assert_eq!(reached(&one, &BLOCKED).await, [""; 0], "its rules hold");
        tidy().await;
        assert_eq!(helpers(&bench, &one), after, "one that lives is let be");
        assert_eq!(helpers(&bench, &other), of_other);
        // The new one too ends with its environment.
        kill(Pid::from_raw(bench.pid(one.uid())), Signal::SIGKILL).expect("killed");
        until(async || helpers(&bench, &one).is_empty()).await;
        given.clear().await;
        bench.assert_nothing_left();
    });
}

#[test]
fn one_that_is_held_ready_has_its_network_too() {
    on_a_machine_of_its_own(async |_| {
        let bench = Bench::new();
        let given = bench.given();
        let mut life = given.life();
        life.placement.spec.egress = Egress::Internet;
        let wanted = |count| {
            let spec = life.placement.spec.clone();
            [Warm { spec, count }]
        };
        let keep = async |count| life.runtime.keep_warm(&wanted(count)).await.expect("kept");
        keep(1).await;
        let without = given.life();
        let cold = without.try_create().await.expect("created").container;
        assert_eq!(cold, format!("em-{}", without.uid()));
        let warm = life.try_create().await.expect("created").container;
        assert_ne!(warm, format!("em-{}", life.uid()));
        until(async || reached(&life, &["1.1.1.1"]).await == ["1.1.1.1"]).await;
        assert_eq!(reached(&life, &BLOCKED).await, [""; 0]);
        life.stop().await;
        life.start().await;
        until(async || reached(&life, &["1.1.1.1"]).await == ["1.1.1.1"]).await;
        keep(0).await;
        given.clear().await;
        bench.assert_nothing_left();
    });
}

#[test]
fn an_address_that_the_machine_gets_later_is_its_own_too() {
    on_a_machine_of_its_own(async |_| {
        let bench = Bench::new();
        let given = bench.given();
        let lodging = lodging(&given).await;
        add_address("185.199.0.9");
        assert_eq!(reached(&lodging, &["185.199.0.9"]).await, ["185.199.0.9"]);
        given.bed.runtime.tidy().await.expect("tidied");
        assert_eq!(
            reached(&lodging, &["185.199.0.9", "1.1.1.1"]).await,
            ["1.1.1.1"]
        );
        given.clear().await;
    });
}

#[test]
fn the_settings_make_exceptions() {
    on_a_machine_of_its_own(async |_| {
        let mut bench = Bench::new();
        bench.network.allowed = vec!["10.77.0.0/24".parse().expect("a network")];
        bench.network.denied = vec!["1.0.0.0/8".parse().expect("a network")];
        let given = bench.given();
        let lodging = lodging(&given).await;
        let tried = [
            "10.77.0.1",
            "10.77.0.2",
            "10.255.0.1",
            "1.1.1.1",
            "93.184.0.1",
        ];
        assert_eq!(reached(&lodging, &tried).await, ["10.77.0.1", "93.184.0.1"]);
        given.clear().await;
    });
}
