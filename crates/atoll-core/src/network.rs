//! A sandbox's network policy: what it may reach, and who may reach it.

/// What a sandbox may reach, and who may reach it.
///
/// Entries are kept as the client wrote them (IP, CIDR or domain), already validated by the API.
/// `allow_out` beats `deny_out`; ranges internal to the operator's network are denied whatever
/// stands here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// `false` denies all egress, except what `allow_out` lists.
    pub internet_access: bool,
    /// IPs, CIDRs or domains (`*.example.org`) the sandbox may reach.
    pub allow_out: Vec<String>,
    /// IPs or CIDRs the sandbox may not reach.
    pub deny_out: Vec<String>,
    /// Whether its ports may be reached without the traffic token.
    pub public_traffic: bool,
    /// Rewrites the Host header of inbound requests; `${PORT}` stands for the port.
    pub mask_request_host: Option<String>,
}

impl Default for NetworkPolicy {
    fn default() -> Self {
        Self {
            internet_access: true,
            allow_out: Vec::new(),
            deny_out: Vec::new(),
            public_traffic: true,
            mask_request_host: None,
        }
    }
}
