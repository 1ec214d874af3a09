//! Template imports: work that outlives its request.
//!
//! An import copies or downloads gigabytes, so the request only starts it and answers 202 with the
//! address to ask for its state. The states are kept in memory: after a restart an unfinished
//! import is gone, and the template does not exist.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_control::ControlPlane;
use atoll_control::request::ImportRequest;
use atoll_control::view::Tenant;
use atoll_core::error::ErrorKind;
use atoll_core::id::TeamId;
use serde::Serialize;
use tokio_util::task::TaskTracker;

use crate::error::ApiError;
use crate::limit::{MAX_FINISHED_IMPORTS, MAX_RUNNING_IMPORTS};

/// How an import stands, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImportDto {
    #[serde(rename = "importID")]
    pub(super) id: String,
    pub(super) name: String,
    pub(super) status: Status,
    #[serde(rename = "templateID", skip_serializing_if = "Option::is_none")]
    pub(super) template_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Running,
    Ready,
    Error,
}

#[derive(Debug)]
struct Import {
    team: TeamId,
    shown: ImportDto,
}

/// The imports of this process, oldest first.
#[derive(Debug)]
pub(crate) struct Imports {
    tasks: TaskTracker,
    list: Arc<Mutex<VecDeque<Import>>>,
}

impl Imports {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self {
            tasks,
            list: Arc::default(),
        }
    }

    /// Begins an import.
    ///
    /// # Errors
    /// 429 if too many run, 409 if one of that name runs.
    pub(super) fn start(
        &self,
        control: ControlPlane,
        tenant: Tenant,
        request: ImportRequest,
    ) -> Result<ImportDto, ApiError> {
        let shown = self.admit(&tenant.team, &request.name)?;
        let (id, list) = (shown.id.clone(), Arc::clone(&self.list));
        self.tasks.spawn(async move {
            let outcome = control.template_import(&tenant, request).await;
            finish(&list, &id, outcome);
        });
        Ok(shown)
    }

    fn admit(&self, team: &TeamId, name: &str) -> Result<ImportDto, ApiError> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let running = || {
            list.iter()
                .filter(|import| import.shown.status == Status::Running)
        };
        if running().any(|import| import.team == *team && import.shown.name == name) {
            let message = format!("an import of `{name}` is under way");
            return Err(ApiError::new(ErrorKind::Conflict, message));
        }
        if running().count() >= MAX_RUNNING_IMPORTS {
            let message = format!("{MAX_RUNNING_IMPORTS} imports are under way, which is the most");
            return Err(ApiError::new(ErrorKind::RateLimited, message));
        }
        let shown = ImportDto {
            id: uuid::Uuid::new_v4().to_string(),
            name: name.to_owned(),
            status: Status::Running,
            template_id: None,
            message: None,
        };
        list.push_back(Import {
            team: team.clone(),
            shown: shown.clone(),
        });
        if list.len() > MAX_FINISHED_IMPORTS
            && let Some(oldest) = list.iter().position(|i| i.shown.status != Status::Running)
        {
            list.remove(oldest);
        }
        Ok(shown)
    }

    /// One import of a team.
    pub(super) fn get(&self, team: &TeamId, id: &str) -> Option<ImportDto> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let mut own = list.iter().filter(|import| import.team == *team);
        own.find(|import| import.shown.id == id)
            .map(|import| import.shown.clone())
    }

    /// All imports of a team, oldest first.
    pub(super) fn list(&self, team: &TeamId) -> Vec<ImportDto> {
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let own = list.iter().filter(|import| import.team == *team);
        own.map(|import| import.shown.clone()).collect()
    }
}

fn finish(
    list: &Mutex<VecDeque<Import>>,
    id: &str,
    outcome: Result<atoll_control::view::TemplateView, atoll_control::Error>,
) {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(import) = list.iter_mut().find(|import| import.shown.id == id) else {
        return;
    };
    match outcome {
        Ok(view) => {
            import.shown.status = Status::Ready;
            import.shown.template_id = Some(view.template.id.to_string());
        }
        Err(error) => {
            import.shown.status = Status::Error;
            import.shown.message = Some(error.message.clone());
            ApiError::from(error).log();
        }
    }
}
