//! `process.Process`: the wire's requests onto the table.

use std::sync::Arc;
use std::time::Duration;

use atoll_proto::process::{
    CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest,
    ListResponse, PTY, Process, ProcessEvent, ProcessInfo, ProcessInput, ProcessSelector,
    SendInputRequest, SendInputResponse, SendSignalRequest, SendSignalResponse, Signal,
    StartRequest, StartResponse, StreamInputRequest, StreamInputResponse, UpdateRequest,
    UpdateResponse, process_event,
};
use atoll_proto::process_oneof::process_event::Event;
use atoll_proto::process_oneof::process_event::data_event::Output;
use atoll_proto::process_oneof::process_input::Input;
use atoll_proto::process_oneof::process_selector;
use atoll_proto::process_oneof::stream_input_request::Event as InputEvent;
use buffa::EnumValue;
use bytes::Bytes;
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::{Stream, StreamExt, stream};
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::child::{Child, Error as ChildError};
use super::output::{Origin, Piece};
use super::spawn::{Program, Size, Wiring};
use super::status::End;
use super::table::{Error as TableError, Selector};
use crate::path;
use crate::server::{self, Agent};

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    agent: Arc<Agent>,
}

impl Service {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    fn find(&self, selector: Option<&ProcessSelector>) -> Result<Arc<Child>, ConnectError> {
        let selector = selector_of(selector)?;
        self.agent
            .table
            .find(&selector)
            .ok_or_else(|| not_found(&selector))
    }

    fn program(
        &self,
        headers: &HeaderMap,
        request: &StartRequest,
    ) -> Result<Program, ConnectError> {
        let user = server::request_user(&self.agent.settings, headers)?;
        let config = &*request.process;
        let settings = self.agent.settings.lock().clone();
        let cwd = path::resolve(
            config.cwd.as_deref().unwrap_or_default(),
            &user,
            settings.workdir.as_deref(),
        )
        .map_err(|error| ConnectError::invalid_argument(error.to_string()))?;
        if std::fs::metadata(&cwd).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        {
            return Err(ConnectError::invalid_argument(format!(
                "cwd '{cwd}' does not exist"
            )));
        }
        let mut variables = settings.variables;
        for (key, value) in &config.envs {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                return Err(ConnectError::invalid_argument(format!(
                    "invalid environment variable '{}'",
                    key.escape_default()
                )));
            }
            variables.insert(key.clone(), value.clone());
        }
        let wiring = match request.pty.as_option() {
            Some(pty) => Wiring::Terminal(size_of(pty)?),
            None => Wiring::Pipes {
                stdin: request.stdin.unwrap_or(true),
            },
        };
        Ok(Program {
            command: config.cmd.clone(),
            arguments: config.args.clone(),
            variables,
            cwd,
            user,
            wiring,
        })
    }

    fn start_program(
        &self,
        headers: &HeaderMap,
        request: StartRequest,
    ) -> Result<Follow, ConnectError> {
        let timeout = timeout(headers)?;
        let program = self.program(headers, &request)?;
        let config = request.process.into_option().unwrap_or_default();
        let (child, sources) = self
            .agent
            .table
            .start(&program, request.tag, config)
            .map_err(|error| match error {
                TableError::Full => ConnectError::resource_exhausted(error.to_string()),
                TableError::Start(_) => {
                    ConnectError::invalid_argument(start_failure(&program, &error))
                }
            })?;
        // Follow first: the pump hands out nothing before this function returns to it.
        let pieces = child.followers.add();
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        self.agent.tasks.spawn({
            let (agent, child) = (Arc::clone(&self.agent), Arc::clone(&child));
            async move {
                let end = child.pump(sources).await;
                agent.table.finish(&child, end);
            }
        });
        if let Some(deadline) = deadline {
            let child = Arc::clone(&child);
            self.agent.tasks.spawn(async move {
                tokio::select! {
                    () = child.finished() => {}
                    // A process that is gone already needs no signal.
                    () = tokio::time::sleep_until(deadline) => {
                        drop(child.signal(rustix::process::Signal::KILL));
                    }
                }
            });
        }
        Follow::new(child, pieces, headers, deadline)
    }

    async fn give(child: &Child, input: Option<&ProcessInput>) -> Result<(), ConnectError> {
        match input.and_then(|input| input.input.as_ref()) {
            Some(Input::Stdin(data)) => child
                .write_stdin(data)
                .await
                .map_err(|error| input_failure("stdin", &error)),
            Some(Input::Pty(data)) => child
                .write_terminal(data)
                .await
                .map_err(|error| input_failure("tty", &error)),
            None => Err(ConnectError::unimplemented("invalid input type <nil>")),
        }
    }
}

