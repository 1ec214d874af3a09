//! Addresses to listen on and to be reached at.

use std::io::ErrorKind;
use std::net::SocketAddr;

use atoll_proto::join_token::JoinToken;
use tokio::net::TcpListener;

/// # Errors
/// If nothing can listen there, with the way to mend it.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => anyhow::anyhow!(
                "{address} is in use; stop what listens there, or choose another with --listen"
            ),
            ErrorKind::AddrNotAvailable => anyhow::anyhow!(
                "{address} is no address of this machine; choose another with --listen"
            ),
            _ => anyhow::Error::new(error).context(format!("listen on {address}")),
        })
}

/// Refuses to let others give orders without showing a token.
///
/// # Errors
/// If others reach the address and there is no token.
pub(crate) fn demand_token(address: SocketAddr, token: Option<&JoinToken>) -> anyhow::Result<()> {
    anyhow::ensure!(
        token.is_some() || address.ip().is_loopback(),
        "{address} can be reached from other machines: give a join token with --join-token-file \
         or ATOLL_JOIN_TOKEN, or listen on a loopback address"
    );
    Ok(())
}

/// The address clients on this machine use: an unspecified one is no destination.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::from(([127, 0, 0, 1], address.port()));
    }
    address
}

/// `host:port` that others are told.
///
/// # Errors
/// If nobody said it and the listening address is no destination.
pub(crate) fn advertised(address: SocketAddr, given: Option<String>) -> anyhow::Result<String> {
    if let Some(given) = given {
        return Ok(given);
    }
    anyhow::ensure!(
        !address.ip().is_unspecified(),
        "{address} is no destination: give the address that others reach with --advertise"
    );
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_does_without_a_token() {
        let token = JoinToken::parse("0123456789abcdef").unwrap();
        for address in ["127.0.0.1:1", "[::1]:1"] {
            demand_token(address.parse().unwrap(), None).unwrap();
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            let address = address.parse().unwrap();
            let error = demand_token(address, None).unwrap_err().to_string();
            assert!(error.contains("--join-token-file"), "{error}");
            demand_token(address, Some(&token)).unwrap();
        }
    }
}
