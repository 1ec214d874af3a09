//! Atoll beside a real Consul: what is registered there, what becomes of it when somebody meddles,
//! when Consul dies, forgets everything, is slow, or wants tokens and certificates.
//!
//! Skipped, with a line that says so, where there is no `consul`.
#![cfg(test)]
#![expect(
    clippy::print_stderr,
    reason = "what is skipped says so, and a failure shows what the processes wrote"
)]

mod agent;
mod rig;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use agent::{Consul, Detour, program};
use rig::{Rig, is_possible, until};

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn sorted(ids: &[&String]) -> Vec<String> {
    let mut ids: Vec<_> = ids.iter().map(|id| (*id).clone()).collect();
    ids.sort_unstable();
    ids
}

/// What a check of this service says.
fn status(row: &Value) -> String {
    let checks = row["Checks"].as_array().unwrap().iter();
    let own = checks.filter(|check| check["ServiceID"] == row["Service"]["ID"]);
    own.map(|check| check["Status"].as_str().unwrap()).collect()
}

/// The name of the catalog's node below which sandboxes are.
fn holder(consul: &Consul) -> String {
    let rows = consul.services("atoll-sandbox");
    rows[0]["Node"]["Node"].as_str().unwrap().to_owned()
}

/// Servers, nodes and sandboxes are in Consul while they are there; what is changed by hand is
/// mended; a Consul that dies and forgets everything loses nothing and is told all of it again.
#[test]
fn what_there_is_is_in_consul_whatever_becomes_of_it() {
    let Some(program) = program().filter(|_| is_possible()) else {
        return;
    };
    let mut consul = Consul::start(program);
    let address = url(consul.port());
    let settings = ["--consul-addr", address.as_str()];
    let mut rig = Rig::start(&settings);
    rig.start_node(&settings);
    for service in ["atoll-server", "atoll-node"] {
        until(&format!("{service} is registered"), || {
            let rows = consul.services(service);
            // It warns where the machine is short of something.
            rows.len() == 1 && ["passing", "warning"].contains(&status(&rows[0]).as_str())
        });
    }
    let (one, two, three) = (rig.create(), rig.create(), rig.create());
    let all = sorted(&[&one, &two, &three]);
    until("the sandboxes are registered", || {
        consul.ids("atoll-sandbox") == all
    });
    let row = &consul.services("atoll-sandbox")[0];
    assert_eq!(row["Service"]["Port"], rig.node_port());
    assert_eq!(row["Service"]["Address"], "127.0.0.1");
    let sandbox = rig.api().get(&format!("/sandboxes/{one}"));
    let template = format!("template-{}", sandbox["templateID"].as_str().unwrap());
    let tags: Vec<_> = row["Service"]["Tags"].as_array().unwrap().clone();
    assert!(tags.contains(&json!(template)), "{tags:?}");
    let is_team = |tag: &Value| tag.as_str().unwrap().starts_with("team-");
    assert!(tags.iter().any(is_team), "{tags:?}");

    meddle(&consul, &one, &two);
    until("it is as before", || consul.ids("atoll-sandbox") == all);
    until("the repairs are told", || {
        let mut restored = rig.repairs("registration_restored");
        restored.sort_unstable();
        let removed = rig.repairs("registration_removed");
        restored == sorted(&[&one, &two]) && removed == ["ighostghostghostghos"]
    });

    rig.remove(&three);
    until("what ended is gone", || {
        consul.ids("atoll-sandbox") == sorted(&[&one, &two])
    });

    consul.kill();
    until("health tells that Consul is away", || {
        let part = rig.discovery();
        part["status"] == "degraded" && part["detail"].as_str().unwrap().contains("not registered")
    });
    let four = rig.create();
    rig.remove(&one);
    consul.run();
    until("Consul knows again what there is", || {
        consul.ids("atoll-sandbox") == sorted(&[&two, &four])
            && consul.ids("atoll-server").len() == 1
            && consul.ids("atoll-node").len() == 1
    });
    until("health is well", || rig.discovery()["status"] == "healthy");

    rig.remove(&two);
    rig.remove(&four);
    rig.stop("node");
    until("the node is gone", || consul.ids("atoll-node").is_empty());
    rig.stop("server");
    until("the server is gone", || {
        consul.ids("atoll-server").is_empty()
    });
}

