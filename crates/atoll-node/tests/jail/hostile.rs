//! A guest that is root inside and means harm. Each test lets it try, then checks that it is still
//! the only one that suffered: its neighbour answers, and the host is as it was.

use atoll_core::id::SandboxId;

use crate::guest::{run, run_as};
use crate::rig::{Node, SIZE, World, output, until};

/// A node with a hostile sandbox and its neighbour.
struct Street<'a> {
    node: Node<'a>,
    hostile: SandboxId,
    neighbour: SandboxId,
}

impl<'a> Street<'a> {
    async fn new(world: &'a World) -> Self {
        let node = world.node().await;
        let (hostile, neighbour) = (node.create().await, node.create().await);
        Self {
            node,
            hostile,
            neighbour,
        }
    }

    async fn attack(&self, command: &str) -> crate::guest::Output {
        run(&self.node.agent, &self.hostile, command).await
    }

    /// The neighbour is well; both can be removed; nothing is left.
    async fn end(self) {
        let output = run(&self.node.agent, &self.neighbour, "echo well").await;
        assert_eq!(output.stdout, "well\n", "{output:?}");
        self.node.remove(&self.hostile).await;
        self.node.remove(&self.neighbour).await;
        let world = self.node.world;
        self.node.stop().await;
        world.assert_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_fills_its_own_limit_only() {
    let Some(world) = World::new().await else {
        return;
    };
    let street = Street::new(&world).await;
    let bomb = "bomb() { bomb | bomb & }; (bomb) >/dev/null 2>&1; \
                for i in $(seq 20000); do sleep 1000 & done >/dev/null 2>&1; echo over";
    // Whether the shell survives its own bomb does not matter.
    let attack = street.attack(bomb);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), attack).await;
    let processes = std::fs::read_dir("/proc").unwrap().count();
    assert!(processes < 4096 + 2000, "{processes} processes");
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_hog_is_stopped_at_its_limit() {
    let Some(world) = World::new().await else {
        return;
    };
    let street = Street::new(&world).await;
    let output = street
        .attack("head -c 4G /dev/zero | tail -c 3G >/dev/null; echo status ${PIPESTATUS[1]}")
        .await;
    assert!(output.stdout.contains("status 137"), "{output:?}");
    // Neither do files in memory get around it.
    let output = street
        .attack("head -c 4G /dev/zero >/dev/shm/big; echo status $?")
        .await;
    assert!(!output.stdout.contains("status 0"), "{output:?}");
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_its_own() {
    let Some(world) = World::new().await else {
        return;
    };
    let street = Street::new(&world).await;
    let output = street
        .attack(
            "dd if=/dev/zero of=/tmp/big bs=1M count=4096 2>&1 | grep -o 'No space left'
             stat -c %s /tmp/big",
        )
        .await;
    let mut lines = output.stdout.lines();
    assert_eq!(lines.next(), Some("No space left"), "{output:?}");
    let written: u64 = lines.next().unwrap().parse().unwrap();
    assert!(written < u64::from(SIZE.disk_mib) << 20);
    let freed = street
        .attack("rm /tmp/big && echo again >/tmp/small && cat /tmp/small")
        .await;
    assert_eq!(freed.stdout, "again\n");
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_everything_ends_itself_at_most() {
    let Some(world) = World::new().await else {
        return;
    };
    let street = Street::new(&world).await;
    street.attack("kill -9 -1").await;
    // pid 1 takes no signal from inside; the agent goes on.
    let output = street.attack("echo alive").await;
    assert_eq!(output.stdout, "alive\n", "{output:?}");
    street
        .attack("kill -9 1; kill -TERM 1; kill -SEGV 1; kill -STOP 1")
        .await;
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leads_out() {
    let Some(world) = World::new().await else {
        return;
    };
    let street = Street::new(&world).await;
    let secret = world.directory.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let secret = secret.display();
    let script = format!(
        "no() {{ if \"$@\" >/dev/null 2>&1; then echo \"LET THROUGH: $*\"; fi; }}
         no mount -t tmpfs none /mnt; no mount -t proc proc /mnt; no mount --bind / /mnt
         no umount /proc; no umount /sys; no umount /dev
         no unshare -U true; no unshare -n true; no unshare -m true; no unshare -p true
         no nsenter -t 1 -n true; no nsenter -t 1 -m true; no nsenter -t 1 -U true
         no mknod /tmp/sda b 8 0; no mknod /tmp/kmsg c 1 11; no mknod /tmp/mem c 1 1
         no sh -c 'echo 1 >/proc/sys/kernel/panic'; no sh -c 'echo 0 >/proc/sys/vm/swappiness'
         no sh -c 'echo core >/proc/sys/kernel/core_pattern'; no sh -c 'echo b >/proc/sysrq-trigger'
         no sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'; no sh -c 'echo 1 >/sys/kernel/mm/ksm/run'
         no cat /proc/kcore; no dmesg; no cat /dev/kmsg; no ls /dev/vda; no ls /dev/loop0
         no cat {secret}; no ls /proc/1/root/../../../..{secret}; no cat /proc/1/cwd/..{secret}
         no chroot /proc/1/root/../.. cat {secret}
         no ip link set lo down; no ip link add dummy0 type dummy; no ip addr add 10.9.9.9/24 dev lo
         no nft list ruleset; no iptables -L
         no hostname other; no date -s 2001-01-01; no reboot -f; no swapoff /dev/zero
         no sh -c 'ls /sys/firmware | grep .'; no sh -c 'ls /sys/fs/cgroup | grep .'
         no sh -c 'ls /proc/*/fd -l | grep -e {secret} -e /dev/loop'
         no sh -c 'echo x >>/proc/1/exe'; no sh -c ': </proc/1/exe >/proc/1/exe'
         no python3 -c 'import socket; socket.socket(40, 1)'
         no python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
         no python3 -c 'import ctypes,sys; sys.exit(ctypes.CDLL(None).syscall(425, 8, 0) < 0)'
         no python3 -c 'import ctypes,sys; sys.exit(ctypes.CDLL(None).syscall(321, 0, 0, 0) < 0)'
         no python3 -c 'import ctypes,sys; sys.exit(ctypes.CDLL(None).syscall(0x40000000) < 0)'
         no python3 -c 'import fcntl; fcntl.ioctl(0, 0x5412, b\"x\")'
         echo done"
    );
    let output = street.attack(&script).await;
    assert_eq!(output.stdout, "done\n", "{output:?}");
    let visible = street
        .attack("ps -e | wc -l; cat /proc/*/cmdline | tr -d '\\0'")
        .await;
    assert!(!visible.stdout.contains("atoll-jail"), "{visible:?}");
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn escape_through_a_moved_directory_finds_the_own_root() {
    let Some(world) = World::new().await else {
        return;
    };
    let street = Street::new(&world).await;
    // The classic: chroot below, keep a descriptor above, climb.
    let climb = "mkdir -p /tmp/a && python3 - <<'X'\nimport os\nfd=os.open('/',os.O_RDONLY)\n\
                 os.chroot('/tmp/a')\nos.fchdir(fd)\nfor _ in range(64): os.chdir('..')\n\
                 os.chroot('.')\nprint(open('/etc/hostname').read().strip())\nX";
    let output = street.attack(climb).await;
    assert_eq!(output.stdout, format!("{}\n", street.hostile), "{output:?}");
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_inside_is_nobody_outside() {
    let Some(world) = World::new().await else {
        return;
    };
    let street = Street::new(&world).await;
    street
        .attack("sleep 1000 >/dev/null 2>&1 & cp /bin/sh /tmp/suid; chmod 4755 /tmp/suid")
        .await;
    let (guest, _) = street.node.processes_of(&street.hostile);
    let status = std::fs::read_to_string(format!("/proc/{guest}/status")).unwrap();
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:\t"))
        .unwrap();
    let uid: u32 = uid.split('\t').next().unwrap().parse().unwrap();
    assert!(uid >= 1_879_048_192, "{uid}");
    // The disk is no mount of the host, so its set-id files cannot be reached there.
    let mounts = output("cat", &["/proc/mounts"]);
    let disk = world.directory.path().display().to_string();
    until("no disk is mounted on the host", || {
        if mounts
            .lines()
            .any(|line| line.contains("loop") && line.contains(&disk))
        {
            return Err(mounts.clone());
        }
        Ok(())
    })
    .await;
    street.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_expect_of_root_works() {
    let Some(world) = World::new().await else {
        return;
    };
    let street = Street::new(&world).await;
    let script = "set -e
        chown user:user /tmp; touch /etc/new; useradd -m other; su other -c 'id -un'
        chroot / true; mkdir /opt/x; mv /usr/share /usr/share2; mv /usr/share2 /usr/share
        python3 -c 'import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM, s.IPPROTO_ICMP)'
        python3 -m http.server 80 >/dev/null 2>&1 &
        until (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.05; done
        script -qc tty /dev/null; ls /dev/shm /dev/mqueue
        [ $(stat -c %a /tmp) = 1777 ]; echo fine";
    let output = street.attack(script).await;
    assert!(output.stdout.ends_with("fine\n"), "{output:?}");
    assert!(output.stdout.starts_with("other\n"), "{output:?}");
    let output = run_as(
        &street.node.agent,
        &street.hostile,
        "user",
        "sudo id -u; id -un",
    )
    .await;
    assert_eq!(output.stdout, "0\nuser\n", "{output:?}");
    street.end().await;
}
