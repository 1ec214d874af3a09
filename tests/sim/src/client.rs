//! Clients of two teams: they make, use and end sandboxes, repeat what they got no answer to, and
//! try what is not theirs. What they are told is compared with what they were told before.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_control::request::{CreateRequest, ListQuery, Order};
use atoll_control::view::Tenant;
use atoll_control::{Error, TrafficAccess};
use atoll_core::error::ErrorKind;
use atoll_core::id::SandboxId;
use atoll_core::network::NetworkPolicy;
use atoll_core::sandbox::OnTimeout;
use tokio::time::{sleep, timeout};

use crate::book::KEY_LABEL;
use crate::options::Sabotage;
use crate::server::Server;
use crate::world::{World, lock};

/// Every use case answers within this, whatever is broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Chance in a thousand that a request or its answer is lost between client and server.
const LOSS_PER_MILLE: u32 = 20;

/// How often a client repeats a create with a key.
const ATTEMPTS_MAX: u32 = 4;

/// Idempotency keys of one team: few, so that they are used again.
const KEYS: usize = 40;

/// Rows of a page: few, so that there are several.
const PAGE: u32 = 3;

/// Pages of one listing; more means that it does not end.
const PAGES_MAX: usize = 50;

/// What a pause, a resume or a restart may come to besides success: others are faster, there is no
/// room, or the node does not do it.
const TURN_ERRORS: [ErrorKind; 6] = [
    ErrorKind::NotFound,
    ErrorKind::Conflict,
    ErrorKind::QuotaExceeded,
    ErrorKind::NoCapacity,
    ErrorKind::DeadlineExceeded,
    ErrorKind::Internal,
];

#[derive(Debug, Default)]
struct Memory {
    /// What was made, by team.
    made: BTreeMap<usize, Vec<SandboxId>>,
    /// What clients were told is gone.
    ended: BTreeSet<SandboxId>,
    /// What was made under a key.
    by_key: BTreeMap<String, SandboxId>,
    creates: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Clients {
    world: Arc<World>,
    tenants: Vec<Tenant>,
    memory: Mutex<Memory>,
}

impl Clients {
    pub(crate) fn new(world: Arc<World>, tenants: Vec<Tenant>) -> Self {
        Self {
            world,
            tenants,
            memory: Mutex::default(),
        }
    }

    /// Creates that were answered well.
    pub(crate) fn creates(&self) -> u64 {
        lock(&self.memory).creates
    }

    /// One client does one thing, on its own time.
    pub(crate) fn act(self: &Arc<Self>, server: &Arc<Server>) {
        let (clients, server) = (Arc::clone(self), Arc::clone(server));
        let team = self.world.below(self.tenants.len());
        let choice = self.world.below(100);
        self.world.tasks.spawn(async move {
            match choice {
                0..22 => clients.create(&server, team).await,
                22..38 => clients.create_with_key(&server, team).await,
                38..50 => clients.kill(&server, team).await,
                50..56 => clients.set_timeout(&server, team).await,
                56..68 => clients.pause(&server, team).await,
                68..78 => clients.wake(&server, team).await,
                78..84 => clients.restart(&server, team).await,
                84..88 => clients.get(&server, team).await,
                88..93 => clients.list(&server, team).await,
                _ => clients.try_foreign(&server, team).await,
            }
        });
    }

