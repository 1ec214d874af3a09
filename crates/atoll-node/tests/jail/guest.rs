//! Runs commands in a sandbox, through its guest agent.

use atoll_core::id::SandboxId;
use atoll_node::agent::Agent;
use atoll_node::guest_client::GUEST_AGENT_PORT;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::rig::LIMIT;

/// How a command ended.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: String,
    pub(crate) code: i64,
}

/// Runs a command of the shell as root and waits for its end.
pub(crate) async fn run(agent: &Agent, id: &SandboxId, command: &str) -> Output {
    run_as(agent, id, "root", command).await
}

pub(crate) async fn run_as(agent: &Agent, id: &SandboxId, user: &str, command: &str) -> Output {
    match tokio::time::timeout(LIMIT, start(agent, id, user, command)).await {
        Ok(output) => output,
        Err(_) => panic!("`{command}` did not end in time"),
    }
}

async fn start(agent: &Agent, id: &SandboxId, user: &str, command: &str) -> Output {
    let report = agent.report();
    let known = report.sandboxes.iter().find(|seen| seen.id == *id);
    let generation = known.expect("the agent knows the sandbox").generation;
    let stream = agent.dial(id, generation, GUEST_AGENT_PORT);
    let stream = stream.await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio_util::task::TaskTracker::new().spawn(connection);
    let message =
        json!({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", command]}}).to_string();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message.bytes());
    let request = hyper::Request::post("/process.Process/Start")
        .header("host", "guest")
        .header("content-type", "application/connect+json")
        .header("connect-protocol-version", "1")
        .header(
            "authorization",
            format!("Basic {}", STANDARD.encode(format!("{user}:"))),
        )
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    // A guest that was killed in the middle ends the stream early; what came is still told.
    let mut bytes = Vec::new();
    let mut frames = answer.into_body();
    while let Some(Ok(frame)) = frames.frame().await {
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
    }
    connection.abort();
    collect(&bytes)
}

fn collect(mut bytes: &[u8]) -> Output {
    let mut output = Output {
        code: i64::MIN,
        ..Output::default()
    };
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let Some((message, rest)) = rest.split_at_checked(length) else {
            break;
        };
        bytes = rest;
        let message: Value = serde_json::from_slice(message).unwrap();
        if head[0] & 2 != 0 {
            if let Some(error) = message.get("error") {
                output.status = error.to_string();
            }
            break;
        }
        let text = |value: &Value| {
            let decoded = STANDARD.decode(value.as_str().unwrap()).unwrap();
            String::from_utf8_lossy(&decoded).into_owned()
        };
        if let Some(data) = message.pointer("/event/data/stdout") {
            output.stdout += &text(data);
        }
        if let Some(data) = message.pointer("/event/data/stderr") {
            output.stderr += &text(data);
        }
        if let Some(end) = message.pointer("/event/end") {
            output.code = end.get("exitCode").and_then(Value::as_i64).unwrap_or(0);
            output.status = end["status"].as_str().unwrap_or_default().to_owned();
        }
    }
    output
}
