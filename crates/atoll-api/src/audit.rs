//! Records every request that would change something: who, what, from where, with which outcome.
//!
//! It stands around both doors, so that a route has no say in whether it is recorded. Whoever finds
//! out something on the way (who is asking, what was made) writes it on the request's [`Note`]. A
//! use case whose one transaction decides the request writes the row in it, by its [`Receipt`].
//!
//! A request for a change runs to its end although its client goes away: otherwise whoever hangs up
//! early would leave a change without a row.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_control::audit::{Actor, Deed, Outcome, Receipt};
use atoll_control::view::Tenant;
use atoll_core::error::ErrorKind;
use atoll_core::id::TeamId;
use axum::RequestExt as _;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{Extensions, HeaderMap, Method, header};
use tracing::Instrument as _;

use crate::error::{ApiError, kind_word};
use crate::guard::TraceId;
use crate::rest::Api;

/// The client's address: put into a request's extensions by whoever accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(pub IpAddr);

/// What is found out about a request on its way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Note(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    /// What was known before the request ran; none: nothing of it is recorded.
    begun: Option<Deed>,
    caller: Option<(Actor, TeamId)>,
    /// Given to the use case.
    receipt: Option<Receipt>,
    objects: Vec<String>,
    outcome: Option<Outcome>,
}

/// Objects of one request that a row names: a batch has at most so many sandboxes.
const OBJECTS_MAX: usize = 128;

impl Note {
    /// The note of the request with these extensions. One without, such as a request that only
    /// reads, has its note thrown away.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// Of a request of which this is known.
    fn begin(deed: Deed) -> Self {
        let note = Self::default();
        note.found().begun = Some(deed);
        note
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down who asks; the use case gets the right to the request's row with it.
    pub(crate) fn by_key(&self, tenant: &mut Tenant) {
        let actor = Actor::Key(tenant.key.clone());
        tenant.receipt = self.by(actor, &tenant.team);
    }

    /// As [`Self::by_key`], for the operator who acts for a team.
    pub(crate) fn by_operator(&self, tenant: &mut Tenant) {
        tenant.receipt = self.by(Actor::Operator, &tenant.team);
    }

    fn by(&self, actor: Actor, team: &TeamId) -> Option<Receipt> {
        let mut found = self.found();
        let receipt = found.begun.clone().map(|mut deed| {
            deed.actor = actor.clone();
            deed.team = Some(team.clone());
            Receipt::new(deed)
        });
        found.caller = Some((actor, team.clone()));
        found.receipt.clone_from(&receipt);
        receipt
    }

    /// Writes down what was made, or what it is about.
    pub(crate) fn about(&self, object: &str) {
        let mut found = self.found();
        if found.objects.len() < OBJECTS_MAX {
            found.objects.push(object.to_owned());
        }
    }

    /// Writes down how it ended, where the answer's status does not tell.
    pub(crate) fn ended<T>(&self, result: &Result<T, ApiError>) {
        self.found().outcome = Some(match result {
            Ok(_) => Outcome::Done,
            Err(error) => outcome_of(error),
        });
    }
}

/// What an answer is about, where the path does not name it.
#[derive(Debug, Clone)]
pub(crate) struct Made(pub(crate) String);

/// Around the REST routes.
pub(crate) async fn rest(State(api): State<Api>, request: Request, next: Next) -> Response {
    if is_safe(request.method()) {
        return next.run(request).await;
    }
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or("(no route)", MatchedPath::as_str);
    let operation = format!("{} {path}", request.method());
    watch(api, operation, Silent::Done, request, next).await
}

/// Around the calls of a service; `operation` names the call if it changes something.
pub(crate) async fn call(
    api: Api,
    operation: Option<String>,
    request: Request,
    next: Next,
) -> Response {
    match operation {
        None => next.run(request).await,
        Some(operation) => watch(api, operation, Silent::Unsure, request, next).await,
    }
}

/// Whether the method changes nothing, by its definition.
pub(crate) const fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What a successful status means where nobody wrote down how the request ended.
#[derive(Debug, Clone, Copy)]
enum Silent {
    /// It was done.
    Done,
    /// Nothing: gRPC answers 200 in any case, also when its deadline ended the call.
    Unsure,
}

async fn watch(
    api: Api,
    operation: String,
    silent: Silent,
    mut request: Request,
    next: Next,
) -> Response {
    let mut deed = deed(operation, &mut request).await;
    let note = Note::begin(deed.clone());
    request.extensions_mut().insert(note.clone());
    let tasks = api.tasks().clone();
    let run = async move {
        let response = next.run(request).await;
        let receipt = note.found().receipt.take();
        if let Some(receipt) = receipt
            && !receipt.settle().await
        {
            // The change's own transaction has the row.
            return response;
        }
        finish(&mut deed, silent, &note, &response);
        match api.control().audit_record(deed).await {
            Ok(()) => response,
            Err(error) => ApiError::from(error).into_response(),
        }
    };
    match tasks.spawn(run.in_current_span()).await {
        Ok(response) => response,
        Err(error) => {
            let error =
                atoll_control::Error::new(ErrorKind::Internal, "internal error").with_source(error);
            ApiError::from(error).into_response()
        }
    }
}

/// What is known of a request before it runs.
async fn deed(operation: String, request: &mut Request) -> Deed {
    let object = match request.extract_parts::<RawPathParams>().await {
        Ok(params) => params.iter().next().map(|(_, value)| value.to_owned()),
        Err(_) => None,
    };
    let extensions = request.extensions();
    Deed {
        team: None,
        actor: Actor::Anonymous,
        operation,
        object,
        outcome: Outcome::Done,
        address: extensions.get::<Client>().map(|Client(address)| *address),
        agent: agent(request.headers()),
        trace: extensions.get::<TraceId>().map(|TraceId(id)| id.clone()),
    }
}

fn agent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::USER_AGENT)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Adds what was found out.
fn finish(deed: &mut Deed, silent: Silent, note: &Note, response: &Response) {
    let mut found = note.found();
    if let Some((actor, team)) = found.caller.take() {
        deed.actor = actor;
        deed.team = Some(team);
    }
    if let Some(Made(object)) = response.extensions().get() {
        deed.object = Some(object.clone());
    } else if !found.objects.is_empty() {
        deed.object = Some(found.objects.join(","));
    }
    let refused = response.extensions().get::<Arc<ApiError>>();
    deed.outcome = match (found.outcome, refused, silent) {
        (Some(outcome), ..) => outcome,
        (None, Some(error), _) => outcome_of(error),
        (None, None, Silent::Done) if response.status().is_success() => Outcome::Done,
        (None, None, Silent::Unsure) if response.status().is_success() => {
            Outcome::Unsure("unknown")
        }
        (None, None, _) => Outcome::Refused("refused"),
    };
}

/// What an error says of the change that was asked for.
fn outcome_of(error: &ApiError) -> Outcome {
    let word = kind_word(error.kind());
    match error.kind() {
        ErrorKind::DeadlineExceeded | ErrorKind::Internal => Outcome::Unsure(word),
        ErrorKind::InvalidArgument
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::QuotaExceeded
        | ErrorKind::RateLimited
        | ErrorKind::NoCapacity
        | ErrorKind::Unavailable
        | ErrorKind::Unsupported => Outcome::Refused(word),
    }
}