    /// One call: none if it or its answer got lost, or the server died.
    async fn call<T>(
        &self,
        server: &Server,
        what: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Option<Result<T, Error>> {
        if self.world.goes_wrong(LOSS_PER_MILLE) {
            return None;
        }
        let answer = tokio::select! {
            biased;
            () = server.incarnation.died() => return None,
            answer = timeout(ANSWER_LIMIT, call) => answer,
        };
        let Ok(answer) = answer else {
            self.world
                .violate(format_args!("no answer in {ANSWER_LIMIT:?}: {what}"));
            return None;
        };
        match &answer {
            Ok(_) => self.world.note(format_args!("client {what}: done")),
            Err(error) => self
                .world
                .note(format_args!("client {what}: {:?} {error}", error.kind)),
        }
        (!self.world.goes_wrong(LOSS_PER_MILLE)).then_some(answer)
    }

    async fn create(&self, server: &Server, team: usize) {
        let request = self.request(None);
        let call = server.control.sandbox_create(&self.tenants[team], request);
        if let Some(Ok(view)) = self.call(server, "create", call).await {
            self.created(team, &view.sandbox.id);
        }
    }

    async fn create_with_key(&self, server: &Server, team: usize) {
        let key = format!("team-{team}-key-{}", self.world.below(KEYS));
        let request = self.request(Some(key.clone()));
        let what = format!("create with {key}");
        for _ in 0..ATTEMPTS_MAX {
            let call = server
                .control
                .sandbox_create(&self.tenants[team], request.clone());
            match self.call(server, &what, call).await {
                Some(Ok(view)) => {
                    let id = view.sandbox.id;
                    self.created(team, &id);
                    let first = lock(&self.memory)
                        .by_key
                        .entry(key.clone())
                        .or_insert_with(|| id.clone())
                        .clone();
                    if first != id {
                        self.world
                            .violate(format_args!("{key} made {first} and then {id}"));
                    }
                    return;
                }
                // It was used with a request of other content, or what it made is gone.
                Some(Err(error)) if error.kind == ErrorKind::Conflict => return,
                Some(Err(_)) | None => sleep(self.world.millis(100, 3_000)).await,
            }
            if server.is_dead() {
                return;
            }
        }
    }

    fn request(&self, key: Option<String>) -> CreateRequest {
        let label = key.clone().map(|key| (KEY_LABEL.to_owned(), key));
        let on_timeout = match self.world.below(4) {
            0 => OnTimeout::Pause { keep_memory: true },
            1 => OnTimeout::Pause { keep_memory: false },
            _ => OnTimeout::Kill,
        };
        let secs = match self.world.below(3) {
            0 => 5,
            1 => 60,
            _ => 900,
        };
        CreateRequest {
            template: "base".to_owned(),
            timeout: Duration::from_secs(secs),
            metadata: label.into_iter().collect(),
            env: BTreeMap::new(),
            network: NetworkPolicy::default(),
            is_secured: true,
            on_timeout,
            auto_resume: self.world.happens(300),
            scheduling: None,
            idempotency_key: key,
            fingerprint: "the same".to_owned(),
        }
    }

    fn created(&self, team: usize, id: &SandboxId) {
        let mut memory = lock(&self.memory);
        memory.creates += 1;
        let made = memory.made.entry(team).or_default();
        if !made.contains(id) {
            made.push(id.clone());
        }
    }

    /// One of the newest that the team made.
    fn pick(&self, team: usize) -> Option<SandboxId> {
        /// Further back most have ended.
        const NEWEST: usize = 12;
        let memory = lock(&self.memory);
        let made = memory.made.get(&team)?;
        let back = self.world.below(NEWEST.min(made.len()));
        made.get(made.len() - 1 - back).cloned()
    }

    async fn kill(&self, server: &Server, team: usize) {
        if let Some(id) = self.pick(team) {
            self.kill_one(server, team, &id).await;
        }
    }

    pub(crate) async fn kill_one(&self, server: &Server, team: usize, id: &SandboxId) {
        let call = server.control.sandbox_kill(&self.tenants[team], id);
        match self.call(server, &format!("kill {id}"), call).await {
            Some(Ok(())) => {
                lock(&self.memory).ended.insert(id.clone());
            }
            Some(Err(error)) => self.expect(&error, "kill", &[ErrorKind::NotFound]),
            None => {}
        }
    }

    async fn set_timeout(&self, server: &Server, team: usize) {
        let Some(id) = self.pick(team) else { return };
        let secs = self.world.below(4) * 40;
        let time = Duration::from_secs(u64::try_from(secs).unwrap_or(0));
        let call = server
            .control
            .sandbox_set_timeout(&self.tenants[team], &id, time);
        let what = format!("set timeout of {id} to {secs} s");
        if let Some(Err(error)) = self.call(server, &what, call).await {
            self.expect(&error, &what, &[ErrorKind::NotFound, ErrorKind::Conflict]);
        }
    }

    async fn pause(&self, server: &Server, team: usize) {
        let Some(id) = self.pick(team) else { return };
        let keep_memory = self.world.happens(500);
        let call = server
            .control
            .sandbox_pause(&self.tenants[team], &id, keep_memory);
        let what = format!("pause {id}, memory {keep_memory}");
        if let Some(Err(error)) = self.call(server, &what, call).await {
            self.expect(&error, &what, &TURN_ERRORS);
        }
    }

    /// Wants a sandbox to serve, in one of the ways there are.
    async fn wake(&self, server: &Server, team: usize) {
        let Some(id) = self.pick(team) else { return };
        let (control, tenant) = (&server.control, &self.tenants[team]);
        let time = Duration::from_secs(120);
        let way = self.world.below(3);
        let what = format!("{} {id}", ["connect", "resume", "send traffic to"][way]);
        let answer = match way {
            0 => {
                let call = async { control.sandbox_connect(tenant, &id, time).await.map(drop) };
                self.call(server, &what, call).await
            }
            1 => {
                let call = async { control.sandbox_resume(tenant, &id, time).await.map(drop) };
                self.call(server, &what, call).await
            }
            _ => {
                let call = control.sandbox_resume_for_traffic(&id, TrafficAccess::GuestAgent);
                self.call(server, &what, call).await
            }
        };
        if let Some(Err(error)) = answer {
            self.expect(&error, &what, &TURN_ERRORS);
        }
    }

    /// Resumes what must be possible to resume, and ends it.
    pub(crate) async fn resume_and_kill(&self, server: &Server, team: usize, id: &SandboxId) {
        let time = Duration::from_secs(600);
        let call = server.control.sandbox_resume(&self.tenants[team], id, time);
        if let Some(Err(error)) = self.call(server, &format!("resume {id}"), call).await {
            self.world
                .violate(format_args!("{id} was paused and is not resumed: {error}"));
        }
        self.kill_one(server, team, id).await;
    }

    async fn restart(&self, server: &Server, team: usize) {
        let Some(id) = self.pick(team) else { return };
        let call = server.control.sandbox_restart(&self.tenants[team], &id);
        let what = format!("restart {id}");
        if let Some(Err(error)) = self.call(server, &what, call).await {
            self.expect(&error, &what, &TURN_ERRORS);
        }
    }

    async fn get(&self, server: &Server, team: usize) {
        let Some(id) = self.pick(team) else { return };
        let was_ended = lock(&self.memory).ended.contains(&id);
        let call = server.control.sandbox_get(&self.tenants[team], &id);
        match self.call(server, &format!("get {id}"), call).await {
            Some(Ok(_)) if was_ended => self
                .world
                .violate(format_args!("{id} is shown after its end was confirmed")),
            Some(Err(error)) => self.expect(&error, "get", &[ErrorKind::NotFound]),
            Some(Ok(_)) | None => {}
        }
    }

    /// Walks all pages.
    async fn list(&self, server: &Server, team: usize) {
        let ended = lock(&self.memory).ended.clone();
        let tenant = &self.tenants[team];
        let mut seen = BTreeSet::new();
        let mut query = ListQuery {
            states: Vec::new(),
            metadata: BTreeMap::new(),
            template: None,
            order: Order::Ascending,
            started_after: None,
            cursor: None,
            limit: PAGE,
        };
        for _ in 0..PAGES_MAX {
            let call = server.control.sandbox_list(tenant, &query);
            let page = match self.call(server, "list", call).await {
                Some(Ok(page)) => page,
                Some(Err(error)) => return self.expect(&error, "list", &[]),
                None => return,
            };
            for view in page.items {
                let row = view.sandbox;
                if row.team != tenant.team {
                    self.world
                        .violate(format_args!("{} is listed to another team", row.id));
                }
                if ended.contains(&row.id) {
                    self.world
                        .violate(format_args!("{} is listed after its end", row.id));
                }
                if !seen.insert(row.id.clone()) {
                    self.world
                        .violate(format_args!("{} is listed twice", row.id));
                }
            }
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return,
            }
        }
        self.world.violate("a listing does not end");
    }

