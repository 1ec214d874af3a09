//! Bad input: a precise refusal, and nothing changes.

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::json;

use crate::world::World;

async fn refused(world: &World, method: Method, path: &str, body: &str, status: u16, text: &str) {
    let answer = world.ask(method.clone(), path, body).await;
    let at = format!("{method} {path} {body:.80}");
    assert_eq!(answer.status, status, "{at}: {}", answer.json);
    assert!(
        answer.message().contains(text),
        "{at}: {}",
        answer.message()
    );
    if status == 400 {
        let has_prefix = answer.message().starts_with("validation error: ");
        let is_of_control = [
            "Timeout cannot be",
            "template",
            "`",
            "the end",
            "a key",
            "limit",
        ]
        .iter()
        .any(|start| answer.message().starts_with(start));
        assert!(has_prefix || is_of_control, "{at}: {}", answer.message());
    }
}

/// Create requests that must fail: the document, the status, a part of the message.
const BAD_CREATES: &[(&str, u16, &str)] = &[
    ("", 400, "the request body is empty"),
    ("{", 400, "the request body is not valid: EOF"),
    ("not json", 400, "line 1 column"),
    ("[]", 400, "the request body is not valid"),
    ("null", 400, "the request body is not valid"),
    ("{}", 400, "missing field `templateID`"),
    (r#"{"templateID":"base"} x"#, 400, "trailing characters"),
    (
        r#"{"templateID":7}"#,
        400,
        "`templateID`: invalid type: integer",
    ),
    (
        r#"{"templateID":null}"#,
        400,
        "`templateID`: invalid type: null",
    ),
    (
        r#"{"templateID":""}"#,
        400,
        "`templateID` must not be empty",
    ),
    (r#"{"templateID":"a b"}"#, 400, "not a template reference"),
    (
        r#"{"templateID":"../../etc"}"#,
        400,
        "not a template reference",
    ),
    (r#"{"templateID":"base\u0000"}"#, 400, "control characters"),
    (r#"{"templateID":"nothing"}"#, 404, "nothing"),
    (
        r#"{"templateID":"base","timeout":"10"}"#,
        400,
        "`timeout`: invalid type: string",
    ),
    (
        r#"{"templateID":"base","timeout":1.5}"#,
        400,
        "`timeout`: invalid type: floating",
    ),
    (
        r#"{"templateID":"base","timeout":0}"#,
        400,
        "Timeout must be greater than 0",
    ),
    (
        r#"{"templateID":"base","timeout":-5}"#,
        400,
        "Timeout must be greater than 0, not -5",
    ),
    (
        r#"{"templateID":"base","timeout":86401}"#,
        400,
        "Timeout cannot be greater than 24 hours",
    ),
    (
        r#"{"templateID":"base","timeout":99999999999}"#,
        400,
        "2147483647",
    ),
    (
        r#"{"templateID":"base","timeout":99999999999999999999}"#,
        400,
        "`timeout`: ",
    ),
    (
        r#"{"templateID":"base","metadata":[]}"#,
        400,
        "`metadata`: invalid type",
    ),
    (
        r#"{"templateID":"base","metadata":{"a":1}}"#,
        400,
        "`metadata.a`: invalid type",
    ),
    (
        r#"{"templateID":"base","metadata":{"a":"\u0000"}}"#,
        400,
        "NUL",
    ),
    (
        r#"{"templateID":"base","metadata":{"":"x"}}"#,
        400,
        "`metadata` key",
    ),
    (
        r#"{"templateID":"base","envVars":{"A=B":"x"}}"#,
        400,
        "`envVars` entry `A=B`",
    ),
    (
        r#"{"templateID":"base","envVars":{"A":"x\u0000y"}}"#,
        400,
        "`envVars` entry `A`",
    ),
    (
        r#"{"templateID":"base","envVars":{"":"x"}}"#,
        400,
        "`envVars` entry",
    ),
    (
        r#"{"templateID":"base","network":{"denyOut":["example.org"]}}"#,
        400,
        "denied CIDR",
    ),
    (
        r#"{"templateID":"base","network":{"allowOut":["example.org"]}}"#,
        400,
        "ALL_TRAFFIC",
    ),
    (
        r#"{"templateID":"base","network":{"rules":{"a.b":[]}}}"#,
        501,
        "`rules`",
    ),
    (
        r#"{"templateID":"base","volumeMounts":[{"name":"v","path":"/v"}]}"#,
        501,
        "volumes",
    ),
    (
        r#"{"templateID":"base","iam":{"tokens":{"a":{}}}}"#,
        501,
        "iam",
    ),
    (
        r#"{"templateID":"base","autoPauseMemory":false}"#,
        400,
        "autoPauseMemory",
    ),
    (
        r#"{"templateID":"base","autoPause":true,"autoPauseMemory":false,
                "autoResume":{"enabled":true}}"#,
        400,
        "autoResume",
    ),
];

#[tokio::test]
async fn malformed_documents_are_refused_precisely() {
    let world = World::new().await;
    for path in ["/sandboxes", "/v2/sandboxes"] {
        for (body, status, text) in BAD_CREATES {
            refused(&world, Method::POST, path, body, *status, text).await;
        }
    }
    assert_eq!(world.node.running_count(), 0, "nothing was made");
    let list = world.ask(Method::GET, "/v2/sandboxes", "").await;
    assert_eq!(list.json, json!([]));
}

#[tokio::test]
async fn too_much_is_refused_by_name() {
    let world = World::new().await;
    let many = |prefix: &str, count: usize| -> serde_json::Map<String, serde_json::Value> {
        (0..count)
            .map(|n| (format!("{prefix}{n}"), json!("x")))
            .collect()
    };
    for (document, text) in [
        (json!({"metadata": many("m", 257)}), "at most 256"),
        (
            json!({"metadata": {"m": "x".repeat(65_537)}}),
            "at most 65536",
        ),
        (
            json!({"metadata": {"x".repeat(257): "m"}}),
            "1 to 256 bytes",
        ),
        (json!({"envVars": many("E", 1025)}), "at most 1024"),
        (
            json!({"envVars": {"E": "x".repeat(200_000)}}),
            "at most 131070",
        ),
        (
            json!({"network": {"denyOut": vec!["1.1.1.1"; 257]}}),
            "at most 256",
        ),
    ] {
        let mut document = document;
        document["templateID"] = json!("base");
        refused(
            &world,
            Method::POST,
            "/v2/sandboxes",
            &document.to_string(),
            400,
            text,
        )
        .await;
    }
    let body = format!(r#"{{"templateID":"{}"}}"#, "x".repeat(300));
    refused(
        &world,
        Method::POST,
        "/v2/sandboxes",
        &body,
        400,
        "more than 256 bytes",
    )
    .await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_in_shape() {
    let world = World::new().await;
    let body = format!(
        r#"{{"templateID":"base","x":"{}"}}"#,
        "y".repeat(16 * 1024 * 1024)
    );
    for path in ["/sandboxes", "/v2/sandboxes"] {
        let text = "larger than 16777216 bytes";
        refused(&world, Method::POST, path, &body, 413, text).await;
    }
    assert_eq!(world.node.running_count(), 0);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused() {
    let world = World::new().await;
    let broken = futures::stream::iter([
        Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"{\"templateID\"")),
        Err(std::io::ErrorKind::ConnectionReset.into()),
    ]);
    let request = Request::post("/v2/sandboxes")
        .header("x-api-key", "e2b_0123456789abcdef0123456789abcdef01234567")
        .body(Body::from_stream(broken))
        .unwrap();
    let answer = world.send(request).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(
        answer.message().contains("cannot be read"),
        "{}",
        answer.message()
    );
}

/// Requests that must fail, beside a sandbox `{id}` that runs: method, path, body, status, a part
/// of the message.
const BAD_REQUESTS: &[(Method, &str, &str, u16, &str)] = &[
    (Method::GET, "/sandboxes/%00", "", 400, "Invalid sandbox ID"),
    (
        Method::GET,
        "/sandboxes/..%2Fetc",
        "",
        400,
        "Invalid sandbox ID",
    ),
    (
        Method::GET,
        "/sandboxes/UPPER",
        "",
        400,
        "Invalid sandbox ID",
    ),
    (Method::GET, "/sandboxes/%FF", "", 400, "UTF-8"),
    (
        Method::DELETE,
        "/sandboxes/non-existing",
        "",
        404,
        "doesn't exist",
    ),
    (
        Method::GET,
        "/sandboxes/inothere",
        "",
        404,
        "Sandbox \"inothere\" doesn't exist",
    ),
    (
        Method::POST,
        "/sandboxes/{id}/timeout",
        r#"{"timeout":-1}"#,
        400,
        "not -1",
    ),
    (
        Method::POST,
        "/sandboxes/{id}/timeout",
        r#"{"timeout":3000000000}"#,
        400,
        "2147483647",
    ),
    (
        Method::POST,
        "/sandboxes/{id}/timeout",
        "{}",
        400,
        "missing field `timeout`",
    ),
    (Method::POST, "/sandboxes/{id}/timeout", "", 400, "empty"),
    (
        Method::POST,
        "/sandboxes/{id}/connect",
        "{}",
        400,
        "missing field `timeout`",
    ),
    (
        Method::POST,
        "/sandboxes/{id}/connect",
        r#"{"timeout":0}"#,
        400,
        "greater than 0",
    ),
    (
        Method::POST,
        "/sandboxes/{id}/refreshes",
        r#"{"duration":3601}"#,
        400,
        "not 3601",
    ),
    (
        Method::POST,
        "/sandboxes/{id}/refreshes",
        r#"{"duration":-1}"#,
        400,
        "not -1",
    ),
    (
        Method::PUT,
        "/sandboxes/{id}/network",
        r#"{"denyOut":["x"]}"#,
        400,
        "denied CIDR `x`",
    ),
    (
        Method::PUT,
        "/sandboxes/{id}/network",
        r#"{"egressProxy":{"address":"x"}}"#,
        501,
        "egressProxy",
    ),
    (Method::GET, "/v2/sandboxes?limit=0", "", 400, "`limit`"),
    (
        Method::GET,
        "/v2/sandboxes?limit=101",
        "",
        400,
        "from 1 to 100, not `101`",
    ),
    (Method::GET, "/v2/sandboxes?limit=x", "", 400, "`limit`"),
    (
        Method::GET,
        "/v2/sandboxes?state=dead",
        "",
        400,
        "running, paused",
    ),
    (Method::GET, "/v2/sandboxes?order=up", "", 400, "asc, desc"),
    (
        Method::GET,
        "/v2/sandboxes?nextToken=!!",
        "",
        400,
        "`nextToken`",
    ),
    (
        Method::GET,
        "/v2/sandboxes?startedAfter=soon",
        "",
        400,
        "`startedAfter`",
    ),
    (
        Method::GET,
        "/v2/sandboxes?metadata=%25ff%3D1",
        "",
        400,
        "`metadata`",
    ),
    (
        Method::GET,
        "/sandboxes/metrics",
        "",
        400,
        "`sandbox_ids` is missing",
    ),
    (
        Method::GET,
        "/sandboxes/metrics?sandbox_ids=..",
        "",
        400,
        "`sandbox_ids`",
    ),
    (
        Method::GET,
        "/v2/sandboxes/{id}/logs?limit=1001",
        "",
        400,
        "`limit`",
    ),
    (
        Method::GET,
        "/v2/sandboxes/{id}/logs?direction=up",
        "",
        400,
        "forward, backward",
    ),
    (
        Method::GET,
        "/v2/sandboxes/{id}/logs?level=loud",
        "",
        400,
        "debug, info, warn, error",
    ),
    (
        Method::GET,
        "/sandboxes/{id}/metrics?start=-1",
        "",
        400,
        "`start`",
    ),
    (
        Method::GET,
        "/sandboxes/{id}/metrics?start=9&end=1",
        "",
        400,
        "before",
    ),
    (
        Method::GET,
        "/templates/%00",
        "",
        400,
        "not a template id or name",
    ),
    (Method::GET, "/templates/unknown", "", 404, "unknown"),
    (Method::POST, "/api-keys", r#"{"name":""}"#, 400, "name"),
    (
        Method::POST,
        "/api-keys",
        r#"{"name":"a\u0000"}"#,
        400,
        "name",
    ),
];

#[tokio::test]
async fn wrong_ids_and_parameters_are_refused() {
    let world = World::new().await;
    let id = world.create_base().await;
    let logs = format!("/v2/sandboxes/{id}/logs");
    for (method, path, body, status, text) in BAD_REQUESTS {
        let path = path.replace("{id}", &id);
        refused(&world, method.clone(), &path, body, *status, text).await;
    }
    let search = format!("{logs}?search={}", "x".repeat(257));
    refused(&world, Method::GET, &search, "", 400, "`search`").await;
    let ids = vec!["iabc"; 101].join(",");
    let many = format!("/sandboxes/metrics?sandbox_ids={ids}");
    refused(&world, Method::GET, &many, "", 400, "maximum is 100").await;
    let detail = world
        .ask(Method::GET, &format!("/sandboxes/{id}"), "")
        .await;
    assert_eq!(detail.json["state"], "running", "nothing changed");
}

#[tokio::test]
async fn idempotency_keys_have_a_form() {
    let world = World::new().await;
    let long = "x".repeat(256);
    for key in ["", " ", "a b", "ä", &long] {
        let headers = [
            ("x-api-key", "e2b_0123456789abcdef0123456789abcdef01234567"),
            ("idempotency-key", key),
        ];
        let body = r#"{"templateID":"base"}"#;
        let answer = world
            .ask_as(&headers, Method::POST, "/v2/sandboxes", body)
            .await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{key:?}");
    }
    assert_eq!(world.node.running_count(), 0);
}