/// A node that is told of no server joins those in Consul, and serves on while Consul is dead; one
/// that knows only a server that is not there is found in Consul by the others.
#[test]
fn servers_and_nodes_find_each_other_in_consul() {
    let Some(program) = program().filter(|_| is_possible()) else {
        return;
    };
    let mut consul = Consul::start(program);
    let address = url(consul.port());
    let settings = ["--consul-addr", address.as_str()];
    let mut rig = Rig::start(&settings);
    rig.start_node(&settings);
    let one = rig.create();
    consul.kill();
    let two = rig.create();
    rig.remove(&one);
    rig.remove(&two);
    rig.stop("node");
    consul.run();

    // Registered under another prefix it finds no server; under the right one it is found.
    until("the server is registered", || {
        consul.ids("atoll-server").len() == 1
    });
    let [nobody] = agent::ports();
    let mut settings = settings.to_vec();
    let dead = url(nobody);
    settings.extend(["--server", &dead, "--consul-prefix", "other"]);
    rig.run("node", &settings);
    until("the node is registered", || {
        consul.ids("other-node").len() == 1
    });
    let row = consul.services("other-node").remove(0);
    let mut service = row["Service"].clone();
    service["ID"] = json!("moved");
    service["Service"] = json!("atoll-node");
    let body = json!({"Node": "elsewhere", "Address": "127.0.0.1", "Service": service});
    let answer = consul.client.ask("PUT", "/v1/catalog/register", Some(body));
    assert_eq!(answer.unwrap().0, 200);
    until("the node is found", || rig.node_state() == "ready");
    let three = rig.create();
    rig.remove(&three);
}

/// Deletes one sandbox from Consul, changes another, and adds one that is none.
fn meddle(consul: &Consul, deleted: &str, changed: &str) {
    let holder = holder(consul);
    let change = |path: &str, body: Value| {
        let (status, answer) = consul.client.ask("PUT", path, Some(body)).unwrap();
        assert_eq!(status, 200, "{answer}");
    };
    let put = |service: Value| {
        let body = json!({"Node": holder, "SkipNodeUpdate": true, "Service": service});
        change("/v1/catalog/register", body);
    };
    put(json!({"ID": changed, "Service": "atoll-sandbox", "Port": 1}));
    put(json!({"ID": "ighostghostghostghos", "Service": "atoll-sandbox"}));
    let body = json!({"Node": holder, "ServiceID": deleted});
    change("/v1/catalog/deregister", body);
}

/// Creates take as long beside a Consul that takes seconds for every answer as beside a quick one.
#[test]
fn a_slow_consul_slows_no_create() {
    let Some(program) = program().filter(|_| is_possible()) else {
        return;
    };
    let consul = Consul::start(program);
    let detour = Detour::to(consul.port());
    let address = url(detour.port);
    let settings = ["--consul-addr", address.as_str()];
    let mut rig = Rig::start(&settings);
    rig.start_node(&["--server", &rig.server_url()]);
    let first = rig.create();
    until("the first is registered", || {
        consul.ids("atoll-sandbox") == [first.as_str()]
    });
    let five = || {
        let begun = Instant::now();
        let ids: Vec<_> = (0..5).map(|_| rig.create()).collect();
        let took = begun.elapsed();
        ids.iter().for_each(|id| rig.remove(id));
        took
    };
    let quick = five();
    let delay = Duration::from_secs(3);
    detour.set_delay(delay);
    let slow = five();
    eprintln!("five creates: {quick:?} beside a quick Consul, {slow:?} beside a slow one");
    assert!(slow < quick + delay, "{slow:?} against {quick:?}");
    detour.set_delay(Duration::ZERO);
    until("Consul knows what there is", || {
        consul.ids("atoll-sandbox") == [first.as_str()]
    });
}

