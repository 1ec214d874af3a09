//! Networks for sandboxes: a pool of ready slots, dialling into them, and what they may reach.
//!
//! A slot (module `slot`) costs milliseconds to make and tens of milliseconds to take down, most of
//! it spent waiting inside the kernel, so the pool keeps some ready and does both in the
//! background. The index of a slot is the sandbox's number on this machine; no two live sandboxes
//! share one.
//!
//! ```text
//!  free ──make──▶ ready ──acquire──▶ taken ──release──▶ (taken down) ──▶ free
//!                   found at start: leftover ──adopt──▶ taken
//!                                       └─────sweep───▶ (taken down) ──▶ free
//! ```
//!
//! Invariants:
//! - An index is in one state at a time, and is given out again only when nothing of its old slot
//!   is left on the host. A namespace is never used twice.
//! - What an earlier run left on the machine is never touched before [`Pool::sweep`] says what to
//!   keep.
//! - A machine that cannot do egress still gets slots with loopback and ingress; [`Pool::egress`]
//!   says so.
//!
//! Not done here: IPv6 egress (slots have no IPv6 address beyond loopback), and allow lists by
//! domain name, which packet filters cannot enforce.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_core::network::NetworkPolicy;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub mod address;
pub mod cidr;
pub mod dialer;
mod firewall;
mod link;
mod netlink;
mod nft;
pub mod policy;
pub mod resolver;
mod slot;
mod sys;

use self::cidr::Cidr;
use self::dialer::Dialer;
use self::firewall::Firewall;
use self::policy::{Rules, Unenforceable};
use self::slot::Layout;

/// Slots a machine can have at most: the index has three hexadecimal digits in interface names, and
/// sandboxes' user id ranges are numbered by it.
pub const MAX_SLOTS: u32 = 4096;
/// Longest instance name, so that `at<instance>-<index>` fits into an interface name (15 bytes).
pub const INSTANCE_MAX_LEN: usize = 8;
/// Where the namespaces are bound, in the run directory.
const NETNS_FOLDER: &str = "netns";
/// How long an acquire waits for a slot to be made.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a slot could not be made, so that a broken machine is not hammered.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Slots made or taken down at the same time. Both wait for the kernel's one network lock most of
/// the time, so more only adds threads.
const CONCURRENCY: usize = 2;

/// How a pool is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tells this Atoll apart from others on the machine: 1 to [`INSTANCE_MAX_LEN`] of `[a-z0-9]`.
    /// The same across restarts.
    pub instance: String,
    /// A folder of this instance, kept across restarts.
    pub run_dir: PathBuf,
    /// Ranges to take slot addresses from; the first that no route of the host overlaps is used,
    /// and kept from then on. Empty: [`address::default_ranges`].
    pub ranges: Vec<Cidr>,
    /// Slots to keep ready.
    pub ready: usize,
    /// Most slots at a time, ready ones included; at most [`MAX_SLOTS`].
    pub max_slots: u32,
    /// Name servers of sandboxes, reachable even in internal ranges; see [`resolver::choose`].
    pub resolvers: Vec<Ipv4Addr>,
    /// Ranges denied to every sandbox beside the internal ones.
    pub denied: Vec<Cidr>,
}

/// What can go wrong with slots.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no sense.
    #[error("network configuration: {0}")]
    Config(String),
    /// Every candidate range overlaps a route of the host.
    #[error(
        "no free address range for sandboxes: {tried} overlap routes of this machine; set one that \
         does not"
    )]
    NoRange {
        /// The candidates.
        tried: String,
    },
    /// All slots are in use.
    #[error("all {0} network slots are in use")]
    Exhausted(u32),
    /// No slot of that index is there to adopt.
    #[error("no network slot {0} to adopt")]
    NoSuchSlot(u32),
    /// No slot became ready in time.
    #[error("no network slot became ready: {0}")]
    NotReady(String),
    /// The policy is not one that can be enforced here.
    #[error(transparent)]
    Policy(#[from] Unenforceable),
    /// The machine refused a step.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// A network namespace with its connection to the host, held by one sandbox.
///
/// Dropping it releases nothing: a slot outlives the process that acquired it, until
/// [`Pool::release`] or a sweep of a later run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its number on this machine, below [`MAX_SLOTS`].
    pub index: u32,
    /// Where its namespace is bound.
    pub netns_path: PathBuf,
    /// The sandbox's own address.
    pub address: Ipv4Addr,
}