    /// Everything that can be tried with another team's sandbox.
    async fn try_foreign(&self, server: &Server, team: usize) {
        let other = (team + 1) % self.tenants.len();
        let Some(id) = self.pick(other) else { return };
        let shown = if self.world.has(Sabotage::OpenForeign) {
            other
        } else {
            team
        };
        let (control, tenant) = (&server.control, &self.tenants[shown]);
        let time = Duration::from_secs(1);
        let what = format!("touch foreign {id}");
        let answer = match self.world.below(4) {
            0 => {
                let call = async { control.sandbox_get(tenant, &id).await.map(drop) };
                self.call(server, &what, call).await
            }
            1 => {
                self.call(server, &what, control.sandbox_kill(tenant, &id))
                    .await
            }
            2 => {
                let call = control.sandbox_set_timeout(tenant, &id, time);
                self.call(server, &what, call).await
            }
            _ => {
                let call = async { control.sandbox_connect(tenant, &id, time).await.map(drop) };
                self.call(server, &what, call).await
            }
        };
        match answer {
            Some(Ok(())) => self
                .world
                .violate(format_args!("another team touched {id}")),
            Some(Err(error)) => self.expect(&error, &what, &[ErrorKind::NotFound]),
            None => {}
        }
    }

    /// An error that no fault explains is a defect.
    fn expect(&self, error: &Error, what: &str, kinds: &[ErrorKind]) {
        if error.kind != ErrorKind::Unavailable && !kinds.contains(&error.kind) {
            self.world
                .violate(format_args!("{what}: {:?}: {error}", error.kind));
        }
    }
}
