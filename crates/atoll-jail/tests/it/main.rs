//! Runs the supervisor for real and looks at what it made. Needs root; without it every test says
//! so and passes.
//!
//! Here pid 1 is a shell with a script instead of the guest agent, the disk is a tmpfs, and the
//! network namespace is one made by `ip netns`; what a whole sandbox withstands is tested with the
//! node.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod rig;

use crate::rig::Rig;

#[test]
fn pid_1_is_root_of_its_own_world() {
    let Some(rig) = Rig::new() else { return };
    let exit = rig.run("echo $$ $(id -u) $(hostname); cat /proc/self/uid_map; cat /etc/hosts");
    assert_eq!(exit.code, Some(0), "{}", exit.tail);
    let lines: Vec<_> = exit.tail.lines().collect();
    assert_eq!(lines[0], "1 0 box");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", &rig.uid_base().to_string(), "65536"]
    );
    assert!(exit.tail.contains("127.0.0.1 test"), "{}", exit.tail);
}

#[test]
fn what_the_guest_writes_stays_on_its_disk_with_canonical_owners() {
    let Some(rig) = Rig::new() else { return };
    let exit = rig.run(
        "echo hi >/new && chown 1000:1000 /new && mv /usr/share /usr/moved && rm -r /usr/moved/doc \
         && stat -c %u:%g /new /usr/bin/env && ls -d /usr/moved",
    );
    assert_eq!(exit.code, Some(0), "{}", exit.tail);
    assert_eq!(exit.tail, "1000:1000\n0:0\n/usr/moved\n");
    assert!(std::path::Path::new("/usr/share").is_dir());
}

#[test]
fn the_surface_that_leads_out_is_closed() {
    let Some(rig) = Rig::new() else { return };
    let exit = rig.run(
        "no() { if \"$@\" 2>/dev/null; then echo \"LET THROUGH: $*\"; fi; }
         no mount -t tmpfs none /tmp; no unshare -U true; no unshare -m true; no unshare -n true
         no mknod /dev/sda b 8 0; no sh -c 'echo 1 >/proc/sys/kernel/panic'
         no sh -c 'echo b >/proc/sysrq-trigger'; no cat /proc/kcore; no dmesg
         no chroot /proc/1/root/.. ls /root-of-the-host; no umount /proc; no hostname other
         no nsenter -t 1 -m true; no sh -c 'echo x >/proc/1/oom_score_adj_missing'
         no date -s 2001-01-01; no reboot -f; no sh -c 'ls /sys/firmware | grep .'
         no sh -c 'echo 0 >/sys/class/net/lo/mtu'; no cat /proc/1/../../etc/shadow.host
         grep -E 'CapBnd|Seccomp:|NoNewPrivs' /proc/self/status; echo done",
    );
    assert_eq!(exit.code, Some(0), "{}", exit.tail);
    assert!(!exit.tail.contains("LET THROUGH"), "{}", exit.tail);
    assert!(exit.tail.contains("Seccomp:\t2"), "{}", exit.tail);
}

#[test]
fn the_death_of_the_supervisor_is_the_death_of_the_sandbox() {
    let Some(rig) = Rig::new() else { return };
    let sandbox = rig.start("sleep 1000 & sleep 1000");
    assert!(!rig.processes().is_empty());
    sandbox.kill_supervisor();
    rig.wait_until("the processes are gone", || rig.processes().is_empty());
}

#[test]
fn a_stop_on_the_control_socket_ends_it_and_says_so() {
    let Some(rig) = Rig::new() else { return };
    let sandbox = rig.start("sleep 1000 & sleep 1000");
    let status = sandbox.ask_to_stop();
    assert_eq!((status.sandbox.as_str(), status.cell), ("itest", 7));
    let exit = sandbox.wait();
    assert_eq!((exit.signal, exit.is_ordered), (Some(9), true));
    assert!(rig.processes().is_empty());
    assert!(rig.cgroups_are_gone());
}

#[test]
fn a_node_that_goes_away_before_the_start_takes_the_cell_with_it() {
    let Some(rig) = Rig::new() else { return };
    let prepared = rig.prepare();
    assert!(!rig.processes().is_empty());
    drop(prepared);
    rig.wait_until("the cell is gone", || {
        rig.processes().is_empty() && rig.cgroups_are_gone()
    });
}