/// The slot of this number that a pool made in `run_dir`, for those who have no pool.
///
/// # Errors
/// `NotFound` if no pool was there, or it has no slot of that number.
pub fn slot_in(run_dir: &Path, index: u32) -> io::Result<Slot> {
    let not_found = || io::Error::from(io::ErrorKind::NotFound);
    let range = address::claimed(run_dir).ok_or_else(not_found)?;
    let (_, address) = slot::addresses(range, index).ok_or_else(not_found)?;
    Ok(Slot {
        index,
        netns_path: slot::netns_path(&run_dir.join(NETNS_FOLDER), index),
        address,
    })
}

/// Whether sandboxes can reach the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Egress {
    /// Yes, through this interface.
    Working {
        /// The interface of the host's default route.
        uplink: String,
        /// Something on the machine that may be in the way, and what to do about it.
        caution: Option<String>,
    },
    /// No, and why.
    Unavailable {
        /// For a person.
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Making,
    Ready,
    Taken,
    Leftover,
    Destroying,
}

#[derive(Debug, Default)]
struct State {
    /// Every index that is not free.
    used: BTreeMap<u32, Use>,
    ready: VecDeque<Slot>,
    /// Where the search for a free index goes on, so that an index rests before it is used again.
    cursor: u32,
    last_error: Option<String>,
    /// What the packet filter is known to enforce for a slot.
    in_force: BTreeMap<u32, Rules>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    /// Why there is no packet filter.
    no_firewall: Option<String>,
    dialer: Dialer,
    target: usize,
    max_slots: u32,
    state: Mutex<State>,
    waiting: AtomicUsize,
    /// One permit for each slot in `State::ready`.
    available: Semaphore,
    work: Arc<Semaphore>,
    wake: Notify,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

/// The pool; clones are the same pool.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

impl Pool {
    /// Claims the address range, notes what an earlier run left, makes one slot as a proof that the
    /// machine can, and begins to keep slots ready.
    ///
    /// # Errors
    /// A bad configuration, no free range, or a machine that refuses (not root, no namespaces).
    pub async fn start(config: Config) -> Result<Self, Error> {
        check(&config)?;
        let dialer = Dialer::spawn().map_err(Error::io("start the dialer thread"))?;
        let ready = config.ready;
        let Prepared {
            layout,
            no_firewall,
            max_slots,
            found,
        } = blocking(move || prepare(&config)).await?;
        let state = State {
            used: found.into_iter().map(|i| (i, Use::Leftover)).collect(),
            ..State::default()
        };
        let pool = Self {
            inner: Arc::new(Inner {
                layout,
                no_firewall,
                dialer,
                target: ready,
                max_slots,
                state: Mutex::new(state),
                waiting: AtomicUsize::new(0),
                available: Semaphore::new(0),
                work: Arc::new(Semaphore::new(CONCURRENCY)),
                wake: Notify::new(),
                tracker: TaskTracker::new(),
                cancel: CancellationToken::new(),
            }),
        };
        if let Some(index) = pool.inner.reserve() {
            pool.inner.make(index).await?;
        }
        let inner = Arc::clone(&pool.inner);
        pool.inner
            .tracker
            .spawn(async move { inner.refill().await });
        Ok(pool)
    }

    /// Takes a ready slot; its policy is that of [`NetworkPolicy::default`] until [`Self::apply`].
    ///
    /// # Errors
    /// [`Error::Exhausted`] at once if all are in use, [`Error::NotReady`] if none could be made in
    /// time.
    pub async fn acquire(&self) -> Result<Slot, Error> {
        let inner = &self.inner;
        inner.waiting.fetch_add(1, Ordering::Relaxed);
        inner.wake.notify_one();
        let permit = if inner.is_exhausted() {
            None
        } else {
            Some(tokio::time::timeout(ACQUIRE_LIMIT, inner.available.acquire()).await)
        };
        inner.waiting.fetch_sub(1, Ordering::Relaxed);
        let permit = permit.ok_or(Error::Exhausted(inner.max_slots))?;
        let Ok(Ok(permit)) = permit else {
            let reason = inner.lock().last_error.clone();
            return Err(Error::NotReady(
                reason.unwrap_or_else(|| "timed out".to_owned()),
            ));
        };
        permit.forget();
        let mut state = inner.lock();
        let slot = state
            .ready
            .pop_front()
            .expect("there is a permit for each ready slot");
        state.used.insert(slot.index, Use::Taken);
        drop(state);
        inner.wake.notify_one();
        Ok(slot)
    }

