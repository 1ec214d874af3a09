//! What sandboxes reach: through a pretend host to a pretend internet, by the kernel's own packet
//! filter.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_core::network::NetworkPolicy;
use atoll_node::net::policy::Unenforceable;
use atoll_node::net::{Config, Egress, Error, Pool, Slot};
use tokio::io::AsyncReadExt;
use tokio_util::task::TaskTracker;

use crate::world::{config, in_pretend_host, ready, run};

const INTERNET: &str = "/run/netns/internet";
const SITE: &str = "198.51.100.1";
const OTHER_SITE: &str = "198.51.100.2";
const RESOLVER: &str = "10.99.0.53";
const PORT: u16 = 8080;
const DNS: u16 = 53;

/// Behind the host, by way of `up0`: a machine with public and internal addresses that knows no
/// route back to sandboxes, so that only translated packets are answered.
fn make_internet() {
    run("ip netns add internet");
    run("ip link add up0 type veth peer name net0 netns internet");
    run("ip addr add 203.0.113.2/24 dev up0");
    run("ip link set up0 up");
    run("ip netns exec internet ip addr add 203.0.113.1/24 dev net0");
    run("ip netns exec internet ip link set net0 up");
    run("ip netns exec internet ip link set lo up");
    let internal = [
        "10.99.0.1",
        "100.64.9.9",
        "169.254.169.254",
        "172.20.0.1",
        "192.168.50.1",
    ];
    for address in [SITE, OTHER_SITE, RESOLVER].iter().chain(&internal) {
        run(&format!(
            "ip netns exec internet ip addr add {address}/32 dev lo"
        ));
    }
    run("ip route add default via 203.0.113.1");
}

/// Answers every connection with the peer's address.
async fn serve(pool: &Pool, netns: &Path, port: u16) {
    let fd = pool.listen(netns, port, 64).await.unwrap();
    let listener: std::net::TcpListener = fd.into();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    TaskTracker::new().spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let text = peer.ip().to_canonical().to_string();
            let _ = stream.writable().await;
            let _ = stream.try_write(text.as_bytes());
        }
    });
}

