//! `atoll explain …`: why a sandbox or a node is as it is.

use std::fmt::Write as _;

use http::Method;
use serde_json::Value;

use crate::cli::ExplainCommand;
use crate::client::segment;
use crate::commands::sandbox::client;
use crate::output;

/// Fields of an event that stand in its line already, or say nothing to a person.
const QUIET_FIELDS: [&str; 1] = ["event"];

/// Does what the subcommand says.
///
/// # Errors
/// If no server is known, or what the server says.
pub(crate) async fn run(command: ExplainCommand) -> anyhow::Result<()> {
    let (server, path, json, render): (_, _, _, fn(&Value) -> String) = match command {
        ExplainCommand::Sandbox { server, id, json } => {
            let path = format!("/admin/v1/explain/sandboxes/{}", segment(&id));
            (server, path, json, sandbox)
        }
        ExplainCommand::Node { server, id, json } => {
            let path = format!("/admin/v1/explain/nodes/{}", segment(&id));
            (server, path, json, node)
        }
    };
    let answer: Value = client(&server)?.call(Method::GET, &path, None).await?;
    if json {
        return output::json(&answer);
    }
    output::line(&render(&answer))
}

fn sandbox(explained: &Value) -> String {
    let intent = &explained["intent"];
    let mut text = format!(
        "sandbox {}  team {}  template {}  made by {}\n",
        word(&explained["sandboxID"]),
        word(&explained["teamID"]),
        word(&explained["templateID"]),
        word(&explained["createdBy"]),
    );
    let _ = writeln!(
        text,
        "intent    {} (wanted: {}), generation {}, node {} ({}), until {}",
        word(&intent["state"]),
        word(&intent["desired"]),
        word(&intent["generation"]),
        word(&intent["nodeID"]),
        word(&intent["nodeHealth"]),
        word(&intent["deadline"]),
    );
    let _ = writeln!(text, "observed  {}", observed(&explained["observed"]));
    let plan: Vec<_> = list(&explained["plan"]).iter().map(word).collect();
    let _ = writeln!(
        text,
        "next      {}{}",
        match plan.as_slice() {
            [] => "nothing: it is where it should be".to_owned(),
            steps => steps.join(", then "),
        },
        match explained["inProgress"].as_bool() {
            Some(true) => " (under way)",
            _ => "",
        },
    );
    if !intent["lastError"].is_null() {
        let _ = writeln!(text, "error     {}", word(&intent["lastError"]));
    }
    decisions(&mut text, &explained["decisions"]);
    section(&mut text, "corrections", &explained["corrections"]);
    section(&mut text, "history", &explained["history"]);
    text.trim_end().to_owned()
}

fn node(explained: &Value) -> String {
    let node = &explained["node"];
    let mut text = format!(
        "node {}  {} sandboxes\ntotal      {}\nallocated  {}\n",
        word(&node["id"]),
        word(&node["sandboxes"]),
        amounts(&node["total"]),
        amounts(&node["allocated"]),
    );
    text.push_str(&described(node));
    for placed in list(&explained["sandboxes"]) {
        let _ = writeln!(
            text,
            "  {}  {}",
            word(&placed["sandboxID"]),
            observed(&placed["observed"]),
        );
    }
    match explained["sandboxesLeftOut"].as_u64() {
        Some(0) | None => {}
        Some(more) => {
            let _ = writeln!(text, "  and {more} more");
        }
    }
    section(&mut text, "history", &explained["history"]);
    text.trim_end().to_owned()
}

/// What policies can ask of a node; what it has not said is left out.
fn described(node: &Value) -> String {
    let parts = [
        ("zone", word(&node["zone"])),
        ("labels", pairs(&node["labels"])),
        ("tags", pairs(&node["tags"])),
        ("taints", words(&node["taints"])),
        ("processor", word(&node["architecture"])),
        ("drivers", pairs(&node["drivers"])),
    ];
    let mut text = String::new();
    for (name, value) in parts {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<10} {value}");
        }
    }
    text
}

fn pairs(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let pairs = pairs.map(|(key, value)| match word(value).as_str() {
        "" => key.clone(),
        value => format!("{key}={value}"),
    });
    pairs.collect::<Vec<_>>().join(", ")
}

fn words(values: &Value) -> String {
    list(values).iter().map(word).collect::<Vec<_>>().join(", ")
}

/// Where it was placed, or refused, and why.
fn decisions(text: &mut String, events: &Value) {
    let events = list(events);
    if events.is_empty() {
        return;
    }
    text.push_str("decisions\n");
    for event in events {
        let decision = &event["decision"];
        if decision.is_null() {
            let _ = writeln!(
                text,
                "  {}  {}",
                word(&event["at"]),
                word(&event["message"])
            );
            continue;
        }
        let _ = match &decision["nodeID"] {
            Value::Null => writeln!(
                text,
                "  {}  no node for generation {}",
                word(&event["at"]),
                word(&decision["generation"]),
            ),
            node => writeln!(
                text,
                "  {}  {} for generation {}, score {}: {}",
                word(&event["at"]),
                word(node),
                word(&decision["generation"]),
                percent(&decision["score"]),
                word(&event["message"]),
            ),
        };
        decision_lines(text, decision);
    }
}