    /// Gives a slot back: it is taken down in the background, and its index becomes free
    /// afterwards.
    pub fn release(&self, slot: &Slot) {
        let mut state = self.inner.lock();
        if state.used.get(&slot.index) != Some(&Use::Taken) {
            return;
        }
        state.used.insert(slot.index, Use::Destroying);
        drop(state);
        self.inner.spawn_destroy(slot.index);
    }

    /// Takes over a slot that an earlier run made and a live sandbox holds. Its policy stays in
    /// force; apply the wanted one to be sure of it.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`] if there is none, or it is in use already.
    pub fn adopt(&self, index: u32) -> Result<Slot, Error> {
        let mut state = self.inner.lock();
        let slot = self.inner.slot(index).ok_or(Error::NoSuchSlot(index))?;
        let is_leftover = state.used.get(&index) == Some(&Use::Leftover);
        if !is_leftover || !self.inner.layout.is_bound(index) {
            return Err(Error::NoSuchSlot(index));
        }
        state.used.insert(index, Use::Taken);
        Ok(slot)
    }

    /// Takes down everything an earlier run left, except the indices in `keep`, and says how many
    /// slots that were. Slots of this run are not touched. Call it once the sandboxes that live
    /// are known.
    pub fn sweep(&self, keep: &BTreeSet<u32>) -> usize {
        let mut state = self.inner.lock();
        let mut doomed = Vec::new();
        for (index, use_) in &mut state.used {
            if *use_ == Use::Leftover && !keep.contains(index) {
                *use_ = Use::Destroying;
                doomed.push(*index);
            }
        }
        drop(state);
        for index in &doomed {
            self.inner.spawn_destroy(*index);
        }
        doomed.len()
    }

    /// Sets what the slot's sandbox may reach, all at once: at no time is a mixture of the old and
    /// the new policy in force.
    ///
    /// # Errors
    /// [`Error::Policy`] if it cannot be enforced, otherwise if the machine refuses.
    pub async fn apply(&self, slot: &Slot, policy: &NetworkPolicy) -> Result<(), Error> {
        let rules = Rules::from_policy(policy)?;
        let inner = &self.inner;
        // Where there is no filter there is no egress either, which is within every policy.
        let Some(firewall) = inner.layout.firewall.clone() else {
            return Ok(());
        };
        if inner.lock().in_force.get(&slot.index) == Some(&rules) {
            return Ok(());
        }
        inner.lock().in_force.remove(&slot.index);
        let (index, link) = (slot.index, inner.layout.link_name(slot.index));
        let wanted = rules.clone();
        blocking(move || {
            firewall
                .apply(index, &link, &wanted)
                .map_err(Error::io("set the packet filter of a slot"))
        })
        .await?;
        inner.lock().in_force.insert(index, rules);
        Ok(())
    }

    /// Whether sandboxes can reach the outside now.
    #[must_use]
    pub fn egress(&self) -> Egress {
        let Some(firewall) = &self.inner.layout.firewall else {
            let reason = self.inner.no_firewall.clone().unwrap_or_default();
            return Egress::Unavailable { reason };
        };
        match address::uplink() {
            Some(uplink) => Egress::Working {
                uplink: uplink.name,
                caution: caution(firewall),
            },
            None => Egress::Unavailable {
                reason: "this machine has no default route".to_owned(),
            },
        }
    }

    /// Connects to a port of the slot's sandbox.
    ///
    /// # Errors
    /// As [`Dialer::dial_slot`].
    pub async fn dial(&self, slot: &Slot, port: u16) -> io::Result<TcpStream> {
        self.inner.dialer.dial_slot(slot, port).await
    }

    /// Listens inside a namespace; see [`Dialer::listen`].
    ///
    /// # Errors
    /// As [`Dialer::listen`].
    pub async fn listen(&self, netns: &Path, port: u16, backlog: i32) -> io::Result<OwnedFd> {
        self.inner.dialer.listen(netns, port, backlog).await
    }

