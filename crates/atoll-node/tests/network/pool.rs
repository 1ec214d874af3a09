//! Making, handing out, adopting and removing slots; sockets inside them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Instant;

use atoll_node::net::{Error, Pool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{config, in_pretend_host, inside, ready, remains, run, wait_for};

#[test]
fn a_slot_can_be_listened_in_and_dialled() {
    in_pretend_host(|| async {
        let (_dir, config) = config(1, 8);
        let pool = Pool::start(config).await.unwrap();
        let slot = pool.acquire().await.unwrap();

        let refused = pool.dial(&slot, 80).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

        let fd = pool.listen(&slot.netns_path, 80, 16).await.unwrap();
        let listener: std::net::TcpListener = fd.into();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let mut client = pool.dial(&slot, 80).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut received = [0; 4];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"ping");

        let own = pool.dialer();
        own.connect(&slot.netns_path, slot.address.into(), 80)
            .await
            .unwrap();
        own.connect(&slot.netns_path, "::1".parse().unwrap(), 80)
            .await
            .unwrap();
        let taken = pool.listen(&slot.netns_path, 80, 16).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        pool.close().await.unwrap();
    });
}

#[test]
fn a_slot_is_fitted_out_for_unprivileged_servers_and_ping() {
    in_pretend_host(|| async {
        let (_dir, config) = config(0, 8);
        let pool = Pool::start(config).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        let setting = |name: &str| inside(&slot.netns_path, &format!("sysctl -n {name}"));
        assert_eq!(setting("net.ipv4.ip_unprivileged_port_start").trim(), "0");
        let groups = setting("net.ipv4.ping_group_range");
        assert_eq!(
            groups.split_whitespace().collect::<Vec<_>>(),
            ["0", "2147483647"]
        );
        let addresses = inside(&slot.netns_path, "ip -br addr");
        assert!(addresses.contains(&slot.address.to_string()), "{addresses}");
        assert!(!addresses.contains("fe80"), "{addresses}");
        let route = inside(&slot.netns_path, "ip route get 8.8.8.8");
        let host_side = std::net::Ipv4Addr::from_bits(slot.address.to_bits() & !1);
        assert!(route.contains(&format!("via {host_side} ")), "{route}");
        pool.close().await.unwrap();
    });
}

#[test]
fn a_slot_that_is_gone_is_not_found() {
    in_pretend_host(|| async {
        let (dir, config) = config(0, 8);
        let pool = Pool::start(config).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        pool.release(&slot);
        // Released twice is released once.
        pool.release(&slot);
        wait_for("the slot is gone", || !slot.netns_path.exists()).await;
        let error = pool.dial(&slot, 80).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        pool.close().await.unwrap();
        assert_eq!(remains(dir.path()), Vec::<String>::new());
        assert!(!run("ip route").contains("blackhole"));
    });
}

#[test]
fn a_full_pool_refuses_at_once_and_recovers() {
    in_pretend_host(|| async {
        let (_dir, config) = config(1, 2);
        let pool = Pool::start(config).await.unwrap();
        let first = pool.acquire().await.unwrap();
        let _second = pool.acquire().await.unwrap();
        let begun = Instant::now();
        let error = pool.acquire().await.unwrap_err();
        assert!(matches!(error, Error::Exhausted(2)), "{error}");
        assert!(begun.elapsed().as_millis() < 100);
        pool.release(&first);
        pool.acquire().await.unwrap();
        pool.close().await.unwrap();
    });
}

#[test]
fn a_later_run_adopts_what_lives_and_sweeps_the_rest() {
    in_pretend_host(|| async {
        let (dir, config) = config(2, 16);
        let (kept, lost) = {
            let pool = Pool::start(config.clone()).await.unwrap();
            let kept = pool.acquire().await.unwrap();
            let lost = pool.acquire().await.unwrap();
            ready(&pool, 2).await;
            (kept, lost)
            // The pool is dropped as a killed process would leave it.
        };
        // Half-made slots, as a crash leaves them.
        std::fs::write(dir.path().join("netns/9"), "").unwrap();
        run("ip link add attest-00a type veth peer name x");

        let pool = Pool::start(config).await.unwrap();
        let adopted = pool.adopt(kept.index).unwrap();
        assert_eq!(adopted, kept);
        assert!(matches!(pool.adopt(kept.index), Err(Error::NoSuchSlot(_))));
        assert!(matches!(pool.adopt(9), Err(Error::NoSuchSlot(9))));
        let fresh = pool.acquire().await.unwrap();
        assert!(fresh.index != kept.index && fresh.index != lost.index);
        pool.sweep(&BTreeSet::from([kept.index]));
        wait_for("the rest is gone", || {
            !lost.netns_path.exists() && !run("ip -br link").contains("attest-00a")
        })
        .await;
        assert!(kept.netns_path.exists());
        pool.release(&adopted);
        pool.release(&fresh);
        pool.close().await.unwrap();
        assert_eq!(remains(dir.path()), Vec::<String>::new());
    });
}

#[test]
fn a_range_in_use_on_the_host_is_avoided() {
    in_pretend_host(|| async {
        run("ip link add lan0 type veth peer name x");
        run("ip addr add 10.211.7.1/24 dev lan0");
        run("ip link set lan0 up");
        let (_dir, first) = config(0, 8);
        let pool = Pool::start(first).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        // The first candidate that nothing overlaps: 10.211.32.0/19.
        assert_eq!(slot.address.octets()[..3], [10, 211, 32], "{slot:?}");

        // A second instance on the same machine sees the first one's claim.
        let (_other_dir, mut other) = config(0, 8);
        other.instance = "other".to_owned();
        other.ranges = vec!["10.211.0.0/16".parse().unwrap()];
        let error = Pool::start(other).await.unwrap_err();
        assert!(error.to_string().contains("10.211.0.0/16"), "{error}");
        pool.close().await.unwrap();
    });
}

#[test]
fn five_hundred_slots_come_and_go_without_a_trace() {
    in_pretend_host(|| async {
        let (dir, config) = config(4, 600);
        let pool = Pool::start(config).await.unwrap();
        let begun = Instant::now();
        let mut slots = Vec::new();
        for _ in 0..500 {
            slots.push(pool.acquire().await.unwrap());
        }
        let made = begun.elapsed();
        let distinct: BTreeSet<_> = slots.iter().map(|slot| slot.address).collect();
        assert_eq!(distinct.len(), 500);
        for slot in &slots {
            pool.release(slot);
        }
        pool.close().await.unwrap();
        println!(
            "500 slots made in {made:?}, all gone after {:?}",
            begun.elapsed()
        );
        assert_eq!(remains(dir.path()), Vec::<String>::new());
    });
}
