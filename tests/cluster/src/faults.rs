//! What is done to the fleet, one after the other, while its clients work.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use tokio::time::sleep;

use crate::fleet::Fleet;

/// How long a machine is cut off: longer than until it counts as suspect, shorter than as lost.
const CUT: Duration = Duration::from_secs(15);
/// How long an engine is away.
const AWAY: Duration = Duration::from_secs(10);
/// How long a process is away until its supervisor starts it again.
const RESTART_AFTER: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Nothing: what clients see where nothing breaks.
    None,
    /// kill -9 of a server, which is started again.
    KillServer,
    /// kill -9 of the server on duty, which stays away for a while.
    KillDuty,
    /// kill -9 of a node's agent.
    KillNode,
    /// kill -9 of what holds a node's port.
    KillRelay,
    /// PostgreSQL stops without waiting for anybody, and comes back.
    RestartPostgres,
    /// PostgreSQL is away for a while.
    StopPostgres,
    /// Redis is away for a while, and has forgotten everything.
    StopRedis,
    /// Consul is away for a while.
    StopConsul,
    /// A node is cut off in both directions.
    Partition,
    /// A node hears nobody, but is heard.
    PartitionIn,
    /// A node hears everybody, but is not heard.
    PartitionOut,
    /// A server is cut off in both directions.
    PartitionServer,
    /// Each server is replaced by another version, one after the other.
    Upgrade,
    /// A node is gone for good, with everything on it.
    LoseNode,
}

impl Fault {
    /// All of them, in the order in which they are done: what cannot be mended comes last.
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// For the table.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::None => "nothing breaks",
            Self::KillServer => "kill -9 of a server, back after 3 s",
            Self::KillDuty => "kill -9 of the server on duty, back after 13 s",
            Self::KillNode => "kill -9 of a node's agent, back after 3 s",
            Self::KillRelay => "kill -9 of what holds a node's port",
            Self::RestartPostgres => "PostgreSQL restarted at once",
            Self::StopPostgres => "PostgreSQL away for 10 s",
            Self::StopRedis => "Redis away for 10 s, then empty",
            Self::StopConsul => "Consul away for 10 s",
            Self::Partition => "a node cut off for 15 s",
            Self::PartitionIn => "a node that hears nobody for 15 s",
            Self::PartitionOut => "a node that nobody hears for 15 s",
            Self::PartitionServer => "a server cut off for 15 s",
            Self::Upgrade => "every server replaced by another version, one by one",
            Self::LoseNode => "a node gone for good, with its sandboxes",
        }
    }

    /// Whether this fleet can suffer it.
    pub(crate) fn is_possible(self, fleet: &Fleet) -> bool {
        match self {
            Self::StopRedis => fleet.redis.is_some(),
            Self::StopConsul => fleet.consul.is_some(),
            Self::KillDuty | Self::PartitionServer | Self::Upgrade => fleet.servers.len() > 1,
            Self::RestartPostgres | Self::StopPostgres => fleet.postgres.is_some(),
            Self::LoseNode => fleet.nodes.len() > 1,
            Self::None
            | Self::KillServer
            | Self::KillNode
            | Self::KillRelay
            | Self::Partition
            | Self::PartitionIn
            | Self::PartitionOut => true,
        }
    }

    /// Does it, and mends what can be mended.
    pub(crate) async fn strike(self, fleet: &mut Fleet) -> Result<()> {
        match self {
            Self::None => {}
            Self::KillServer => Self::kill_server(fleet, 0, RESTART_AFTER).await?,
            Self::KillDuty => {
                let on_duty = fleet.on_duty().await?;
                Self::kill_server(fleet, on_duty, RESTART_AFTER + AWAY).await?;
            }
            Self::KillNode => {
                fleet.nodes[0].kill()?;
                sleep(RESTART_AFTER).await;
                fleet.nodes[0].start()?;
            }
            Self::KillRelay => fleet.nodes[0].kill_relay()?,
            Self::RestartPostgres => Self::absent(&mut fleet.postgres, Duration::ZERO).await?,
            Self::StopPostgres => Self::absent(&mut fleet.postgres, AWAY).await?,
            Self::StopRedis => Self::absent(&mut fleet.redis, AWAY).await?,
            Self::StopConsul => Self::absent(&mut fleet.consul, AWAY).await?,
            Self::Partition => Self::cut(Self::middle(fleet), (false, false)).await?,
            Self::PartitionIn => Self::cut(Self::middle(fleet), (false, true)).await?,
            Self::PartitionOut => Self::cut(Self::middle(fleet), (true, false)).await?,
            Self::PartitionServer => {
                let last = fleet.servers.len() - 1;
                Self::cut(&fleet.servers[last].site, (false, false)).await?;
            }
            Self::Upgrade => {
                for number in 0..fleet.servers.len() {
                    fleet.upgrade(number).await?;
                    sleep(RESTART_AFTER).await;
                }
            }
            Self::LoseNode => fleet.lose_last_node()?,
        }
        Ok(())
    }

    fn middle(fleet: &Fleet) -> &crate::network::Site {
        &fleet.nodes[fleet.nodes.len() / 2].site
    }

    async fn kill_server(fleet: &mut Fleet, number: usize, away: Duration) -> Result<()> {
        fleet.servers[number].kill()?;
        sleep(away).await;
        fleet.servers[number].start()
    }

    async fn absent(service: &mut Option<crate::services::Service>, away: Duration) -> Result<()> {
        if let Some(service) = service {
            service.stop().await?;
            sleep(away).await;
            service.start().await?;
        }
        Ok(())
    }

    async fn cut(site: &crate::network::Site, (hears, is_heard): (bool, bool)) -> Result<()> {
        site.cut(hears, is_heard)?;
        sleep(CUT).await;
        site.mend()
    }
}
