//! The specifications as tests read them, and a validator of what they can say.

use std::sync::LazyLock;

use http::Method;
use serde_json::Value;

const E2B: &str = include_str!("../../../../spec/openapi.yml");
const ADMIN: &str = include_str!("../../../../spec/openapi-admin.yml");
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// One specification.
pub(crate) struct Spec(pub(crate) Value);

/// One operation of a specification.
pub(crate) struct Operation<'a> {
    spec: &'a Spec,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) value: &'a Value,
}

pub(crate) fn e2b() -> &'static Spec {
    static PARSED: LazyLock<Spec> = LazyLock::new(|| Spec(serde_norway::from_str(E2B).unwrap()));
    &PARSED
}

pub(crate) fn admin() -> &'static Spec {
    static PARSED: LazyLock<Spec> = LazyLock::new(|| Spec(serde_norway::from_str(ADMIN).unwrap()));
    &PARSED
}

impl Spec {
    pub(crate) fn operations(&self) -> Vec<Operation<'_>> {
        let mut operations = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for method in METHODS {
                if let Some(value) = item.get(method) {
                    operations.push(Operation {
                        spec: self,
                        method: method.to_uppercase().parse().unwrap(),
                        path: path.clone(),
                        value,
                    });
                }
            }
        }
        operations
    }

    /// The operation a request would reach; the one with the fewest variables wins.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Option<Operation<'_>> {
        let matching = self
            .operations()
            .into_iter()
            .filter(|operation| operation.method == *method && matches(&operation.path, path));
        matching.min_by_key(|operation| operation.path.matches('{').count())
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value.get("$ref").and_then(Value::as_str) {
            Some(reference) => self
                .0
                .pointer(reference.strip_prefix('#').unwrap())
                .unwrap(),
            None => value,
        }
    }

    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = self.resolve(schema);
        if value.is_null() && schema["nullable"] == true {
            return Ok(());
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            return Err(format!("{at}: {value} is none of {words:?}"));
        }
        match schema["type"].as_str() {
            None => Ok(()),
            Some("object") => self.check_object(schema, value, at),
            Some("array") => {
                let items = value
                    .as_array()
                    .ok_or_else(|| format!("{at}: no array: {value}"))?;
                items.iter().enumerate().try_for_each(|(n, item)| {
                    self.check(&schema["items"], item, &format!("{at}[{n}]"))
                })
            }
            Some("string") if schema["format"] == "date-time" => {
                let is_time = value
                    .as_str()
                    .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok());
                is_time
                    .then_some(())
                    .ok_or_else(|| format!("{at}: no time: {value}"))
            }
            Some(kind) => {
                let is_kind = match kind {
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    other => return Err(format!("{at}: unknown type {other} in the schema")),
                };
                is_kind
                    .then_some(())
                    .ok_or_else(|| format!("{at}: no {kind}: {value}"))
            }
        }
    }

    fn check_object(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let object = value
            .as_object()
            .ok_or_else(|| format!("{at}: no object: {value}"))?;
        for name in schema["required"].as_array().into_iter().flatten() {
            if !object.contains_key(name.as_str().unwrap()) {
                return Err(format!("{at}: {name} is missing"));
            }
        }
        for (name, value) in object {
            let at = format!("{at}.{name}");
            if let Some(property) = schema["properties"].get(name) {
                self.check(property, value, &at)?;
            } else if let Some(additional) = schema.get("additionalProperties") {
                self.check(additional, value, &at)?;
            } else if schema.get("properties").is_some() {
                return Err(format!("{at}: not in the schema"));
            }
        }
        Ok(())
    }
}

impl Operation<'_> {
    /// Whether the answer is one the specification promises.
    pub(crate) fn check(&self, status: u16, body: Option<&Value>) -> Result<(), String> {
        let responses = &self.value["responses"];
        let response = responses
            .get(status.to_string())
            .ok_or_else(|| format!("status {status} is not in the specification"))?;
        let schema = &self.spec.resolve(response)["content"]["application/json"]["schema"];
        match (schema.is_null(), body) {
            (true, None) => Ok(()),
            (true, Some(body)) => Err(format!("unexpected body {body}")),
            (false, None) => Err("no body".to_owned()),
            (false, Some(body)) => self.spec.check(schema, body, "body"),
        }
    }

    /// Whether it is the operator's, also where it stands among the teams' operations.
    pub(crate) fn is_operators(&self) -> bool {
        let ways = self.value["security"].as_array();
        ways.is_some_and(|ways| ways.iter().any(|way| !way["AdminToken"].is_null()))
    }

    /// The path with something in the place of each variable.
    pub(crate) fn path_with(&self, id: &str) -> String {
        filled(&self.path, id)
    }
}

/// A path with something in the place of each variable.
pub(crate) fn filled(path: &str, id: &str) -> String {
    let mut path = path.to_owned();
    while let Some((head, rest)) = path.split_once('{') {
        let tail = rest.split_once('}').unwrap().1;
        path = format!("{head}{id}{tail}");
    }
    path
}

fn matches(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(want), Some(give)) if want == give => {}
            (Some(want), Some(give)) if want.starts_with('{') && !give.is_empty() => {}
            _ => return false,
        }
    }
}