/// The address under which the server saw the sandbox.
async fn reach(pool: &Pool, slot: &Slot, address: &str, port: u16) -> std::io::Result<String> {
    let ip: IpAddr = address.parse().unwrap();
    let dialer = pool.dialer();
    let mut stream = dialer.connect(&slot.netns_path, ip, port).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

/// Denied, and told so without a wait.
async fn assert_denied(pool: &Pool, slot: &Slot, address: &str, port: u16) {
    let begun = Instant::now();
    let error = reach(pool, slot, address, port).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::HostUnreachable,
        "{address}: {error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(2), "{address}");
}

async fn assert_reached(pool: &Pool, slot: &Slot, address: &str, port: u16) {
    let seen = reach(pool, slot, address, port).await;
    assert_eq!(seen.unwrap(), "203.0.113.2", "{address}");
}

async fn start(change: impl FnOnce(&mut Config)) -> (tempfile::TempDir, Pool) {
    make_internet();
    let (dir, mut config) = config(1, 8);
    change(&mut config);
    let pool = Pool::start(config).await.unwrap();
    serve(&pool, Path::new(INTERNET), PORT).await;
    serve(&pool, Path::new(INTERNET), DNS).await;
    (dir, pool)
}

fn policy(internet_access: bool, allow: &[&str], deny: &[&str]) -> NetworkPolicy {
    let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    NetworkPolicy {
        internet_access,
        allow_out: own(allow),
        deny_out: own(deny),
        ..NetworkPolicy::default()
    }
}

#[test]
fn a_sandbox_reaches_the_internet_under_the_hosts_address() {
    in_pretend_host(|| async {
        let (_dir, pool) = start(|_| ()).await;
        let expected = Egress::Working {
            uplink: "up0".to_owned(),
            caution: None,
        };
        assert_eq!(pool.egress(), expected);
        let slot = pool.acquire().await.unwrap();
        assert_reached(&pool, &slot, SITE, PORT).await;
        pool.close().await.unwrap();
    });
}

#[test]
fn internal_ranges_are_denied_whatever_the_policy_says() {
    in_pretend_host(|| async {
        let (_dir, pool) = start(|config| {
            config.resolvers = vec![RESOLVER.parse().unwrap()];
            config.denied = vec!["198.51.100.2/32".parse().unwrap()];
        })
        .await;
        let slot = pool.acquire().await.unwrap();
        for allow in [&[][..], &["0.0.0.0/0", "10.99.0.1", "169.254.169.254"]] {
            pool.apply(&slot, &policy(true, allow, &[])).await.unwrap();
            for address in [
                "10.99.0.1",
                "100.64.9.9",
                "169.254.169.254",
                "172.20.0.1",
                "192.168.50.1",
            ] {
                assert_denied(&pool, &slot, address, PORT).await;
            }
            assert_denied(&pool, &slot, OTHER_SITE, PORT).await;
            assert_denied(&pool, &slot, RESOLVER, PORT).await;
            assert_reached(&pool, &slot, RESOLVER, DNS).await;
            assert_reached(&pool, &slot, SITE, PORT).await;
        }
        // Without internet access there is no name service either: it would carry data out.
        pool.apply(&slot, &policy(false, &[], &[])).await.unwrap();
        assert_denied(&pool, &slot, RESOLVER, DNS).await;
        pool.close().await.unwrap();
    });
}

#[test]
fn allow_beats_deny_and_a_change_takes_effect_at_once() {
    in_pretend_host(|| async {
        let (_dir, pool) = start(|_| ()).await;
        let slot = pool.acquire().await.unwrap();
        pool.apply(&slot, &policy(false, &[], &[])).await.unwrap();
        assert_denied(&pool, &slot, SITE, PORT).await;
        pool.apply(&slot, &policy(false, &[SITE], &[]))
            .await
            .unwrap();
        assert_reached(&pool, &slot, SITE, PORT).await;
        assert_denied(&pool, &slot, OTHER_SITE, PORT).await;
        let ranges = policy(true, &["198.51.100.2/31"], &["198.51.100.0/24"]);
        pool.apply(&slot, &ranges).await.unwrap();
        assert_denied(&pool, &slot, SITE, PORT).await;
        assert_reached(&pool, &slot, OTHER_SITE, PORT).await;
        pool.apply(&slot, &policy(true, &[SITE], &["0.0.0.0/0"]))
            .await
            .unwrap();
        assert_reached(&pool, &slot, SITE, PORT).await;
        assert_denied(&pool, &slot, OTHER_SITE, PORT).await;

        let names = policy(false, &["example.org"], &[]);
        let error = pool.apply(&slot, &names).await.unwrap_err();
        assert!(
            matches!(error, Error::Policy(Unenforceable::Domain(_))),
            "{error}"
        );
        // What was refused has changed nothing.
        assert_reached(&pool, &slot, SITE, PORT).await;
        pool.apply(&slot, &NetworkPolicy::default()).await.unwrap();
        assert_reached(&pool, &slot, OTHER_SITE, PORT).await;
        pool.close().await.unwrap();
    });
}

#[test]
fn sandboxes_reach_neither_each_other_nor_the_host() {
    in_pretend_host(|| async {
        let (_dir, pool) = start(|_| ()).await;
        let one = pool.acquire().await.unwrap();
        let two = pool.acquire().await.unwrap();
        serve(&pool, &two.netns_path, PORT).await;
        // This test's thread is on the pretend host.
        let host = format!("/proc/self/task/{}/ns/net", rustix::thread::gettid());
        serve(&pool, Path::new(&host), PORT).await;
        let open = policy(true, &["0.0.0.0/0"], &[]);
        pool.apply(&one, &open).await.unwrap();
        assert_denied(&pool, &one, &two.address.to_string(), PORT).await;
        // The host's end of the sandbox's own link, and the host's address outside.
        let gateway = (one.address.to_bits() - 1).to_be_bytes();
        assert_denied(
            &pool,
            &one,
            &std::net::Ipv4Addr::from(gateway).to_string(),
            PORT,
        )
        .await;
        assert_denied(&pool, &one, "203.0.113.2", PORT).await;
        pool.close().await.unwrap();
    });
}

#[test]
fn policies_stay_in_force_while_the_node_restarts() {
    in_pretend_host(|| async {
        let (dir, pool) = start(|_| ()).await;
        let slot = pool.acquire().await.unwrap();
        pool.apply(&slot, &policy(true, &[], &[SITE]))
            .await
            .unwrap();
        let (_unused, mut again) = config(0, 8);
        again.run_dir = dir.path().to_owned();
        // A process that ends takes along what it is making; here it would go on beside the next.
        ready(&pool, 1).await;
        drop(pool);
        let pool = Pool::start(again).await.unwrap();
        let slot = pool.adopt(slot.index).unwrap();
        assert_denied(&pool, &slot, SITE, PORT).await;
        assert_reached(&pool, &slot, OTHER_SITE, PORT).await;
        pool.release(&slot);
        pool.sweep(&std::collections::BTreeSet::new());
        pool.close().await.unwrap();
        if Path::new("/usr/sbin/nft").exists() {
            assert_eq!(run("nft list ruleset"), "");
        } else {
            println!("not checked: nft is not installed");
        }
    });
}

#[test]
fn a_machine_without_a_way_out_says_so_and_still_serves() {
    in_pretend_host(|| async {
        let (_dir, config) = config(1, 8);
        let pool = Pool::start(config).await.unwrap();
        let slot = pool.acquire().await.unwrap();
        assert!(matches!(pool.egress(), Egress::Unavailable { .. }));
        pool.apply(&slot, &policy(false, &[SITE], &[]))
            .await
            .unwrap();
        serve(&pool, &slot.netns_path, PORT).await;
        let mut stream = pool.dial(&slot, PORT).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "127.0.0.1");
        pool.close().await.unwrap();
    });
}