    /// What dials into namespaces by path, for those who have no slot at hand.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        self.inner.dialer.clone()
    }

    /// Number of ready slots.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.inner.lock().ready.len()
    }

    /// Stops, takes down the ready slots, and waits for what is under way. Slots that sandboxes
    /// hold stay; if there are none, the instance's claim on the machine's address range is
    /// given back too.
    ///
    /// # Errors
    /// If the claim cannot be given back.
    pub async fn close(&self) -> Result<(), Error> {
        let inner = &self.inner;
        inner.cancel.cancel();
        inner.available.close();
        let ready = std::mem::take(&mut inner.lock().ready);
        for slot in ready {
            inner.lock().used.insert(slot.index, Use::Destroying);
            inner.spawn_destroy(slot.index);
        }
        inner.tracker.close();
        inner.tracker.wait().await;
        if inner.lock().used.is_empty() {
            let layout = inner.layout.clone();
            blocking(move || {
                if let Some(firewall) = &layout.firewall {
                    firewall
                        .remove()
                        .map_err(Error::io("remove the packet filter"))?;
                }
                address::unclaim(layout.range).map_err(Error::io("give back the range"))
            })
            .await?;
        }
        Ok(())
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let (_, address) = self.layout.addresses(index)?;
        Some(Slot {
            index,
            netns_path: self.layout.netns_path(index),
            address,
        })
    }

    fn is_exhausted(&self) -> bool {
        let state = self.lock();
        let coming = |use_: &Use| !matches!(use_, Use::Taken | Use::Leftover);
        u32::try_from(state.used.len()).is_ok_and(|used| used >= self.max_slots)
            && !state.used.values().any(coming)
    }

    /// Marks a free index as being made.
    fn reserve(&self) -> Option<u32> {
        let mut state = self.lock();
        let start = state.cursor;
        let index = (0..self.max_slots)
            .map(|step| (start + step) % self.max_slots)
            .find(|index| !state.used.contains_key(index))?;
        state.cursor = index + 1;
        state.used.insert(index, Use::Making);
        Some(index)
    }

    /// Keeps slots ready until cancelled. Each wake-up makes as many as are missing.
    async fn refill(self: Arc<Self>) {
        loop {
            while self.missing() > 0 {
                let Ok(permit) = Arc::clone(&self.work).acquire_owned().await else {
                    return;
                };
                if self.cancel.is_cancelled() || self.missing() == 0 {
                    break;
                }
                let Some(index) = self.reserve() else { break };
                let inner = Arc::clone(&self);
                self.tracker.spawn(async move {
                    if let Err(error) = inner.make(index).await {
                        tracing::warn!(
                            slot = index,
                            error = %Chain(&error),
                            "network slot not made"
                        );
                        tokio::select! {
                            () = tokio::time::sleep(RETRY_PAUSE) => {}
                            () = inner.cancel.cancelled() => {}
                        }
                        inner.wake.notify_one();
                    }
                    drop(permit);
                });
            }
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = self.wake.notified() => {}
            }
        }
    }

    /// How many slots to begin now.
    fn missing(&self) -> usize {
        let state = self.lock();
        let making = state.used.values().filter(|u| **u == Use::Making).count();
        let wanted = self.target + self.waiting.load(Ordering::Relaxed);
        wanted.saturating_sub(state.ready.len() + making)
    }

    /// Makes the reserved slot and puts it with the ready ones; on failure its index is free again.
    async fn make(self: &Arc<Self>, index: u32) -> Result<(), Error> {
        let layout = self.layout.clone();
        let made = blocking(move || {
            let mtu = address::uplink().map_or(address::DEFAULT_MTU, |uplink| uplink.mtu);
            layout
                .make(index, mtu)
                .map_err(Error::io("make a network slot"))
        })
        .await;
        let mut state = self.lock();
        if let Err(error) = &made {
            state.used.remove(&index);
            state.last_error = Some(Chain(error).to_string());
        } else {
            if self.cancel.is_cancelled() {
                state.used.insert(index, Use::Destroying);
                drop(state);
                self.spawn_destroy(index);
                return made;
            }
            let slot = self
                .slot(index)
                .expect("a slot that was made has an address");
            state.used.insert(index, Use::Ready);
            if self.layout.firewall.is_some() {
                state.in_force.insert(index, Rules::default());
            }
            state.ready.push_back(slot);
            drop(state);
            self.available.add_permits(1);
        }
        made
    }

    fn spawn_destroy(self: &Arc<Self>, index: u32) {
        let inner = Arc::clone(self);
        self.tracker.spawn(async move {
            let _permit = inner.work.acquire().await;
            let layout = inner.layout.clone();
            let gone = blocking(move || {
                layout
                    .destroy(index)
                    .map_err(Error::io("take down a network slot"))
            })
            .await;
            match gone {
                Ok(()) => {
                    let mut state = inner.lock();
                    state.used.remove(&index);
                    state.in_force.remove(&index);
                }
                // Unusable until a later run's sweep: giving the index out again could join two
                // sandboxes.
                Err(error) => {
                    tracing::warn!(
                        slot = index,
                        error = %Chain(&error),
                        "network slot not taken down"
                    );
                    inner.lock().used.insert(index, Use::Leftover);
                }
            }
            inner.wake.notify_one();
        });
    }
}

