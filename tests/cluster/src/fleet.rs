//! The fleet: engines, servers and nodes, each on a machine of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::member::{Member, Setting};
use crate::network::Site;
use crate::services::{self, Service};

const SERVER_PORT: u16 = 3000;
const NODE_PORT: u16 = 3001;
/// Secrets of a fleet that lives for minutes in a network of its own.
const KEY: &str = "e2b_00000000000000000000000000000000c1057e50";
const TOKEN: &str = "a-join-token-of-a-fleet-for-tests";

/// How long the fleet may take until everybody is there.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// How many of each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) servers: u8,
    pub(crate) nodes: u8,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) postgres: Option<Service>,
    pub(crate) redis: Option<Service>,
    pub(crate) consul: Option<Service>,
    pub(crate) servers: Vec<Member>,
    pub(crate) nodes: Vec<Member>,
    /// What servers are upgraded to.
    next: PathBuf,
    lost: Option<usize>,
    http: reqwest::Client,
}

impl Fleet {
    /// Starts everything, and waits until every node has joined.
    pub(crate) async fn start(folder: &Path, size: Size, programs: (&Path, &Path)) -> Result<Self> {
        let (program, next) = programs;
        let mut fleet = Self {
            postgres: None,
            redis: None,
            consul: None,
            servers: Vec::new(),
            nodes: Vec::new(),
            next: next.to_owned(),
            lost: None,
            http: reqwest::Client::builder()
                .timeout(Duration::from_secs(5))
                .build()?,
        };
        // One server has its own store, as in a fleet of one box.
        if size.servers > 1 {
            fleet.start_engines(folder).await?;
        }
        fleet.set_up(folder, size, program)?;
        fleet.run().await?;
        Ok(fleet)
    }

    async fn start_engines(&mut self, folder: &Path) -> Result<()> {
        let mut postgres = Service::postgres(site("postgres", 4, 1)?, folder)?;
        postgres.start().await?;
        postgres.create_database().await?;
        self.postgres = Some(postgres);
        let mut redis = Service::redis(site("redis", 4, 2)?, folder)?;
        redis.start().await?;
        self.redis = Some(redis);
        if services::has_consul() {
            let mut consul = Service::consul(site("consul", 4, 3)?, folder)?;
            consul.start().await?;
            self.consul = Some(consul);
        }
        Ok(())
    }

    fn set_up(&mut self, folder: &Path, size: Size, program: &Path) -> Result<()> {
        let mut of_all = vec![
            setting("ATOLL_JOIN_TOKEN", TOKEN),
            setting("ATOLL_LOG", "info,sqlx=warn,hyper=warn"),
        ];
        let consul = self.consul.iter();
        of_all.extend(consul.map(|consul| setting("ATOLL_CONSUL_ADDR", consul.url())));
        let mut of_server = of_all.clone();
        of_server.push(setting("ATOLL_API_KEY", KEY));
        let postgres = self.postgres.iter();
        of_server.extend(postgres.map(|service| setting("ATOLL_DATABASE_URL", service.url())));
        let redis = self.redis.iter();
        of_server.extend(redis.map(|service| setting("ATOLL_REDIS_URL", service.url())));
        for number in 1..=size.servers {
            let site = site(&format!("server-{number}"), 1, number)?;
            let listen = format!("{}:{SERVER_PORT}", site.address);
            let arguments = ["server", "--listen", &listen];
            let server = Member::new(site, program, folder, &arguments, &of_server)?;
            self.servers.push(server);
        }
        of_all.push(setting("ATOLL_SERVER", self.server_urls().join(",")));
        for number in 1..=size.nodes {
            let site = site(&format!("node-{number}"), 3, number)?;
            let listen = format!("{}:{NODE_PORT}", site.address);
            let name = site.name.clone();
            let arguments = ["node", "--listen", &listen, "--name", &name];
            self.nodes
                .push(Member::new(site, program, folder, &arguments, &of_all)?);
        }
        Ok(())
    }

    async fn run(&mut self) -> Result<()> {
        // The first makes the tables.
        let groups = [&mut self.servers, &mut self.nodes];
        for member in groups.into_iter().flatten() {
            member.start()?;
        }
        let since = Instant::now();
        loop {
            let mut ready = 0;
            for number in 0..self.servers.len() {
                ready += self.ready_nodes(number).await.unwrap_or(0);
            }
            if ready == self.servers.len() * self.nodes.len() {
                return Ok(());
            }
            let groups = [&mut self.servers, &mut self.nodes];
            for member in groups.into_iter().flatten() {
                ensure!(
                    member.is_running() && since.elapsed() < READY_LIMIT,
                    "the fleet is not ready; {}:\n{}",
                    member.site.name,
                    member.last_words(30)
                );
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// How many nodes this server sees ready.
    async fn ready_nodes(&self, server: usize) -> Result<usize> {
        let nodes = self.ask_operator(server, "/admin/v1/nodes").await?;
        let nodes = nodes.as_array().context("a list of nodes")?;
        Ok(nodes.iter().filter(|node| node["state"] == "ready").count())
    }

    async fn ask_operator(&self, server: usize, path: &str) -> Result<Value> {
        let url = format!("{}{path}", self.servers[server].url(SERVER_PORT));
        let token = std::fs::read_to_string(self.servers[server].data.join("admin-token"))?;
        let request = self.http.get(url).header("x-admin-token", token.trim());
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// Which of the servers is on duty.
    pub(crate) async fn on_duty(&self) -> Result<usize> {
        let servers = self.ask_operator(0, "/admin/v1/servers").await?;
        let servers = servers.as_array().context("a list of servers")?;
        let on_duty = servers.iter().find(|server| server["onDuty"] == true);
        let address = on_duty.context("nobody is on duty")?["address"].as_str();
        let address = address.context("an address")?;
        let is_it = |member: &Member| address.contains(&member.site.address.to_string());
        self.servers
            .iter()
            .position(is_it)
            .context("a server of the fleet")
    }

    pub(crate) fn server_urls(&self) -> Vec<String> {
        self.servers
            .iter()
            .map(|server| server.url(SERVER_PORT))
            .collect()
    }

    pub(crate) const fn key() -> &'static str {
        KEY
    }

    /// Replaces a server by the next version.
    pub(crate) async fn upgrade(&mut self, number: usize) -> Result<()> {
        let next = self.next.clone();
        let server = &mut self.servers[number];
        server.stop().await?;
        server.replace_program(&next);
        server.start()
    }

    /// A node is gone with everything on it, and does not come back.
    pub(crate) fn lose_last_node(&mut self) -> Result<()> {
        let last = self.nodes.len() - 1;
        self.nodes[last].lose()?;
        self.lost = Some(last);
        Ok(())
    }

    pub(crate) const fn is_node_lost(&self) -> bool {
        self.lost.is_some()
    }

    pub(crate) fn living_nodes(&self) -> impl Iterator<Item = &Member> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(number, _)| Some(*number) != self.lost)
            .map(|(_, node)| node)
    }

    /// Ends everything in order.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let groups = [&mut self.nodes, &mut self.servers];
        for member in groups.into_iter().flatten() {
            member.stop().await?;
        }
        let engines = [&mut self.consul, &mut self.redis, &mut self.postgres];
        for service in engines.into_iter().flatten() {
            service.stop().await?;
        }
        Ok(())
    }
}

fn setting(name: &'static str, value: impl Into<String>) -> Setting {
    Setting {
        name,
        value: value.into(),
    }
}

fn site(name: &str, kind: u8, number: u8) -> Result<Site> {
    Site::new(name, Ipv4Addr::new(10, 77, kind, number))
}
