//! Teams: who shares an installation, and what each may have. For operators.

use std::sync::Arc;

use atoll_core::error::ErrorKind;
use atoll_core::id::TeamId;
use atoll_core::quota::Overrides;
use atoll_core::scheduler::shares::{WEIGHT_DEFAULT, WEIGHT_MAX};
use atoll_store::store::{Inserted, TeamChange, TeamChanged, TeamRow, TeamUsage};

use super::{ControlPlane, Inner, unavailable};
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::limit::{TEAM_NAME_MAX, TEAMS_MAX};
use crate::request::TeamUpdate;
use crate::view::TeamView;

impl Inner {
    /// The team's gate; none: there is no such team.
    pub(crate) async fn gate(&self, team: &TeamId) -> Result<Option<Arc<Gate>>> {
        let epoch = match self.gates.find(team) {
            Ok(gate) if !self.servers.is_alone() && gate.is_old() => {
                let row = self.store.team_get(team).await.map_err(unavailable)?;
                return Ok(row.map(|row| self.renew(&row)));
            }
            Ok(gate) => return Ok(Some(gate)),
            Err(epoch) => epoch,
        };
        let row = self.store.team_get(team).await.map_err(unavailable)?;
        Ok(row.map(|row| {
            self.registry.set_weight(&row.id, row.weight);
            self.gates.keep(&row, epoch)
        }))
    }

    /// The team's gate as its row is now, whichever server changed it; none: there is no such team.
    pub(crate) async fn gate_now(&self, team: &TeamId) -> Result<Option<Arc<Gate>>> {
        if self.servers.is_alone() {
            return self.gate(team).await;
        }
        let row = self.store.team_get(team).await.map_err(unavailable)?;
        Ok(row.map(|row| self.renew(&row)))
    }

    /// Takes over what the team's row says.
    fn renew(&self, row: &TeamRow) -> Arc<Gate> {
        self.registry.set_weight(&row.id, row.weight);
        self.gates.renew(row)
    }

    fn team_view(&self, row: TeamRow) -> TeamView {
        TeamView {
            limits: row.overrides.over(self.config.team_limits),
            id: row.id,
            name: row.name,
            is_disabled: row.is_disabled,
            created_at: row.created_at,
            overrides: row.overrides,
            policy: row.policy,
            weight: row.weight,
            usage: row.usage.charged,
            running: row.usage.running,
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    let length = name.chars().count();
    if length == 0 || length > TEAM_NAME_MAX || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "a team's name has 1 to {TEAM_NAME_MAX} characters, none of them a control character"
        )));
    }
    Ok(())
}

fn check_weight(weight: u32) -> Result<()> {
    if !(1..=WEIGHT_MAX).contains(&weight) {
        return Err(Error::invalid(format!(
            "a team's weight is 1 to {WEIGHT_MAX}"
        )));
    }
    Ok(())
}

fn name_taken(name: &str) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("there is a team `{name}`"),
    )
}

fn no_team(team: &TeamId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no team `{team}`"))
}

impl ControlPlane {
    /// Makes a team. It has no key yet.
    ///
    /// # Errors
    /// `InvalidArgument` (name), `AlreadyExists` (name), `QuotaExceeded` (too many teams).
    pub async fn team_create(&self, name: &str, overrides: Overrides) -> Result<TeamView> {
        check_name(name)?;
        let inner = &self.inner;
        let teams = inner.store.team_list().await.map_err(unavailable)?;
        if teams.len() >= TEAMS_MAX {
            return Err(Error::new(
                ErrorKind::QuotaExceeded,
                format!("an installation has at most {TEAMS_MAX} teams"),
            ));
        }
        let row = TeamRow {
            id: inner
                .draw_uuid()
                .parse()
                .expect("a UUID's text is a valid team id"),
            name: name.to_owned(),
            is_disabled: false,
            created_at: inner.clock.now(),
            overrides,
            policy: None,
            weight: WEIGHT_DEFAULT,
            usage: TeamUsage::default(),
        };
        match inner.store.team_insert(&row).await.map_err(unavailable)? {
            Inserted::Yes => Ok(inner.team_view(row)),
            Inserted::AlreadyExists => Err(name_taken(name)),
        }
    }

    /// Every team, oldest first.
    ///
    /// # Errors
    /// `Unavailable` for the store.
    pub async fn team_list(&self) -> Result<Vec<TeamView>> {
        let rows = self.inner.store.team_list().await.map_err(unavailable)?;
        Ok(rows
            .into_iter()
            .map(|row| self.inner.team_view(row))
            .collect())
    }

    /// One team.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn team_get(&self, team: &TeamId) -> Result<TeamView> {
        let row = self.inner.store.team_get(team).await.map_err(unavailable)?;
        row.map(|row| self.inner.team_view(row))
            .ok_or_else(|| no_team(team))
    }

    /// Changes a team; what it may have, and its weight, hold from the next request on. A team that
    /// has more than a lowered quota keeps it, and gets no more. The sandboxes of a disabled team
    /// go on until their deadlines, while its keys are refused.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` (name, weight), `AlreadyExists` (name).
    pub async fn team_update(&self, team: &TeamId, update: TeamUpdate) -> Result<TeamView> {
        let TeamUpdate {
            name,
            is_disabled,
            overrides,
            policy,
            weight,
        } = update;
        if let Some(name) = &name {
            check_name(name)?;
        }
        weight.map_or(Ok(()), check_weight)?;
        let change = TeamChange {
            name: name.clone(),
            is_disabled,
            overrides,
            policy,
            weight,
        };
        let inner = &self.inner;
        match inner.store.team_update(team, change).await {
            Ok(TeamChanged::Yes(row)) => {
                inner.gates.replace(&row);
                inner.registry.set_weight(&row.id, row.weight);
                Ok(inner.team_view(*row))
            }
            Ok(TeamChanged::NameTaken) => Err(name_taken(&name.unwrap_or_default())),
            Ok(TeamChanged::Unknown) => Err(no_team(team)),
            Err(error) => Err(unavailable(error)),
        }
    }
}