fn decision_lines(text: &mut String, decision: &Value) {
    let mut line = |name: &str, content: String| {
        if !content.is_empty() {
            let _ = writeln!(text, "      {name:<12}{content}");
        }
    };
    let joined = |of: &str, one: fn(&Value) -> String| {
        let all: Vec<_> = list(&decision[of]).iter().map(one).collect();
        all.join(", ")
    };
    line(
        "parts",
        joined("parts", |part| {
            let weight = part["weightPermille"].as_u64().unwrap_or_default();
            let weight = format!("{}.{}%", weight / 10, weight % 10);
            let value = percent(&part["value"]);
            format!("{} {value} of {weight}", word(&part["term"]))
        }),
    );
    line(
        "then",
        joined("alternatives", |other| {
            format!("{} {}", word(&other["nodeID"]), percent(&other["score"]))
        }),
    );
    line(
        "not",
        joined("rejected", |rejected| {
            let constraint = word(&rejected["constraint"]);
            format!("{constraint}: {} node(s)", word(&rejected["nodes"]))
        }),
    );
    line("refused by", joined("refused", word));
    if !decision["smallestChange"].is_null() {
        line("would fit", word(&decision["smallestChange"]["text"]));
    }
    let mut how = format!(
        "{} of {} node(s) that fit, seed {}",
        word(&decision["strategy"]),
        word(&decision["fitting"]),
        word(&decision["seed"]),
    );
    // Who is spared usually is no news.
    if let Some(sparing @ ("failing" | "nobody")) = decision["sparing"].as_str() {
        let _ = write!(how, ", sparing {sparing}");
    }
    line("how", how);
}

/// A score or a part of one, of a million.
fn percent(value: &Value) -> String {
    let value = value.as_u64().unwrap_or_default();
    format!("{}.{}%", value / 10_000, value % 10_000 / 1_000)
}

fn section(text: &mut String, title: &str, events: &Value) {
    let events = list(events);
    if events.is_empty() {
        return;
    }
    let _ = writeln!(text, "{title}");
    for event in events {
        let fields = event["fields"].as_object();
        let fields: Vec<_> = fields
            .into_iter()
            .flatten()
            .filter(|(name, _)| !QUIET_FIELDS.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}={}", word(value)))
            .collect();
        let line = format!(
            "  {}  {:<18} {}  {}",
            word(&event["at"]),
            word(&event["kind"]),
            word(&event["message"]),
            fields.join(" "),
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

fn observed(seen: &Value) -> String {
    let mut text = word(&seen["state"]);
    if !seen["generation"].is_null() {
        let _ = write!(text, ", generation {}", word(&seen["generation"]));
    }
    if !seen["detail"].is_null() {
        let _ = write!(text, ": {}", word(&seen["detail"]));
    }
    text
}

fn amounts(resources: &Value) -> String {
    format!(
        "{} mcpu, {} MiB memory, {} MiB disk",
        word(&resources["cpuMillis"]),
        word(&resources["memoryMiB"]),
        word(&resources["diskMiB"]),
    )
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value as people read it.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn decisions_are_told_line_by_line() {
        let events = json!([
            {
                "at": "2026-11-28T07:00:00Z",
                "message": "keeps most room free of 2 node(s) that fit",
                "decision": {
                    "nodeID": "node-2",
                    "generation": 1,
                    "score": 885_000,
                    "parts": [{"term": "spread", "value": 862_000, "weightPermille": 833}],
                    "alternatives": [{"nodeID": "node-1", "score": 880_000}],
                    "rejected": [{"constraint": "draining", "nodes": 1}],
                    "refused": ["node-3"],
                    "smallestChange": null,
                    "strategy": "least_allocated",
                    "sparing": "all",
                    "fitting": 2,
                    "seed": "4711",
                },
            },
            {
                "at": "2026-11-28T07:00:01Z",
                "message": "sandbox failed",
                "decision": {
                    "nodeID": null,
                    "generation": 2,
                    "smallestChange": {"text": "needs 4 GiB of memory"},
                    "strategy": "least_allocated",
                    "fitting": 0,
                    "seed": "1",
                },
            },
            {"at": "2026-11-28T07:00:02Z", "message": "spreads", "decision": null},
        ]);
        let mut text = String::new();
        decisions(&mut text, &events);
        let expected = "decisions
  2026-11-28T07:00:00Z  node-2 for generation 1, score 88.5%: keeps most room free of 2 node(s) \
             that fit
      parts       spread 86.2% of 83.3%
      then        node-1 88.0%
      not         draining: 1 node(s)
      refused by  node-3
      how         least_allocated of 2 node(s) that fit, seed 4711
  2026-11-28T07:00:01Z  no node for generation 2
      would fit   needs 4 GiB of memory
      how         least_allocated of 0 node(s) that fit, seed 1
  2026-11-28T07:00:02Z  spreads
";
        assert_eq!(text, expected);
    }
}