/// An error with its causes, for one log line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

fn check(config: &Config) -> Result<(), Error> {
    let name = &config.instance;
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if name.is_empty() || name.len() > INSTANCE_MAX_LEN || !name.bytes().all(is_plain) {
        return Err(Error::Config(format!(
            "instance `{name}` must be 1 to {INSTANCE_MAX_LEN} lower case letters or digits"
        )));
    }
    if config.max_slots == 0 || config.max_slots > MAX_SLOTS {
        return Err(Error::Config(format!(
            "max_slots must be 1 to {MAX_SLOTS}, not {}",
            config.max_slots
        )));
    }
    Ok(())
}

/// What the blocking part of the start finds out.
struct Prepared {
    layout: Layout,
    /// Why there is no packet filter.
    no_firewall: Option<String>,
    max_slots: u32,
    /// Indices that an earlier run left.
    found: Vec<u32>,
}

fn prepare(config: &Config) -> Result<Prepared, Error> {
    let netns_dir = config.run_dir.join(NETNS_FOLDER);
    std::fs::create_dir_all(&netns_dir).map_err(Error::io("make the run directory"))?;
    let link_prefix = format!("at{}-", config.instance);
    let range = address::claim(&config.run_dir, &config.ranges, &link_prefix)?;
    let room = (1u64 << (32 - range.prefix())) / u64::from(slot::ADDRESSES_PER_SLOT);
    let max_slots = u32::try_from(room).map_or(config.max_slots, |room| room.min(config.max_slots));
    let firewall = Firewall {
        handle: nft::Handle::default(),
        table: format!("atoll-{}", config.instance),
        link_prefix: link_prefix.clone(),
        range,
        resolvers: config.resolvers.clone(),
        denied: config.denied.clone(),
    };
    let installed = enable_egress(&firewall);
    let no_firewall = installed.as_ref().err().map(|e| Chain(e).to_string());
    let layout = Layout {
        link_prefix,
        netns_dir,
        range,
        firewall: installed.is_ok().then_some(firewall),
    };
    let found = layout
        .found()
        .map_err(Error::io("look for network slots of an earlier run"))?;
    Ok(Prepared {
        layout,
        no_firewall,
        max_slots,
        found,
    })
}

/// The filter comes first: at no time is anything forwarded that it does not see.
fn enable_egress(firewall: &Firewall) -> Result<(), Error> {
    firewall
        .install()
        .map_err(Error::io("set up the packet filter (nf_tables)"))?;
    slot::write_sysctl("net/ipv4/ip_forward", "1").map_err(Error::io("turn on IPv4 forwarding"))
}

/// Accepting in one table does not overrule a drop in another.
fn caution(firewall: &Firewall) -> Option<String> {
    const IPV4_FAMILY: u8 = 2;
    let (family, table) = firewall::foreign_drop(&firewall.table)?;
    let family = if family == IPV4_FAMILY { "ip" } else { "inet" };
    let prefix = &firewall.link_prefix;
    Some(format!(
        "the firewall table `{family} {table}` drops forwarded packets by default; it must accept \
         those from and to interfaces `{prefix}*` (Docker: iptables -I DOCKER-USER -i {prefix}+ \
         -j ACCEPT, and the same with -o)"
    ))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io {
            action: "run a blocking step",
            source: io::Error::other(error),
        }),
    }
}
