//! Runs a process in a sandbox through the guest agent's `process.Process` service, as the E2B
//! SDKs do: over the edge, told where to by headers.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::{Context, bail};
use atoll_proto::process::{
    CloseStdinRequest, ProcessClient, ProcessConfig, ProcessInput, ProcessSelector,
    SendInputRequest, StartRequest, StartResponse,
};
use atoll_proto::process_oneof::process_event::Event;
use atoll_proto::process_oneof::process_event::data_event::Output;
use atoll_proto::process_oneof::process_input::Input;
use atoll_proto::process_oneof::process_selector::Selector;
use base64::Engine as _;
use connectrpc::client::{ClientConfig, HttpClient};
use tokio::io::AsyncReadExt;
use tokio_util::task::AbortOnDropHandle;

use crate::cli::ProcessArgs;
use crate::client::Created;
use crate::connection::Connection;
use crate::output;

/// Port the guest agent listens on (E2B wire protocol).
const ENVD_PORT: &str = "49983";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of our standard input travels in one message.
const INPUT_CHUNK_BYTES: usize = 64 * 1024;
/// What shells add to a signal's number to make an exit code.
const SIGNAL_EXIT_CODE: i32 = 128;
const SIGKILL: i32 = 9;
const SIGPIPE: i32 = 13;

/// The processes of one sandbox.
#[derive(Clone)]
pub(crate) struct Processes {
    client: ProcessClient<HttpClient>,
}

impl Processes {
    /// # Errors
    /// If the server's URL is malformed.
    pub(crate) fn new(
        connection: &Connection,
        sandbox: &Created,
        user: Option<&str>,
    ) -> anyhow::Result<Self> {
        let uri = connection
            .sandbox_url
            .parse()
            .context("the sandbox URL is malformed")?;
        let transport = HttpClient::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .plaintext();
        let mut config = ClientConfig::new(uri)
            .proto()
            .with_default_header("e2b-sandbox-id", &sandbox.id)
            .with_default_header("e2b-sandbox-port", ENVD_PORT);
        if let Some(token) = &sandbox.envd_access_token {
            config = config.with_default_header("x-access-token", token);
        }
        if let Some(user) = user {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:"));
            config = config.with_default_header("authorization", format!("Basic {pair}"));
        }
        Ok(Self {
            client: ProcessClient::new(transport, config),
        })
    }

    /// Runs a command to its end. Its output goes to `sink`; our standard input goes to it if
    /// `with_stdin`. Answers its exit code.
    ///
    /// # Errors
    /// If the agent refuses, or the connection breaks before the end.
    pub(crate) async fn run(
        &self,
        config: ProcessConfig,
        with_stdin: bool,
        mut sink: impl FnMut(Output) -> anyhow::Result<()>,
    ) -> anyhow::Result<i32> {
        let request = StartRequest {
            process: config.into(),
            stdin: Some(with_stdin),
            ..StartRequest::default()
        };
        let mut stream = self.client.start(request).await?;
        let mut feeder = None;
        while let Some(message) = stream.message::<StartResponse>().await? {
            let message = message.to_owned_message();
            match message.event.into_option().and_then(|event| event.event) {
                Some(Event::Start(start)) if with_stdin => {
                    feeder = Some(AbortOnDropHandle::new(self.feed(start.pid)));
                }
                Some(Event::Data(data)) => data.output.map_or(Ok(()), &mut sink)?,
                Some(Event::End(end)) => {
                    drop(feeder);
                    return Ok(if end.exited {
                        end.exit_code
                    } else {
                        signal_exit_code(&end.status)
                    });
                }
                Some(Event::Start(_) | Event::Keepalive(_)) | None => {}
            }
        }
        bail!("the sandbox ended before its command did")
    }

    /// Passes our standard input on until its end.
    fn feed(&self, pid: u32) -> tokio::task::JoinHandle<()> {
        let client = self.client.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the caller holds the handle and aborts it when the process ends"
        )]
        tokio::spawn(async move {
            let selector = || ProcessSelector {
                selector: Some(Selector::Pid(pid)),
                ..ProcessSelector::default()
            };
            let mut stdin = tokio::io::stdin();
            let mut buffer = vec![0; INPUT_CHUNK_BYTES];
            while let Ok(length @ 1..) = stdin.read(&mut buffer).await {
                let input = ProcessInput {
                    input: Some(Input::Stdin(buffer[..length].to_vec())),
                    ..ProcessInput::default()
                };
                let request = SendInputRequest {
                    process: selector().into(),
                    input: input.into(),
                    ..SendInputRequest::default()
                };
                if client.send_input(request).await.is_err() {
                    return;
                }
            }
            let request = CloseStdinRequest {
                process: selector().into(),
                ..CloseStdinRequest::default()
            };
            // A process that is gone needs no end of input.
            let _ = client.close_stdin(request).await;
        })
    }
}

/// Runs a command as the person at the terminal sees it: output passed through, input too unless
/// it is the terminal itself.
///
/// # Errors
/// As [`Processes::run`].
pub(crate) async fn run_attached(
    connection: &Connection,
    sandbox: &Created,
    arguments: &ProcessArgs,
    command: &[String],
) -> anyhow::Result<i32> {
    let processes = Processes::new(connection, sandbox, arguments.user.as_deref())?;
    let with_stdin = !io::stdin().is_terminal();
    let show = |piece| match piece {
        Output::Stdout(bytes) | Output::Pty(bytes) => Ok(output::piece(&bytes, &mut io::stdout())?),
        Output::Stderr(bytes) => Ok(output::piece(&bytes, &mut io::stderr())?),
    };
    let result = processes
        .run(config(arguments, command), with_stdin, show)
        .await;
    result.or_else(|error| match error.downcast_ref::<io::Error>() {
        // Nobody reads any more: as after a SIGPIPE, without a word.
        Some(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(SIGNAL_EXIT_CODE + SIGPIPE),
        _ => Err(error),
    })
}

/// The exit code a shell reports for a process that a signal ended; the guest agent names the
/// signal in words (`signal: terminated (core dumped)`), as E2B's does.
fn signal_exit_code(status: &str) -> i32 {
    let name = status.strip_prefix("signal: ").unwrap_or(status);
    let signal = match name.trim_end_matches(" (core dumped)") {
        "hangup" => 1,
        "interrupt" => 2,
        "quit" => 3,
        "illegal instruction" => 4,
        "trace/breakpoint trap" => 5,
        "aborted" => 6,
        "bus error" => 7,
        "floating point exception" => 8,
        "user defined signal 1" => 10,
        "segmentation fault" => 11,
        "user defined signal 2" => 12,
        "broken pipe" => SIGPIPE,
        "alarm clock" => 14,
        "terminated" => 15,
        // "killed", and what no program uses to end another.
        _ => SIGKILL,
    };
    SIGNAL_EXIT_CODE + signal
}

fn config(arguments: &ProcessArgs, command: &[String]) -> ProcessConfig {
    let (program, rest) = command
        .split_first()
        .map_or(("", &[][..]), |(p, r)| (p.as_str(), r));
    ProcessConfig {
        cmd: program.to_owned(),
        args: rest.to_vec(),
        envs: arguments.envs.iter().cloned().collect(),
        cwd: arguments.cwd.clone(),
        ..ProcessConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_becomes_the_exit_code_of_shells() {
        assert_eq!(signal_exit_code("signal: killed"), 137);
        assert_eq!(signal_exit_code("signal: terminated"), 143);
        assert_eq!(
            signal_exit_code("signal: segmentation fault (core dumped)"),
            139
        );
        assert_eq!(signal_exit_code(""), 137);
    }
}