/// With access control on, a token that may do no more than is documented is enough, and without
/// one the server serves all the same and says what is wrong.
#[test]
fn a_token_is_shown_and_one_that_is_missing_stops_nothing() {
    let Some(program) = program() else {
        return;
    };
    let master = "00000000-0000-4000-8000-000000000001";
    let access = json!({"acl": {
        "enabled": true, "default_policy": "deny", "tokens": {"master": master},
    }});
    let consul = Consul::start_with(program, &access.to_string(), |_| Vec::new());
    let operator = rig::Client::new(url(consul.port())).showing("x-consul-token", master);
    let rules = r#"
        service_prefix "atoll-" { policy = "write" }
        node_prefix "atoll-" { policy = "write" }
        service_prefix "" { policy = "read" }
        node_prefix "" { policy = "read" }
    "#;
    let policy = json!({"Name": "atoll", "Rules": rules});
    until("the policy is made", || {
        let made = operator.ask("PUT", "/v1/acl/policy", Some(policy.clone()));
        made.is_some_and(|(status, _)| status == 200)
    });
    let wish = json!({"Policies": [{"Name": "atoll"}]});
    let (_, token) = operator.ask("PUT", "/v1/acl/token", Some(wish)).unwrap();
    let file = consul.folder().join("token");
    fs::write(&file, token["SecretID"].as_str().unwrap()).unwrap();
    restrict(&file);

    let address = url(consul.port());
    let rig = Rig::start(&["--consul-addr", &address]);
    until("health tells of the refusal", || {
        let part = rig.health("registration of the server");
        part["detail"].to_string().contains("403")
    });
    assert_eq!(rig.api().get("/v2/sandboxes"), json!([]));
    drop(rig);

    let file = file.to_str().unwrap();
    let rig = Rig::start(&["--consul-addr", &address, "--consul-token-file", file]);
    until("the server is registered", || {
        let found = operator.get("/v1/health/service/atoll-server");
        found.as_array().unwrap().len() == 1
    });
    until("health is well", || {
        rig.health("registration of the server")["status"] == "healthy"
    });
}

/// Only its owner may read a secret.
fn restrict(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;

    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Over TLS Consul is believed if one of the given certificates signed its own, and not otherwise.
#[test]
fn consul_is_reached_over_tls_by_the_certificates_that_are_given() {
    let Some(program) = program() else {
        return;
    };
    let make = |folder: &Path, arguments: &[&str]| {
        let mut tls = std::process::Command::new(&program);
        let made = tls.arg("tls").args(arguments).current_dir(folder).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    let consul = Consul::start_with(program.clone(), "{}", |folder| {
        make(folder, &["ca", "create"]);
        make(folder, &["cert", "create", "-server"]);
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let settings = json!({
            "ca_file": path("consul-agent-ca.pem"),
            "cert_file": path("dc1-server-consul-0.pem"),
            "key_file": path("dc1-server-consul-0-key.pem"),
        });
        let file = folder.join("tls.json");
        fs::write(&file, settings.to_string()).unwrap();
        vec!["-config-file".to_owned(), file.to_str().unwrap().to_owned()]
    });
    let address = format!("https://127.0.0.1:{}", consul.https_port());
    let rig = Rig::start(&["--consul-addr", &address]);
    until("health tells that Consul is not believed", || {
        rig.discovery()["detail"]
            .to_string()
            .contains("certificate")
    });
    drop(rig);

    let authority = consul.folder().join("consul-agent-ca.pem");
    let authority = authority.to_str().unwrap();
    let rig = Rig::start(&["--consul-addr", &address, "--consul-ca", authority]);
    until("the server is registered", || {
        consul.ids("atoll-server").len() == 1
    });
    until("Consul is believed", || {
        !rig.discovery()["detail"]
            .to_string()
            .contains("not registered")
    });
}
