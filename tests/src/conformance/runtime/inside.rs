//! What a command finds itself in.

use super::Given;

pub(super) async fn a_command_is_an_ordinary_user_in_the_volume(given: &Given) {
    let lodging = given.environment().await;
    let found = lodging
        .run("id -u; id -g; pwd; echo $HOME; touch mine && stat -c '%u %a' . mine; umask")
        .await;
    assert_eq!(
        found.text(),
        "1000\n1000\n/app\n/app\n1000 750\n1000 644\n0022"
    );
    let written = lodging
        .run("for f in /tmp /app /dev/shm; do echo x > $f/x && cat $f/x || echo $f; done; echo > /dev/null")
        .await;
    assert_eq!(written.text(), "x\nx\nx");
}

pub(super) async fn a_command_has_no_rights_beyond_its_user(given: &Given) {
    let lodging = given.environment().await;
    let status = lodging.run("cat /proc/self/status").await;
    let field = |name: &str| {
        let line = status
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    let filtered = if given.bed.does.filter_calls {
        "2"
    } else {
        "0"
    };
    assert_eq!(field("Seccomp:"), filtered);
    assert_eq!(field("Uid:"), "1000\t1000\t1000\t1000");
    let refused = lodging
        .run("for f in /usr/x /etc/x /x /.em/x /proc/sys/kernel/x; do touch $f 2>/dev/null && echo $f; done; true")
        .await;
    assert_eq!(refused.text(), "");
}

pub(super) async fn nothing_of_the_host_is_visible(given: &Given) {
    let lodging = given.environment().await;
    let secrets = lodging
        .run("for f in /etc/shadow /etc/gshadow /root/.ssh /var/run/docker.sock /run/containerd; do \
              test -r $f && echo $f; done; ls -A /home /root /srv /mnt /media 2>/dev/null | grep -v '^/\\|^$'; true")
        .await;
    assert_eq!(secrets.text(), "");
    // Only the runner's own processes and the command's: no process of the machine.
    let processes = lodging
        .run("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | cut -c1-40; echo; done")
        .await;
    for line in processes.text().lines().filter(|line| !line.is_empty()) {
        let own = [
            "/.em/",
            "em-runner",
            "/proc/self/exe",
            "sh -c",
            "/bin/sh",
            "tr ",
            "cut ",
        ];
        assert!(
            own.iter().any(|name| line.contains(name)),
            "{line:?} is of the machine"
        );
    }
    let names = lodging.run("env | cut -d= -f1 | sort | tr '\\n' ' '").await;
    for name in names.text().split(' ') {
        assert!(
            [
                "HOME", "LANG", "LC_ALL", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "SHLVL",
                "TERM", "USER", "_"
            ]
            .contains(&name),
            "{name} came from outside"
        );
    }
}

pub(super) async fn environments_do_not_see_each_other(given: &Given) {
    let (one, other) = (given.environment().await, given.environment().await);
    let mut session = one.session().await;
    session
        .run("echo one > /tmp/mark; echo one > mark; echo one > /dev/shm/mark; chmod 777 mark /tmp/mark /dev/shm/mark")
        .await
        .text();
    session.begin("exec sleep 987654").await;
    let seen = other
        .run("cat /tmp/mark mark /dev/shm/mark 2>/dev/null; grep -l '98765[4]' /proc/[0-9]*/cmdline 2>/dev/null; \
              ls -A /app; true")
        .await;
    assert_eq!(seen.text(), "");
}
