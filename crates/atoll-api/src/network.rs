//! Network policies on the wire, and what makes one valid.
//!
//! The rules are E2B's: what is denied is an IP or CIDR; what is allowed may also be a domain, but
//! then everything else has to be denied, since a list of domains means nothing beside an open
//! door.

use std::net::IpAddr;

use atoll_core::network::NetworkPolicy;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::limit::{MAX_DOMAIN_LEN, MAX_NETWORK_ENTRIES};
use crate::query::shorten;

/// Denies everything: the SDKs call it `ALL_TRAFFIC`.
const ALL_TRAFFIC: &str = "0.0.0.0/0";

/// The lists as the `.proto` names them.
const ALLOW_OUT: &str = "network.allow_out";
const DENY_OUT: &str = "network.deny_out";

/// The `network` part of a create request.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkDto {
    pub(crate) allow_public_traffic: Option<bool>,
    pub(crate) mask_request_host: Option<String>,
    #[serde(flatten)]
    pub(crate) egress: EgressDto,
}

/// What a sandbox may reach: part of create, and the body of `PUT …/network`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EgressDto {
    allow_out: Option<Vec<String>>,
    deny_out: Option<Vec<String>>,
    egress_proxy: Option<Value>,
    rules: Option<Map<String, Value>>,
    https_ports: Option<Vec<Value>>,
    dns_servers: Option<Vec<Value>>,
}

/// The body of `PUT …/network`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct NetworkUpdateDto {
    #[serde(rename = "allow_internet_access", alias = "allowInternetAccess")]
    allow_internet_access: Option<bool>,
    #[serde(flatten)]
    egress: EgressDto,
}

/// A policy as it is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkShown {
    allow_public_traffic: bool,
    allow_out: Vec<String>,
    deny_out: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask_request_host: Option<String>,
}

impl From<&NetworkPolicy> for NetworkShown {
    fn from(policy: &NetworkPolicy) -> Self {
        Self {
            allow_public_traffic: policy.public_traffic,
            allow_out: policy.allow_out.clone(),
            deny_out: policy.deny_out.clone(),
            mask_request_host: policy.mask_request_host.clone(),
        }
    }
}

impl NetworkDto {
    /// The policy of a new sandbox.
    ///
    /// # Errors
    /// 400 for what is malformed or contradicts itself, 501 for what this version cannot do.
    pub(crate) fn into_policy(
        self,
        internet_access: Option<bool>,
        is_secured: bool,
    ) -> Result<NetworkPolicy, ApiError> {
        let public_traffic = self.allow_public_traffic.unwrap_or(true);
        if !public_traffic && !is_secured {
            return Err(ApiError::validation(
                "`network.allowPublicTraffic` can only be false for a sandbox made with `secure`",
            )
            .at("network.public_traffic"));
        }
        if let Some(host) = &self.mask_request_host {
            check_mask(host)?;
        }
        let (allow_out, deny_out) = self.egress.into_lists()?;
        Ok(NetworkPolicy {
            internet_access: internet_access.unwrap_or(true),
            allow_out,
            deny_out,
            public_traffic,
            mask_request_host: self.mask_request_host,
        })
    }
}

impl NetworkUpdateDto {
    /// The policy that replaces a running sandbox's egress; its ingress part is not read.
    ///
    /// # Errors
    /// As [`NetworkDto::into_policy`].
    pub(crate) fn into_policy(self) -> Result<NetworkPolicy, ApiError> {
        let (allow_out, deny_out) = self.egress.into_lists()?;
        Ok(NetworkPolicy {
            internet_access: self.allow_internet_access.unwrap_or(true),
            allow_out,
            deny_out,
            ..NetworkPolicy::default()
        })
    }
}

impl EgressDto {
    /// Lists and nothing else.
    pub(crate) fn of(allow_out: Vec<String>, deny_out: Vec<String>) -> Self {
        Self {
            allow_out: Some(allow_out),
            deny_out: Some(deny_out),
            ..Self::default()
        }
    }

    fn into_lists(self) -> Result<(Vec<String>, Vec<String>), ApiError> {
        self.refuse_unsupported()?;
        let allow = self.allow_out.unwrap_or_default();
        let deny = self.deny_out.unwrap_or_default();
        for (name, field, list) in [
            ("allowOut", ALLOW_OUT, &allow),
            ("denyOut", DENY_OUT, &deny),
        ] {
            if list.len() > MAX_NETWORK_ENTRIES {
                return Err(ApiError::validation(format_args!(
                    "`{name}` has {} entries, at most {MAX_NETWORK_ENTRIES} are allowed",
                    list.len()
                ))
                .at(field));
            }
        }
        if let Some(entry) = deny.iter().find(|entry| !is_ip_or_cidr(entry)) {
            return Err(ApiError::validation(format_args!(
                "invalid denied CIDR `{}`: it must be an IP address or a CIDR",
                shorten(entry)
            ))
            .at(DENY_OUT));
        }
        let mut has_domains = false;
        for entry in &allow {
            if is_ip_or_cidr(entry) {
                continue;
            }
            if !is_domain(entry) {
                return Err(ApiError::validation(format_args!(
                    "invalid allowed address `{}`: it must be an IP address, a CIDR or a domain",
                    shorten(entry)
                ))
                .at(ALLOW_OUT));
            }
            has_domains = true;
        }
        if has_domains && !deny.iter().any(|entry| entry == ALL_TRAFFIC) {
            return Err(ApiError::validation(
                "`allowOut` contains domains: you must include 'ALL_TRAFFIC' in deny out to block \
                 all other traffic.",
            )
            .at(ALLOW_OUT));
        }
        Ok((allow, deny))
    }