impl Process for Service {
    async fn list<'a>(
        &'a self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<ListResponse> + Send + use<'a>> {
        let children = self.agent.table.list();
        let processes = children.iter().map(|child| ProcessInfo {
            config: child.config.clone().into(),
            pid: child.pid,
            tag: child.tag.clone(),
            ..ProcessInfo::default()
        });
        Response::ok(ListResponse {
            processes: processes.collect(),
            ..ListResponse::default()
        })
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<impl connectrpc::Encodable<ConnectResponse> + Send + use<>>>
    {
        let selector = selector_of(request.to_owned_message().process.as_option())?;
        let deadline = timeout(ctx.headers())?.map(|timeout| Instant::now() + timeout);
        let events = match self.agent.table.find(&selector) {
            Some(child) => {
                let pieces = child.followers.add();
                Follow::new(child, pieces, ctx.headers(), deadline)?
                    .into_stream()
                    .boxed()
            }
            None => {
                let retained = self
                    .agent
                    .table
                    .find_retained(&selector)
                    .ok_or_else(|| not_found(&selector))?;
                stream::iter([Ok(started(retained.pid)), Ok(ended(&retained.end))]).boxed()
            }
        };
        Ok(Response::stream(events.map(|event| {
            event.map(|event| ConnectResponse {
                event: event.into(),
                ..ConnectResponse::default()
            })
        })))
    }

    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<impl connectrpc::Encodable<StartResponse> + Send + use<>>>
    {
        let events = self
            .start_program(ctx.headers(), request.to_owned_message())?
            .into_stream();
        Ok(Response::stream(events.map(|event| {
            event.map(|event| StartResponse {
                event: event.into(),
                ..StartResponse::default()
            })
        })))
    }

    async fn update<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<UpdateResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let child = self.find(request.process.as_option())?;
        if let Some(pty) = request.pty.as_option() {
            child
                .resize(size_of(pty)?)
                .map_err(|error| ConnectError::internal(format!("error resizing tty: {error}")))?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input<'a>(
        &'a self,
        _ctx: RequestContext,
        requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<StreamInputResponse> + Send + use<'a>> {
        let mut requests = requests;
        let mut chosen: Option<Arc<Child>> = None;
        while let Some(request) = requests.next().await {
            match request?.to_owned_message().event {
                Some(InputEvent::Start(start)) => {
                    chosen = Some(self.find(start.process.as_option())?);
                }
                Some(InputEvent::Data(data)) => match &chosen {
                    Some(child) => Self::give(child, data.input.as_option()).await?,
                    None => {
                        return Err(ConnectError::invalid_argument(
                            "input before the start event",
                        ));
                    }
                },
                Some(InputEvent::Keepalive(_)) => {}
                None => return Err(ConnectError::unimplemented("invalid event type <nil>")),
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<SendInputResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let child = self.find(request.process.as_option())?;
        Self::give(&child, request.input.as_option()).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<SendSignalResponse> + Send + use<'a>> {
        let request = request.to_owned_message();
        let child = self.find(request.process.as_option())?;
        let signal = match request.signal {
            EnumValue::Known(Signal::SIGNAL_SIGTERM) => rustix::process::Signal::TERM,
            EnumValue::Known(Signal::SIGNAL_SIGKILL) => rustix::process::Signal::KILL,
            EnumValue::Known(Signal::SIGNAL_UNSPECIFIED) => {
                return Err(ConnectError::unimplemented(
                    "invalid signal: SIGNAL_UNSPECIFIED",
                ));
            }
            EnumValue::Unknown(number) => {
                return Err(ConnectError::unimplemented(format!(
                    "invalid signal: {number}"
                )));
            }
        };
        child
            .signal(signal)
            .map_err(|error| ConnectError::internal(format!("error sending signal: {error}")))?;
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin<'a>(
        &'a self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<impl connectrpc::Encodable<CloseStdinResponse> + Send + use<'a>> {
        let child = self.find(request.to_owned_message().process.as_option())?;
        child
            .close_stdin()
            .await
            .map_err(|error| ConnectError::unknown(format!("error closing stdin: {error}")))?;
        Response::ok(CloseStdinResponse::default())
    }
}

/// One client that follows one process.
struct Follow {
    child: Arc<Child>,
    pieces: mpsc::Receiver<Piece>,
    keepalive: Duration,
    deadline: Option<Instant>,
    stage: Stage,
}

enum Stage {
    Start,
    Output,
    Over,
}

impl Follow {
    fn new(
        child: Arc<Child>,
        pieces: Option<mpsc::Receiver<Piece>>,
        headers: &HeaderMap,
        deadline: Option<Instant>,
    ) -> Result<Self, ConnectError> {
        let pieces = pieces.ok_or_else(|| {
            ConnectError::resource_exhausted("too many clients follow this process")
        })?;
        Ok(Self {
            child,
            pieces,
            keepalive: server::keepalive(headers),
            deadline,
            stage: Stage::Start,
        })
    }

    fn into_stream(self) -> impl Stream<Item = Result<ProcessEvent, ConnectError>> + Send {
        stream::unfold(self, |mut follow| async move {
            let event = follow.next().await?;
            if event.is_err() {
                follow.stage = Stage::Over;
            }
            Some((event, follow))
        })
    }

    async fn next(&mut self) -> Option<Result<ProcessEvent, ConnectError>> {
        match self.stage {
            Stage::Over => return None,
            Stage::Start => {
                self.stage = Stage::Output;
                return Some(Ok(started(self.child.pid)));
            }
            Stage::Output => {}
        }
        let deadline = self.deadline;
        let expired = async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = expired => Some(Err(ConnectError::deadline_exceeded("context deadline exceeded"))),
            piece = self.pieces.recv() => Some(match piece {
                Some(piece) => Ok(output(piece)),
                None => {
                    self.stage = Stage::Over;
                    match self.child.end() {
                        Some(end) => Ok(ended(end)),
                        None => {
                            let lost = "the process was lost before its end was known";
                            Err(ConnectError::unknown(lost))
                        }
                    }
                }
            }),
            () = tokio::time::sleep(self.keepalive) => {
                Some(Ok(event(Event::Keepalive(Box::default()))))
            }
        }
    }
}

fn event(event: Event) -> ProcessEvent {
    ProcessEvent {
        event: Some(event),
        ..ProcessEvent::default()
    }
}

fn started(pid: u32) -> ProcessEvent {
    event(Event::Start(Box::new(process_event::StartEvent {
        pid,
        ..process_event::StartEvent::default()
    })))
}

fn output((origin, bytes): (Origin, Bytes)) -> ProcessEvent {
    let bytes = Vec::from(bytes);
    let output = match origin {
        Origin::Stdout => Output::Stdout(bytes),
        Origin::Stderr => Output::Stderr(bytes),
        Origin::Terminal => Output::Pty(bytes),
    };
    event(Event::Data(Box::new(process_event::DataEvent {
        output: Some(output),
        ..process_event::DataEvent::default()
    })))
}

fn ended(end: &End) -> ProcessEvent {
    event(Event::End(Box::new(process_event::EndEvent {
        exit_code: end.code,
        exited: end.exited,
        status: end.text.clone(),
        error: end.error(),
        ..process_event::EndEvent::default()
    })))
}

fn selector_of(selector: Option<&ProcessSelector>) -> Result<Selector, ConnectError> {
    match selector.and_then(|selector| selector.selector.as_ref()) {
        Some(process_selector::Selector::Pid(pid)) => Ok(Selector::Pid(*pid)),
        Some(process_selector::Selector::Tag(tag)) => Ok(Selector::Tag(tag.clone())),
        None => Err(ConnectError::unimplemented("invalid input type <nil>")),
    }
}

fn not_found(selector: &Selector) -> ConnectError {
    ConnectError::not_found(match selector {
        Selector::Pid(pid) => format!("process with pid {pid} not found"),
        Selector::Tag(tag) => format!("process with tag {tag} not found"),
    })
}

fn size_of(pty: &PTY) -> Result<Size, ConnectError> {
    let side = |value: u32| {
        u16::try_from(value)
            .map_err(|_| ConnectError::invalid_argument("terminal size out of range"))
    };
    Ok(Size {
        columns: side(pty.size.cols)?,
        rows: side(pty.size.rows)?,
    })
}

fn start_failure(program: &Program, error: &TableError) -> String {
    let mut words = vec![program.command.as_str()];
    words.extend(program.arguments.iter().map(String::as_str));
    let command = words.join(" ");
    match program.wiring {
        Wiring::Pipes { .. } => format!("error starting process '{command}': {error}"),
        Wiring::Terminal(size) => format!(
            "error starting pty with command '{command}' in dir '{}' with '{}' cols and '{}' rows: \
             {error}",
            program.cwd, size.columns, size.rows
        ),
    }
}

fn input_failure(what: &str, error: &ChildError) -> ConnectError {
    match error {
        ChildError::TooManyWriters(_) => ConnectError::resource_exhausted(error.to_string()),
        _ => ConnectError::internal(format!("error writing to {what}: {error}")),
    }
}

/// The time that the client allows, if it does not allow any.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ConnectError> {
    let Some(value) = headers.get("connect-timeout-ms") else {
        return Ok(None);
    };
    let timeout_ms: u64 = value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ConnectError::invalid_argument("invalid Connect-Timeout-Ms"))?;
    Ok((timeout_ms > 0).then(|| Duration::from_millis(timeout_ms).min(server::WAIT_MAX)))
}