    fn refuse_unsupported(&self) -> Result<(), ApiError> {
        let is_used = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|l| !l.is_empty());
        let asked = [
            ("egressProxy", self.egress_proxy.is_some()),
            (
                "rules",
                self.rules.as_ref().is_some_and(|rules| !rules.is_empty()),
            ),
            ("httpsPorts", is_used(&self.https_ports)),
            ("dnsServers", is_used(&self.dns_servers)),
        ];
        match asked.iter().find(|(_, is_asked)| *is_asked) {
            Some((name, _)) => Err(ApiError::unsupported(&format!("network option `{name}`"))),
            None => Ok(()),
        }
    }
}

fn is_ip_or_cidr(text: &str) -> bool {
    match text.split_once('/') {
        // The unspecified address alone says nothing; as a network it says everything.
        None => text.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified()),
        Some((ip, prefix)) => {
            let max = match ip.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => 32,
                Ok(IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            prefix.bytes().all(|b| b.is_ascii_digit())
                && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= max)
        }
    }
}

fn is_domain(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    // All digits and dots is a mistyped address, not a name.
    let has_letter = name.bytes().any(|b| b.is_ascii_alphabetic());
    text.len() <= MAX_DOMAIN_LEN && has_letter && name.split('.').all(is_label)
}

fn check_mask(host: &str) -> Result<(), ApiError> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let is_port = |port: &str| port == "${PORT}" || port.parse::<u16>().is_ok();
    let is_name = |name: &str| is_domain(name) || name.parse::<IpAddr>().is_ok();
    // The placeholder may also be part of the name.
    if is_name(&name.replace("${PORT}", "1")) && port.is_none_or(is_port) {
        return Ok(());
    }
    Err(ApiError::validation(format_args!(
        "mask request host is not valid: `{}`",
        shorten(host)
    ))
    .at("network.mask_request_host"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(json: &str) -> Result<NetworkPolicy, ApiError> {
        let dto: NetworkDto = serde_json::from_str(json).unwrap();
        dto.into_policy(None, true)
    }

    #[test]
    fn valid_policies_pass_unchanged() {
        let policy = policy(
            r#"{"allowOut":["1.1.1.1","*.example.org","10.0.0.0/8","2001:db8::/32"],
                "denyOut":["0.0.0.0/0"],"allowPublicTraffic":false,
                "maskRequestHost":"localhost:${PORT}","rules":{},"unknown":1}"#,
        )
        .unwrap();
        assert_eq!(policy.allow_out.len(), 4);
        assert_eq!(policy.deny_out, ["0.0.0.0/0"]);
        assert!(!policy.public_traffic && policy.internet_access);
    }

    #[test]
    fn contradictions_and_malformed_entries_are_refused() {
        for json in [
            r#"{"denyOut":["example.org"]}"#,
            r#"{"denyOut":["1.2.3.4/33"]}"#,
            r#"{"denyOut":["1.2.3.4/+8"]}"#,
            r#"{"denyOut":["0.0.0.0"]}"#,
            r#"{"allowOut":["exa mple"],"denyOut":["0.0.0.0/0"]}"#,
            r#"{"allowOut":["300.1.1.1"],"denyOut":["0.0.0.0/0"]}"#,
            r#"{"allowOut":["example.org"]}"#,
            r#"{"allowOut":["example.org"],"denyOut":["8.8.8.8"]}"#,
            r#"{"maskRequestHost":"a b"}"#,
            r#"{"maskRequestHost":"a:99999"}"#,
            r#"{"maskRequestHost":"a\r\nx: y"}"#,
        ] {
            let error = policy(json).unwrap_err();
            assert_eq!(error.status(), 400, "{json}");
        }
        let dto: NetworkDto = serde_json::from_str(r#"{"allowPublicTraffic":false}"#).unwrap();
        assert_eq!(dto.into_policy(None, false).unwrap_err().status(), 400);
    }

    #[test]
    fn what_cannot_be_done_is_not_accepted() {
        for json in [
            r#"{"egressProxy":{"address":"socks5://x"}}"#,
            r#"{"rules":{"example.org":[]}}"#,
            r#"{"httpsPorts":[8443]}"#,
            r#"{"dnsServers":["1.1.1.1"]}"#,
        ] {
            assert_eq!(policy(json).unwrap_err().status(), 501, "{json}");
        }
    }
}
